"""What the film did to the training subjects together: their average, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.ops.lagged_moments import common_n_features
from titan_neuro.typing import FrameRun

__all__ = ["Film", "average_films"]

_BLOCK_FRAMES = 256


@dataclass(frozen=True, eq=False)
class Film:
    """Average of the runs of one stimulus.

    Attributes
    ----------
    stimulus : str
        See :class:`titan_neuro.typing.FrameRun`.
    frames : torch.Tensor
        float32 ``(time, features)``, the first of them the one at which the stimulus begins.
    scored : torch.Tensor
        bool ``(time,)``: scored in at least one run.
    n_runs : torch.Tensor
        int64 ``(time,)``: runs that lasted so long.
    """

    stimulus: str
    frames: Tensor
    scored: Tensor
    n_runs: Tensor


def average_films(runs: Sequence[FrameRun], *, every: int = 1) -> list[Film]:
    """Average the runs of each stimulus from where it begins.

    What a run holds before belongs to no film that is known: a fixation, or the end of the part of the film that was
    shown in the run before, which may be held out.

    Parameters
    ----------
    runs : sequence of FrameRun
        Training runs, of any number of subjects and stimuli.
    every : int
        Average every so many frames alone, at least 1.

    Returns
    -------
    list of Film
        One for each stimulus, by name.

    Raises
    ------
    MismatchError
        The runs differ in their number of features.
    TrainingError
        No run; a run without a scored frame.
    """
    n_features = common_n_features(runs)
    by_stimulus: dict[str, list[FrameRun]] = {}
    for run in runs:
        if not run.scored.any():
            raise TrainingError(f"{run.key}: has no scored frame.", "Check the events that mark scored frames.")
        by_stimulus.setdefault(run.stimulus, []).append(run)
    return [_average(by_stimulus[stimulus], n_features, every) for stimulus in sorted(by_stimulus)]


def _average(runs: Sequence[FrameRun], n_features: int, every: int) -> Film:
    length = -(-max(run.n_frames - run.film_start for run in runs) // every)
    total = torch.zeros(length, n_features, dtype=torch.float64)
    n_runs = torch.zeros(length, dtype=torch.int64)
    scored = torch.zeros(length, dtype=torch.bool)
    block = every * max(1, _BLOCK_FRAMES // every)
    for run in runs:
        for start in range(run.film_start, run.n_frames, block):
            frames = run.read(start, min(start + block, run.n_frames))[::every]
            first = (start - run.film_start) // every
            place = slice(first, first + len(frames))
            total[place] += frames
            n_runs[place] += 1
            scored[place] |= torch.as_tensor(run.scored[start : start + block : every])
    return Film(runs[0].stimulus, (total / n_runs[:, None]).float(), scored, n_runs)
