import numpy as np
import pytest
import torch

from titan_neuro.errors import ImageError, MismatchError, TitanNeuroError
from titan_neuro.metrics import score_run
from titan_neuro.runs import InMemoryRun


class Counting:
    """Forecasts ``present time_point + number of series seen``: needs its state, and spoils its input."""

    name = "counting"
    horizons = (1, 4)

    def init_state(self):
        return 0

    def step(self, series, state):
        seen = state + 1 + torch.arange(len(series))
        forecasts = (series + seen[:, None])[:, None].repeat(1, 2, 1)
        series.zero_()
        return forecasts, state + len(series)


@pytest.fixture
def stimulus_run():
    scored = np.ones(50, dtype=bool)
    scored[:10] = scored[30:33] = False
    return InMemoryRun(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), scored)


@pytest.mark.parametrize("block_time_points", [1, 7, 64])
def test_every_scored_frame_counts_once_at_every_horizon(stimulus_run, block_time_points):
    statistics, high_motion = score_run([Counting()], stimulus_run, block_time_points)
    assert high_motion is None
    assert statistics.n_time_points.tolist() == [37, 37]
    series = stimulus_run.series.double()
    for index, horizon in enumerate(Counting.horizons):
        expected = sum(
            (series[s] - (series[s - horizon] + s - horizon + 1)) ** 2
            for s in range(horizon, 50)
            if stimulus_run.scored[s]
        )
        np.testing.assert_allclose(statistics.squared_error[index, 0], expected, rtol=1e-6)


def test_scored_frames_too_near_the_beginning_are_no_targets(stimulus_run):
    stimulus_run.scored[:] = True
    assert score_run([Counting()], stimulus_run, 8)[0].n_time_points.tolist() == [49, 46]


@pytest.mark.parametrize("block_time_points", [1, 7, 64])
def test_frames_at_which_the_head_moved_are_summed_up_apart(stimulus_run, block_time_points):
    stimulus_run.high_motion[[2, 12, 20, 31]] = True
    still, high_motion = score_run([Counting()], stimulus_run, block_time_points)
    # Time points 2 and 31 are not scored.
    assert still.n_time_points.tolist() == [35, 35]
    assert high_motion.n_time_points.tolist() == [2, 2]
    series = stimulus_run.series.double()
    for index, horizon in enumerate(Counting.horizons):
        expected = sum((series[s] - (series[s - horizon] + s - horizon + 1)) ** 2 for s in (12, 20))
        np.testing.assert_allclose(high_motion.squared_error[index, 0], expected, rtol=1e-6)


def test_a_run_that_begins_later_is_the_run_without_its_beginning(stimulus_run):
    stimulus_run.high_motion[[12, 20]] = True
    rest = InMemoryRun(stimulus_run.series[14:], stimulus_run.scored[14:], high_motion=stimulus_run.high_motion[14:])
    for later, cut in zip(score_run([Counting()], stimulus_run, 8, 14), score_run([Counting()], rest, 8), strict=True):
        for name, value in vars(later).items():
            np.testing.assert_array_equal(value, getattr(cut, name))


def test_a_run_all_in_motion_has_nothing_to_score(stimulus_run):
    stimulus_run.high_motion[20:] = True
    with pytest.raises(
        ImageError, match=r"37 scored time points \(27 of them with head motion, scored apart\) lies 4 time points"
    ):
        score_run([Counting()], stimulus_run, 8, 18)


@pytest.mark.parametrize("scored", [slice(0, 4), slice(0, 0)])
def test_a_run_with_nothing_to_score_at_a_horizon_is_refused(stimulus_run, scored):
    stimulus_run.scored[:] = False
    stimulus_run.scored[scored] = True
    with pytest.raises(ImageError, match="sub-01_task-movie_run-02"):
        score_run([Counting()], stimulus_run, 8)


def test_a_run_shorter_than_the_horizon_is_refused():
    with pytest.raises(ImageError, match="the run has 4 time points"):
        score_run([Counting()], InMemoryRun(torch.zeros(4, 3), np.ones(4, dtype=bool)), 8)


class NotFiniteAt17(Counting):
    def step(self, series, state):
        forecasts, after = super().step(series, state)
        if state <= 17 < after:
            forecasts[17 - state, 1, 2] = float("inf")
        return forecasts, after


def test_a_forecast_that_is_not_finite_is_named_by_model_run_and_frame(stimulus_run):
    with pytest.raises(TitanNeuroError, match=r"sub-01_task-movie_run-02: model counting .* at time point 17 "):
        score_run([NotFiniteAt17()], stimulus_run, 8)


def test_the_frame_that_is_named_is_one_of_the_run(stimulus_run):
    with pytest.raises(TitanNeuroError, match="at time point 27 "):
        score_run([NotFiniteAt17()], stimulus_run, 8, 10)


class WrongShape(Counting):
    def step(self, series, state):
        forecasts, after = super().step(series, state)
        return forecasts[:, :1], after


def test_a_forecast_of_another_shape_is_refused(stimulus_run):
    with pytest.raises(MismatchError, match=r"counting.*\(8, 1, 3\), expected \(8, 2, 3\)"):
        score_run([WrongShape()], stimulus_run, 8)
