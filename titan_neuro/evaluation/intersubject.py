"""Intersubject correlation of runs: aligned where their stimulus begins, and read once, in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.metrics.isc import IntersubjectCorrelation, IscAccumulator, IscSums, correlate_with_others
from titan_neuro.typing import RunData

# Memory for the time points of all subjects in a block, with the sums beside them.
_MEMORY_BYTES = 2**28


def intersubject_correlations(
    runs: Sequence[RunData], *, memory_bytes: int = _MEMORY_BYTES
) -> dict[str, IntersubjectCorrelation]:
    """Correlate each subject with the average of the others, feature by feature [1]_ [2]_.

    Runs of one stimulus are aligned where it begins. A time point counts where it is scored and without high motion in
    the subject's own run, as in the table of forecasts; the average is of those others in whom it counts, too. Where
    there are several stimuli, sums about the mean of each run are added before they are divided, as those of forecasts
    are (:class:`titan_neuro.metrics.ForecastStatistics`).

    Parameters
    ----------
    runs : sequence of RunData
        Of any number of subjects and stimuli; of each subject at most one for each stimulus.
    memory_bytes : int
        Memory for a block of time points of all subjects.

    Returns
    -------
    dict of str to IntersubjectCorrelation
        By subject, in the order of their labels.

    Raises
    ------
    NoMatchError
        No run.
    MismatchError
        The runs differ in their number of features, or a subject has two runs of one stimulus.

    References
    ----------
    .. [1] U. Hasson et al., "Intersubject synchronization of cortical activity during natural vision", Science 303
       (2004).
    .. [2] S. A. Nastase et al., "Measuring shared responses across subjects using intersubject correlation", Social
       Cognitive and Affective Neuroscience 14 (2019): leave-one-out.
    """
    if not runs:
        raise NoMatchError("Intersubject correlation: there is no run.", "Check the split and the filters.")
    for run in runs:
        if run.n_features != runs[0].n_features:
            raise MismatchError(
                f"{run.key} has {run.n_features} features, {runs[0].key} has {runs[0].n_features}.",
                "Prepare all runs with one mask or one parcellation.",
            )
    by_stimulus: dict[str, list[RunData]] = {}
    for run in runs:
        by_stimulus.setdefault(run.stimulus, []).append(run)
    by_subject: dict[str, list[IscSums]] = {run.subject: [] for run in runs}
    for group in by_stimulus.values():
        for run, sums in zip(group, _sums_of_one_stimulus(group, memory_bytes), strict=True):
            by_subject[run.subject].append(sums)
    return {subject: correlate_with_others(by_subject[subject]) for subject in sorted(by_subject)}


def _sums_of_one_stimulus(runs: Sequence[RunData], memory_bytes: int) -> list[IscSums]:
    subjects = [run.subject for run in runs]
    for run in runs:
        if subjects.count(run.subject) > 1:
            raise MismatchError(
                f"{run.key}: sub-{run.subject} has {subjects.count(run.subject)} runs of {run.stimulus}.",
                "Of each subject one run of a stimulus can be compared with the others.",
            )
    n_features = runs[0].n_features
    sums = IscAccumulator(len(runs), n_features)
    # The time points of each run, and their sum in float64 with one copy of it.
    block_time_points = max(1, memory_bytes // (4 * n_features * (len(runs) + 4)))
    for series, scored in _aligned_blocks(runs, block_time_points):
        sums.add(series, scored)
    return sums.finish()


def _aligned_blocks(runs: Sequence[RunData], block_time_points: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Time points of each run, aligned where the stimulus begins, and which of them count: bool ``(runs, block)``."""
    earliest = min(run.stimulus_start for run in runs)
    lags = [run.stimulus_start - earliest for run in runs]
    length = max(run.n_time_points - lag for run, lag in zip(runs, lags, strict=True))
    for begin in range(0, length, block_time_points):
        n_time_points = min(block_time_points, length - begin)
        scored = torch.zeros(len(runs), n_time_points, dtype=torch.bool)
        series = []
        for row, (run, lag) in enumerate(zip(runs, lags, strict=True)):
            first = min(lag + begin, run.n_time_points)
            stop = min(first + n_time_points, run.n_time_points)
            series.append(run.read(first, stop))
            scored[row, : stop - first] = torch.from_numpy((run.scored & ~run.high_motion)[first:stop])
        yield series, scored
