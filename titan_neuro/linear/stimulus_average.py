"""What the stimulus did to the training subjects together: their average, time point by time point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.typing import RunData

__all__ = ["StimulusAverage", "average_over_subjects"]

_BLOCK_TIME_POINTS = 256


@dataclass(frozen=True, eq=False)
class StimulusAverage:
    """Average of the runs of one stimulus.

    Attributes
    ----------
    stimulus : str
        See :class:`titan_neuro.typing.RunData`.
    series : torch.Tensor
        float32 ``(time, features)``, the first of them the one at which the stimulus begins.
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

    What a run holds before belongs to no stimulus that is known: a fixation, or the end of the part of the stimulus
    that was shown in the run before, which may be held out.

    Parameters
    ----------
    runs : sequence of RunData
        Training runs, of any number of subjects and stimuli.
    every : int
        Average every so many time points alone, at least 1.

    Returns
    -------
    list of StimulusAverage
        One for each stimulus, by name.

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
    block = every * max(1, _BLOCK_TIME_POINTS // every)
    for run in runs:
        for start in range(run.stimulus_start, run.n_time_points, block):
            series = run.read(start, min(start + block, run.n_time_points))[::every]
            first = (start - run.stimulus_start) // every
            place = slice(first, first + len(series))
            total[place] += series
            n_runs[place] += 1
            scored[place] |= torch.as_tensor(run.scored[start : start + block : every])
    return StimulusAverage(runs[0].stimulus, (total / n_runs[:, None]).float(), scored, n_runs)
