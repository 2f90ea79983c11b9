"""The intersubject average: what the training subjects' runs of one stimulus have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.runs import BLOCK_TIME_POINTS, read_blocks
from titan_neuro.typing import RunData

__all__ = ["StimulusAverage", "average_over_subjects"]


@dataclass(frozen=True, eq=False)
class StimulusAverage:
    """Average of the runs of one stimulus, over subjects.

    Attributes
    ----------
    stimulus : str
        See :class:`titan_neuro.typing.RunData`.
    series : torch.Tensor
        float32 ``(time, features)``; time point 0 is the one at which the stimulus begins.
    scored : torch.Tensor
        bool ``(time,)``: scored in at least one run.
    n_runs : torch.Tensor
        int64 ``(time,)``: runs that lasted so long.
    """

    stimulus: str
    series: Tensor
    scored: Tensor
    n_runs: Tensor


def average_over_subjects(runs: Sequence[RunData], *, every: int = 1) -> list[StimulusAverage]:
    """Average the runs of each stimulus from where it begins.

    Time points before that are left out: they show a fixation, or the end of what the run before showed, which may be
    held out.

    Parameters
    ----------
    runs : sequence of RunData
        Training runs, of any number of subjects and stimuli.
    every : int
        Average only every so many time points, at least 1.

    Returns
    -------
    list of StimulusAverage
        One for each stimulus, ordered by name.

    Raises
    ------
    MismatchError
        The runs differ in their number of features.
    TrainingError
        No run; a run without a scored time point.
    """
    n_features = common_n_features(runs)
    by_stimulus: dict[str, list[RunData]] = {}
    for run in runs:
        if not run.scored.any():
            raise TrainingError(
                f"{run.key}: has no scored time point.", "Check the events that mark scored time points."
            )
        by_stimulus.setdefault(run.stimulus, []).append(run)
    return [_average(by_stimulus[stimulus], n_features, every) for stimulus in sorted(by_stimulus)]


def _average(runs: Sequence[RunData], n_features: int, every: int) -> StimulusAverage:
    length = -(-max(run.n_time_points - run.stimulus_start for run in runs) // every)
    total = torch.zeros(length, n_features, dtype=torch.float64)
    n_runs = torch.zeros(length, dtype=torch.int64)
    scored = torch.zeros(length, dtype=torch.bool)
    block_time_points = every * max(1, BLOCK_TIME_POINTS // every)
    for run in runs:
        for block, series in read_blocks(run, block_time_points, start=run.stimulus_start):
            sampled = series[::every]
            first = (block.start - run.stimulus_start) // every
            rows = slice(first, first + len(sampled))
            total[rows] += sampled
            n_runs[rows] += 1
            scored[rows] |= torch.as_tensor(run.scored[block.start : block.stop : every])
    return StimulusAverage(runs[0].stimulus, (total / n_runs[:, None]).float(), scored, n_runs)
