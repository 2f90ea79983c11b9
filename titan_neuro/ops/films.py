"""What the film did to the training subjects together: their average, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.ops.lagged_moments import common_n_features
from titan_neuro.typing import FrameRun, first_scored

__all__ = ["Film", "average_films", "first_scored"]

_BLOCK_FRAMES = 256


@dataclass(frozen=True, eq=False)
class Film:
    """Average of the runs of one stimulus.

    Attributes
    ----------
    stimulus : str
        See :class:`titan_neuro.typing.FrameRun`.
    frames : torch.Tensor
        float32 ``(time, features)``, or components, where they were projected.
    scored : torch.Tensor
        bool ``(time,)``: scored in at least one run.
    n_runs : torch.Tensor
        int64 ``(time,)``: runs that lasted so long.
    """

    stimulus: str
    frames: Tensor
    scored: Tensor
    n_runs: Tensor


def average_films(runs: Sequence[FrameRun], projection: Tensor | None = None) -> list[Film]:
    """Average the runs of each stimulus, aligned at their first scored frames.

    Parameters
    ----------
    runs : sequence of FrameRun
        Training runs, of any number of subjects and stimuli.
    projection : torch.Tensor, optional
        ``(features, components)``: average ``frames @ projection`` in place of the frames.

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
    width = n_features if projection is None else projection.shape[1]
    return [_average(stimulus, by_stimulus[stimulus], projection, width) for stimulus in sorted(by_stimulus)]


def _average(stimulus: str, runs: Sequence[FrameRun], projection: Tensor | None, width: int) -> Film:
    # What only some runs hold before their first scored frame is left out.
    lead = min(first_scored(run) for run in runs)
    skips = [first_scored(run) - lead for run in runs]
    length = max(run.n_frames - skip for run, skip in zip(runs, skips, strict=True))
    total = torch.zeros(length, width, dtype=torch.float64)
    n_runs = torch.zeros(length, dtype=torch.int64)
    scored = torch.zeros(length, dtype=torch.bool)
    for run, skip in zip(runs, skips, strict=True):
        for start in range(skip, run.n_frames, _BLOCK_FRAMES):
            stop = min(start + _BLOCK_FRAMES, run.n_frames)
            frames = run.read(start, stop)
            total[start - skip : stop - skip] += frames if projection is None else frames @ projection
        n_runs[: run.n_frames - skip] += 1
        scored[: run.n_frames - skip] |= torch.as_tensor(run.scored[skip:])
    return Film(stimulus, (total / n_runs[:, None]).float(), scored, n_runs)
