"""Averages of what several subjects were shown, against frames laid side by side by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from film_runs import as_run
from in_memory import InMemoryRun

from titan_neuro.errors import MismatchError, TrainingError
from titan_neuro.ops.films import average_films

# (subject, stimulus, length, first scored frame); the second film has one viewer.
SHAPES = [("01", "task-b", 610, 4), ("02", "task-b", 580, 10), ("03", "task-b", 590, 4), ("01", "task-a", 300, 7)]


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    return [
        as_run(rng.normal(size=(length, 5)), f"sub-{subject}_{stimulus}", lead)
        for subject, stimulus, length, lead in SHAPES
    ]


def laid_out(runs):
    """Frames ``(runs, time, features)``, the first scored ones side by side, NaN where a run was not."""
    starts = [int(run.scored.argmax()) for run in runs]
    table = np.full((len(runs), max(run.n_frames - start for run, start in zip(runs, starts, strict=True)), 5), np.nan)
    for row, run, start in zip(table, runs, starts, strict=True):
        row[: run.n_frames - start] = run.frames[start:]
    return table


@pytest.mark.parametrize("every", [1, 3, 7])
def test_runs_of_a_stimulus_are_averaged_from_their_first_scored_frames_on(runs, every):
    films = average_films(runs, every=every)
    assert [film.stimulus for film in films] == ["task-a", "task-b"]
    for film, members in ((films[0], runs[3:]), (films[1], runs[:3])):
        table = laid_out(members)[:, ::every]
        np.testing.assert_allclose(film.frames, np.nanmean(table, axis=0), atol=1e-6)
        assert np.array_equal(film.n_runs, np.isfinite(table[..., 0]).sum(0))
        assert film.scored.all()


def test_what_can_not_be_averaged_is_refused(runs):
    with pytest.raises(TrainingError, match="sub-09_task-b: has no scored frame"):
        average_films([*runs, as_run(np.zeros((20, 5)), "sub-09_task-b", lead=20)])
    with pytest.raises(MismatchError, match="sub-09_task-b"):
        average_films([*runs, as_run(np.zeros((20, 4)), "sub-09_task-b")])


def shown(subject, frames, lead, scored=None):
    """A run of the film, the first frame of which is frame `lead` of the run; before it there is nothing but 50."""
    frames = torch.cat([torch.full((lead, frames.shape[1]), 50.0), frames])
    scored = np.arange(len(frames)) >= lead if scored is None else scored
    return InMemoryRun(frames, scored, f"sub-{subject}_task-film", subject, "task-film", film_start=lead)


@pytest.fixture
def frames():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def test_the_average_holds_each_frame_of_the_film_in_its_place(frames):
    (film,) = average_films([shown("01", frames, 7), shown("02", -3 * frames[:30], 4)])
    # What came before the film began is no part of it.
    torch.testing.assert_close(film.frames[:30], -frames[:30])
    torch.testing.assert_close(film.frames[30:], frames[30:])
    assert film.n_runs.tolist() == [2] * 30 + [1] * 10
    assert film.scored.all()


@pytest.mark.parametrize("unscored", [[7], [7, 8, 9], [7, 30]])
def test_frames_that_are_not_scored_do_not_shift_the_film(frames, unscored):
    whole = shown("01", frames, 7)
    scored = whole.scored.copy()
    scored[unscored] = False
    scrubbed = dataclasses.replace(whole, scored=scored)
    others = [shown("02", frames, 4), shown("03", frames, 9)]
    (expected,), (found,) = average_films([whole, *others]), average_films([scrubbed, *others])
    assert torch.equal(found.frames, expected.frames)
    torch.testing.assert_close(found.frames, frames)


def test_a_film_of_which_nothing_is_scored_is_refused(frames):
    with pytest.raises(TrainingError, match="sub-01_task-film: has no scored frame"):
        average_films([shown("01", frames, 7, np.zeros(47, dtype=bool))])
