"""Sums per subject: over time points and features, and feature by feature for the few rows that become maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from titan_neuro.metrics import ForecastStatistics, pearson
from titan_neuro.metrics.measures import FloatArray, fisher_z

# With fewer time points of a run, as may be with high motion, a correlation over time is near 1 by chance.
MIN_TIME_POINTS_OF_R = 10


@dataclass(frozen=True, eq=False)
class SubjectSums:
    """Sums over the scored time points of a subject's test runs, for several forecasters of the same targets.

    Features that are constant over the scored time points of a run are left out of all sums but those of patterns, and
    counted. Twenty forecasters of 70,000 voxels make 200 MB of statistics a run; only those in `error_maps` are stored
    by feature.

    Attributes
    ----------
    runs : tuple of str
        Keys of the runs.
    n_time_points : numpy.ndarray
        int, ``(horizons,)``: scored time points.
    squared_error : numpy.ndarray
        ``(horizons, models)``, over time points and features.
    r_z, n_r : numpy.ndarray
        ``(horizons, models)``: sum over runs and features of the Fisher z of the correlation over the run's time
        points, and the number of its terms.
    pattern_z, n_patterns : numpy.ndarray
        ``(horizons, models)``: sum over time points of the Fisher z of the correlation over features, and the number
        of its terms.
    error_maps : numpy.ndarray
        ``(horizons, mapped models, features)``: squared errors over time points, 0 where a feature is constant.
    n_constant : int
        Constant features, in the run with the most of them.
    """

    runs: tuple[str, ...]
    n_time_points: NDArray[np.int64]
    squared_error: FloatArray
    r_z: FloatArray
    n_r: NDArray[np.int64]
    pattern_z: FloatArray
    n_patterns: NDArray[np.int64]
    error_maps: FloatArray
    n_constant: int

    def __add__(self, other: SubjectSums) -> SubjectSums:
        summed = {item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)[:-1]}
        return SubjectSums(**summed, n_constant=max(self.n_constant, other.n_constant))


def subject_sums(run: str, statistics: ForecastStatistics, mapped: Sequence[int] = ()) -> SubjectSums:
    """Add up the statistics of one run over its features.

    Parameters
    ----------
    run : str
        Its key.
    statistics : ForecastStatistics
        Of several models.
    mapped : sequence of int
        The models whose errors are stored feature by feature.

    Returns
    -------
    SubjectSums
    """
    # Whether a feature varies can't be seen from a single time point.
    varies = (statistics.target_spread > 0) | (statistics.n_time_points < 2)[:, None]
    squared_error, r_z, n_r, error_maps = [], [], [], []
    # Lead time by lead time: those of all take gigabytes, with the voxels of a brain.
    for lead, n_time_points in enumerate(statistics.n_time_points):
        error = np.where(varies[lead], statistics.squared_error[lead], 0.0)
        r = pearson(statistics.co_spread[lead], statistics.forecast_spread[lead], statistics.target_spread[lead])
        defined = np.isfinite(r) & (n_time_points >= MIN_TIME_POINTS_OF_R)
        squared_error.append(error.sum(axis=-1))
        r_z.append(np.where(defined, fisher_z(r), 0.0).sum(axis=-1))
        n_r.append(defined.sum(axis=-1))
        error_maps.append(error[list(mapped)])
    return SubjectSums(
        runs=(run,),
        n_time_points=statistics.n_time_points,
        squared_error=np.stack(squared_error),
        r_z=np.stack(r_z),
        n_r=np.stack(n_r),
        pattern_z=statistics.pattern_z,
        n_patterns=statistics.n_patterns,
        error_maps=np.stack(error_maps),
        n_constant=int((~varies[statistics.n_time_points > 0]).any(axis=0).sum()),
    )
