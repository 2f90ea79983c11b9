"""Leave-one-subject-out intersubject correlation (ISC): each subject against the average of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from titan_neuro.metrics.forecast_statistics import ForecastAccumulator, ForecastStatistics
from titan_neuro.metrics.measures import FloatArray, pearson


@dataclass(frozen=True, eq=False)
class IntersubjectCorrelation:
    """Correlation of one subject with the average of the others.

    Attributes
    ----------
    r : numpy.ndarray
        float64 ``(features,)``, between -1 and 1. NaN where either series is constant, or where no time point of this
        subject is scored in anyone else.
    n_others : float
        Subjects in that average, averaged over time points; 0 where there are none.
    """

    r: FloatArray
    n_others: float


@dataclass(frozen=True, eq=False)
class IscSums:
    """Sums of one run against the average of the others.

    Attributes
    ----------
    statistics : ForecastStatistics
        The run as target, the others' average as the only forecast, at a single lead time.
    n_others : int
        Subjects in the average, summed over time points.
    """

    statistics: ForecastStatistics
    n_others: int


class IscAccumulator:
    """Add up, block by block, each subject against the average of the others.

    Parameters
    ----------
    n_subjects, n_features : int
        Sizes of the sums.
    """

    def __init__(self, n_subjects: int, n_features: int) -> None:
        self._n_features = n_features
        self._sums = [ForecastAccumulator(1, 1, n_features) for _ in range(n_subjects)]
        self._n_others = [0] * n_subjects

    def add(self, series: Sequence[Tensor], scored: Tensor) -> None:
        """Add a block of time points at which all subjects saw the same part of the stimulus.

        Parameters
        ----------
        series : sequence of torch.Tensor
            Of each subject, float32 ``(time, features)``; may be shorter than the block where the recording ends.
        scored : torch.Tensor
            bool, ``(subjects, time)``: which time points count. The average is of those others in whom a time point
            counts, too.
        """
        total = torch.zeros(scored.shape[1], self._n_features, dtype=torch.float64)
        for values, counts in zip(series, scored, strict=True):
            total[counts] += values[counts[: len(values)]]
        n_others = scored.sum(0) - 1
        for index, (values, counts) in enumerate(zip(series, scored, strict=True)):
            rows = (counts & (n_others > 0)).nonzero()[:, 0]
            average = (total[rows] - values[rows]) / n_others[rows, None]
            self._sums[index].add(0, values[rows], [average.float()])
            self._n_others[index] += int(n_others[rows].sum())

    def finish(self) -> list[IscSums]:
        """Return the sums of each subject's run, spreads taken about the run's mean."""
        return [IscSums(sums.finish(), count) for sums, count in zip(self._sums, self._n_others, strict=True)]


def correlate_with_others(runs: Sequence[IscSums]) -> IntersubjectCorrelation:
    """Correlate a subject with the others over all its runs, whose sums are added before they are divided.

    Parameters
    ----------
    runs : sequence of IscSums
        At least one.

    Returns
    -------
    IntersubjectCorrelation
    """
    statistics = reduce(add, (run.statistics for run in runs))
    r = pearson(statistics.co_spread[0, 0], statistics.forecast_spread[0, 0], statistics.target_spread[0])
    return IntersubjectCorrelation(r, sum(run.n_others for run in runs) / max(1, int(statistics.n_time_points[0])))
