"""Averages of what several subjects were shown, against time points laid side by side by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from stimulus_runs import as_run

from titan_neuro.errors import MismatchError, TrainingError
from titan_neuro.linear.stimulus_average import average_over_subjects
from titan_neuro.runs import InMemoryRun

# (subject, stimulus, length, first scored time point); the second stimulus has one viewer.
SHAPES = [("01", "task-b", 610, 4), ("02", "task-b", 580, 10), ("03", "task-b", 590, 4), ("01", "task-a", 300, 7)]


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    return [
        as_run(rng.normal(size=(length, 5)), f"sub-{subject}_{stimulus}", lead)
        for subject, stimulus, length, lead in SHAPES
    ]


def laid_out(runs):
    """Time points ``(runs, time, features)``, the first scored ones side by side, NaN where a run was not."""
    starts = [int(run.scored.argmax()) for run in runs]
    table = np.full(
        (len(runs), max(run.n_time_points - start for run, start in zip(runs, starts, strict=True)), 5), np.nan
    )
    for row, run, start in zip(table, runs, starts, strict=True):
        row[: run.n_time_points - start] = run.series[start:]
    return table


@pytest.mark.parametrize("every", [1, 3, 7])
def test_runs_are_averaged_from_the_start_of_the_stimulus(runs, every):
    stimuli = average_over_subjects(runs, every=every)
    assert [stimulus.stimulus for stimulus in stimuli] == ["task-a", "task-b"]
    for stimulus, members in ((stimuli[0], runs[3:]), (stimuli[1], runs[:3])):
        table = laid_out(members)[:, ::every]
        np.testing.assert_allclose(stimulus.series, np.nanmean(table, axis=0), atol=1e-6)
        assert np.array_equal(stimulus.n_runs, np.isfinite(table[..., 0]).sum(0))
        assert stimulus.scored.all()


def test_runs_that_cannot_be_averaged_are_refused(runs):
    with pytest.raises(TrainingError, match="sub-09_task-b: has no scored time point"):
        average_over_subjects([*runs, as_run(np.zeros((20, 5)), "sub-09_task-b", lead=20)])
    with pytest.raises(MismatchError, match="sub-09_task-b"):
        average_over_subjects([*runs, as_run(np.zeros((20, 4)), "sub-09_task-b")])


def shown(subject, series, lead, scored=None):
    """A run of the stimulus, the first time point of which is time point `lead` of the run; before it there is nothing
    but 50.
    """
    series = torch.cat([torch.full((lead, series.shape[1]), 50.0), series])
    scored = np.arange(len(series)) >= lead if scored is None else scored
    return InMemoryRun(series, scored, f"sub-{subject}_task-film", subject, "task-film", stimulus_start=lead)


@pytest.fixture
def series():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def test_the_average_has_each_time_point_in_place(series):
    (stimulus,) = average_over_subjects([shown("01", series, 7), shown("02", -3 * series[:30], 4)])
    # What came before the stimulus began is no part of it.
    torch.testing.assert_close(stimulus.series[:30], -series[:30])
    torch.testing.assert_close(stimulus.series[30:], series[30:])
    assert stimulus.n_runs.tolist() == [2] * 30 + [1] * 10
    assert stimulus.scored.all()


@pytest.mark.parametrize("unscored", [[7], [7, 8, 9], [7, 30]])
def test_unscored_time_points_do_not_shift_the_stimulus(series, unscored):
    whole = shown("01", series, 7)
    scored = whole.scored.copy()
    scored[unscored] = False
    scrubbed = dataclasses.replace(whole, scored=scored)
    others = [shown("02", series, 4), shown("03", series, 9)]
    (expected,), (found,) = average_over_subjects([whole, *others]), average_over_subjects([scrubbed, *others])
    assert torch.equal(found.series, expected.series)
    torch.testing.assert_close(found.series, series)


def test_a_stimulus_without_scored_time_points_is_refused(series):
    with pytest.raises(TrainingError, match="sub-01_task-film: has no scored time point"):
        average_over_subjects([shown("01", series, 7, np.zeros(47, dtype=bool))])
