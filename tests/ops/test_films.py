"""Averages of what several subjects were shown."""

import dataclasses

import numpy as np
import pytest
import torch
from in_memory import InMemoryRun

from titan_neuro.errors import TrainingError
from titan_neuro.ops.films import average_films


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
    assert film.start == 4
    torch.testing.assert_close(film.frames[:4], torch.full((4, 3), 50.0))
    torch.testing.assert_close(film.frames[4:34], -frames[:30])
    torch.testing.assert_close(film.frames[34:], frames[30:])
    assert film.n_runs.tolist() == [2] * 34 + [1] * 10
    assert film.scored.tolist() == [False] * 4 + [True] * 40


@pytest.mark.parametrize("unscored", [[7], [7, 8, 9], [7, 30]])
def test_frames_that_are_not_scored_do_not_shift_the_film(frames, unscored):
    whole = shown("01", frames, 7)
    scored = whole.scored.copy()
    scored[unscored] = False
    scrubbed = dataclasses.replace(whole, scored=scored)
    others = [shown("02", frames, 4), shown("03", frames, 9)]
    (expected,), (found,) = average_films([whole, *others]), average_films([scrubbed, *others])
    assert found.start == expected.start == 4
    assert torch.equal(found.frames, expected.frames)
    torch.testing.assert_close(found.frames[4:], frames)


def test_a_film_of_which_nothing_is_scored_is_refused(frames):
    with pytest.raises(TrainingError, match="sub-01_task-film: has no scored frame"):
        average_films([shown("01", frames, 7, np.zeros(47, dtype=bool))])
