"""Inter-subject correlation: how much of a brain's response others have at the same moment of the stimulus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.metrics.forecast_statistics import ForecastAccumulator, ForecastStatistics
from titan_neuro.metrics.measures import FloatArray, pearson
from titan_neuro.typing import RunData

# What blocks of all subjects may hold at a time, with the sums beside them.
_MEMORY_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class InterSubject:
    """How one subject goes with the others.

    Attributes
    ----------
    r : numpy.ndarray
        float64 ``(features,)``, between -1 and 1: correlation with the mean of the others; NaN where either is
        constant, or where nobody else saw a scored time point of this subject's.
    n_others : float
        Subjects in that mean, averaged over time points; 0 where there are none.
    """

    r: FloatArray
    n_others: float


def leave_one_out_isc(runs: Sequence[RunData]) -> dict[str, FloatArray]:
    """Correlate each subject with the mean of the others, feature by feature; see `inter_subject`.

    Returns
    -------
    dict
        Subject to ``(features,)``; NaN where nobody else saw the same.
    """
    return {subject: found.r for subject, found in inter_subject(runs).items()}


def inter_subject(runs: Sequence[RunData], *, memory_bytes: int = _MEMORY_BYTES) -> dict[str, InterSubject]:
    """Correlate each subject with the mean of the others over the time points that are scored in both [1]_ [2]_.

    Runs of one stimulus are aligned where it begins. Time points count where they are scored in the subject's
    own run; the mean is of those others in whom the moment is scored, too. Where there are several stimuli, sums about
    the mean of each run are joined before they are divided, as those of forecasts are
    (:class:`titan_neuro.metrics.ForecastStatistics`).

    Parameters
    ----------
    runs : sequence of RunData
        Of any number of subjects and stimuli; of each subject one for each stimulus.
    memory_bytes : int
        Room for the time points held at a time: each run is read once, in blocks.

    Returns
    -------
    dict
        Subject to InterSubject, by label.

    Raises
    ------
    NoMatchError
        No run.
    MismatchError
        The runs differ in their number of features; a subject has two runs of one stimulus.

    References
    ----------
    .. [1] U. Hasson et al., "Intersubject synchronization of cortical activity during natural vision", Science 303
       (2004).
    .. [2] S. A. Nastase et al., "Measuring shared responses across subjects using intersubject correlation", Social
       Cognitive and Affective Neuroscience 14 (2019): leave-one-out.
    """
    if not runs:
        raise NoMatchError("Inter-subject correlation: there is no run.", "Check the split and the filters.")
    for run in runs:
        if run.n_features != runs[0].n_features:
            raise MismatchError(
                f"{run.key} has {run.n_features} features, {runs[0].key} has {runs[0].n_features}.",
                "Prepare all runs with one mask or one parcellation.",
            )
    by_stimulus: dict[str, list[RunData]] = {}
    for run in runs:
        by_stimulus.setdefault(run.stimulus, []).append(run)
    sums: dict[str, list[_Sums]] = {run.subject: [] for run in runs}
    for group in by_stimulus.values():
        for run, found in zip(group, _of_one_stimulus(group, memory_bytes), strict=True):
            sums[run.subject].append(found)
    return {subject: _joined(sums[subject]) for subject in sorted(sums)}


@dataclass
class _Sums:
    """One run against the others' mean: the sums, and the number of others, summed over time points."""

    statistics: ForecastStatistics
    others: int


def _joined(parts: Sequence[_Sums]) -> InterSubject:
    statistics = reduce(add, (part.statistics for part in parts))
    n_time_points = int(statistics.n_time_points[0])
    r = pearson(statistics.co_spread[0, 0], statistics.forecast_spread[0, 0], statistics.target_spread[0])
    return InterSubject(r, sum(part.others for part in parts) / max(1, n_time_points))


def _of_one_stimulus(runs: Sequence[RunData], memory_bytes: int) -> list[_Sums]:
    subjects = [run.subject for run in runs]
    for run in runs:
        if subjects.count(run.subject) > 1:
            raise MismatchError(
                f"{run.key}: sub-{run.subject} has {subjects.count(run.subject)} runs of {run.stimulus}.",
                "Of each subject one run of a stimulus can be compared with the others.",
            )
    n_features = runs[0].n_features
    sums = [ForecastAccumulator(1, 1, n_features) for _ in runs]
    others = [0] * len(runs)
    # The time points of each run, and their sum in float64 with one copy of it.
    block_time_points = max(1, memory_bytes // (4 * n_features * (len(runs) + 4)))
    for series, scored in _aligned(runs, block_time_points):
        total = torch.zeros(scored.shape[1], n_features, dtype=torch.float64)
        for values, counts in zip(series, scored, strict=True):
            total[counts] += values[counts[: len(values)]]
        n_others = scored.sum(0) - 1
        for index, (values, own) in enumerate(zip(series, scored, strict=True)):
            rows = (own & (n_others > 0)).nonzero()[:, 0]
            mean = (total[rows] - values[rows]) / n_others[rows, None]
            sums[index].add(0, values[rows], [mean.float()])
            others[index] += int(n_others[rows].sum())
    return [_Sums(part.finish(), count) for part, count in zip(sums, others, strict=True)]


def _aligned(runs: Sequence[RunData], block_time_points: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Time points of each run, aligned where the stimulus begins, and whether they count: bool ``(runs, block)``.

    Those count that are scored, and at which the head lay still, as in the table of forecasts.
    """
    lead = min(run.stimulus_start for run in runs)
    starts = [run.stimulus_start - lead for run in runs]
    length = max(run.n_time_points - start for run, start in zip(runs, starts, strict=True))
    for begin in range(0, length, block_time_points):
        n_time_points = min(block_time_points, length - begin)
        scored = torch.zeros(len(runs), n_time_points, dtype=torch.bool)
        series = []
        for row, (run, start) in enumerate(zip(runs, starts, strict=True)):
            first = min(start + begin, run.n_time_points)
            stop = min(first + n_time_points, run.n_time_points)
            series.append(run.read(first, stop))
            scored[row, : stop - first] = torch.from_numpy((run.scored & ~run.high_motion)[first:stop])
        yield series, scored
