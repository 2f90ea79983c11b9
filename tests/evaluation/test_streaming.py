import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch

from titan_neuro.errors import ImageError, MismatchError, TitanNeuroError
from titan_neuro.evaluation.streaming import score_run
from titan_neuro.runs import InMemoryRun


class Counting:
    """Forecasts the present plus the number of time points read so far, and overwrites its input."""

    name = "counting"
    horizons = (1, 4)

    def init_state(self):
        return 0

    def step(self, series, state):
        n_read = state + 1 + torch.arange(len(series))
        forecasts = (series + n_read[:, None])[:, None].repeat(1, 2, 1)
        series.zero_()
        return forecasts, state + len(series)


@pytest.fixture
def stimulus_run():
    scored = np.ones(50, dtype=bool)
    scored[:10] = scored[30:33] = False
    return InMemoryRun(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), scored)


@pytest.mark.parametrize("block_time_points", [1, 7, 64])
def test_each_target_counts_once_per_lead_time(stimulus_run, block_time_points):
    sums = score_run([Counting()], stimulus_run, block_time_points)
    assert sums.high_motion is None
    statistics = sums.low_motion
    assert statistics.n_time_points.tolist() == [37, 37]
    series = stimulus_run.series.double()
    for index, horizon in enumerate(Counting.horizons):
        expected = sum(
            (series[s] - (series[s - horizon] + s - horizon + 1)) ** 2
            for s in range(horizon, 50)
            if stimulus_run.scored[s]
        )
        np.testing.assert_allclose(statistics.squared_error[index, 0], expected, rtol=1e-6)


def test_targets_lie_a_lead_time_into_the_run(stimulus_run):
    stimulus_run.scored[:] = True
    assert score_run([Counting()], stimulus_run, 8).low_motion.n_time_points.tolist() == [49, 46]


@pytest.mark.parametrize("block_time_points", [1, 7, 64])
def test_high_motion_targets_are_summed_separately(stimulus_run, block_time_points):
    stimulus_run.high_motion[[2, 12, 20, 31]] = True
    sums = score_run([Counting()], stimulus_run, block_time_points)
    # Time points 2 and 31 are not scored.
    assert sums.low_motion.n_time_points.tolist() == [35, 35]
    assert sums.high_motion.n_time_points.tolist() == [2, 2]
    series = stimulus_run.series.double()
    for index, horizon in enumerate(Counting.horizons):
        expected = sum((series[s] - (series[s - horizon] + s - horizon + 1)) ** 2 for s in (12, 20))
        np.testing.assert_allclose(sums.high_motion.squared_error[index, 0], expected, rtol=1e-6)


def test_an_offset_equals_cutting_off_the_beginning(stimulus_run):
    stimulus_run.high_motion[[12, 20]] = True
    rest = InMemoryRun(stimulus_run.series[14:], stimulus_run.scored[14:], high_motion=stimulus_run.high_motion[14:])
    later, expected = score_run([Counting()], stimulus_run, 8, 14), score_run([Counting()], rest, 8)
    for motion in ("low_motion", "high_motion"):
        for name, value in vars(getattr(later, motion)).items():
            np.testing.assert_array_equal(value, getattr(getattr(expected, motion), name))


def test_a_run_of_high_motion_is_refused(stimulus_run):
    stimulus_run.high_motion[20:] = True
    with pytest.raises(
        ImageError, match=r"37 scored time points \(27 of them with high motion, scored separately\) lies 4 time points"
    ):
        score_run([Counting()], stimulus_run, 8, 18)


@pytest.mark.parametrize("scored", [slice(0, 4), slice(0, 0)])
def test_a_run_without_targets_is_refused(stimulus_run, scored):
    stimulus_run.scored[:] = False
    stimulus_run.scored[scored] = True
    with pytest.raises(ImageError, match="sub-01_task-movie_run-02"):
        score_run([Counting()], stimulus_run, 8)


def test_runs_shorter_than_the_lead_time_are_refused():
    with pytest.raises(ImageError, match="the run has 4 time points"):
        score_run([Counting()], InMemoryRun(torch.zeros(4, 3), np.ones(4, dtype=bool)), 8)


class NotFiniteAt17(Counting):
    def step(self, series, state):
        forecasts, after = super().step(series, state)
        if state <= 17 < after:
            forecasts[17 - state, 1, 2] = float("inf")
        return forecasts, after


def test_non_finite_forecasts_name_model_and_run(stimulus_run):
    with pytest.raises(TitanNeuroError, match=r"sub-01_task-movie_run-02: model counting .* at time point 17 "):
        score_run([NotFiniteAt17()], stimulus_run, 8)


def test_reported_time_point_counts_from_the_run_start(stimulus_run):
    with pytest.raises(TitanNeuroError, match="at time point 27 "):
        score_run([NotFiniteAt17()], stimulus_run, 8, 10)


class WrongShape(Counting):
    def step(self, series, state):
        forecasts, after = super().step(series, state)
        return forecasts[:, :1], after


def test_a_forecast_of_wrong_shape_is_refused(stimulus_run):
    with pytest.raises(MismatchError, match=r"counting.*\(8, 1, 3\), expected \(8, 2, 3\)"):
        score_run([WrongShape()], stimulus_run, 8)


class Released(Counting):
    """Refuses to forecast while forecasts of an earlier row are held."""

    held: ClassVar[list[weakref.ref]] = []

    def step(self, series, state):
        assert not any(reference() is not None for reference in self.held)
        forecasts, after = super().step(series, state)
        self.held[:] = [weakref.ref(forecasts)]
        return forecasts, after


def test_one_rows_forecasts_are_held_at_a_time(stimulus_run):
    rows = [Released(), Released(), Released()]
    sums = score_run(rows, stimulus_run, 8).low_motion
    alone = score_run([Counting()], stimulus_run, 8).low_motion
    for row in range(3):
        np.testing.assert_array_equal(sums.squared_error[:, row], alone.squared_error[:, 0])
        np.testing.assert_array_equal(sums.pattern_z[:, row], alone.pattern_z[:, 0])
