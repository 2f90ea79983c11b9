"""What is kept of a subject: sums over features, and over time points for the few rows that become maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from titan_neuro.metrics import ForecastStatistics, pearson
from titan_neuro.metrics.measures import FloatArray, fisher_z

# With fewer time points of a run, as where the head moved, correlations over time are near 1 by themselves.
LEAST_FRAMES_OF_R = 10


@dataclass(frozen=True, eq=False)
class SubjectSums:
    """Sums over the scored time points of a subject's test runs, for several forecasters of the same targets.

    Features that are constant over the scored time points of a run are left out of all but the patterns, and counted.
    Twenty forecasters of 70,000 voxels make 200 MB of sums a run; what is kept of them is a number for each, but for
    the forecasters in `error_maps`.

    Attributes
    ----------
    runs : tuple of str
        Names of the runs.
    n_time_points : numpy.ndarray
        int, ``(horizons,)``: scored time points.
    squared_error : numpy.ndarray
        ``(horizons, models)``, over time points and features.
    r_z, n_r : numpy.ndarray
        ``(horizons, models)``: sum over runs and features of the Fisher z of the correlation over the run's time
        points, and how many are in it.
    pattern_z, n_patterns : numpy.ndarray
        ``(horizons, models)``: the same over time points of the correlation over features.
    error_maps : numpy.ndarray
        ``(horizons, mapped models, features)``: squared errors over time points, 0 where a feature is constant.
    n_constant : int
        Features left out, in the run with the most of them.
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


def sums_of(run: str, positions: ForecastStatistics, mapped: Sequence[int] = ()) -> SubjectSums:
    """Add up the moments of one run over its features.

    Parameters
    ----------
    run : str
        Its name.
    positions : ForecastStatistics
        Of several models.
    mapped : sequence of int
        The models whose errors are kept feature by feature.
    """
    # Of a single time point nobody can say whether a feature varies.
    varies = (positions.target_spread > 0) | (positions.n_time_points < 2)[:, None]
    error = np.where(varies[:, None], positions.squared_error, 0.0)
    r = pearson(positions.co_spread, positions.forecast_spread, positions.target_spread[:, None])
    defined = np.isfinite(r) & (positions.n_time_points >= LEAST_FRAMES_OF_R)[:, None, None]
    return SubjectSums(
        runs=(run,),
        n_time_points=positions.n_time_points,
        squared_error=error.sum(axis=-1),
        r_z=np.where(defined, fisher_z(r), 0.0).sum(axis=-1),
        n_r=defined.sum(axis=-1),
        pattern_z=positions.pattern_z,
        n_patterns=positions.n_patterns,
        error_maps=error[:, list(mapped)],
        n_constant=int((~varies[positions.n_time_points > 0]).any(axis=0).sum()),
    )
