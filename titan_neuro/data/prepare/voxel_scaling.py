"""Voxels scaled one by one before an atlas averages them, so that none counts for more because its signal is larger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from titan_neuro.data.prepare.normalization import CausalZScore, RunningSum
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.time_series import StoredSeries, TimeSeries
from titan_neuro.errors import ImageError

Scaling = Literal["psc", "zscore"]
"""Percent signal change, or standard deviations."""
SCALED = {"psc": "percent signal change", "zscore": "standard deviations"}
"""Units of scaled voxels, in words."""
# Signal change beyond this, in percent, is no physiology: it is that of voxels with next to no signal.
_LARGEST_CHANGE = 100.0
# Of values from which the mean was removed, half lie below 0; of recorded ones, hardly any.
_LARGEST_FRACTION_BELOW = 0.1
_BLOCK_TIME_POINTS = 16
# Scaling holds as much of each voxel as the z-score after it does: see `BYTES_PER_FEATURE` in `cleaning`.
_VALUES_PER_VOXEL = 7


class CausalPercentChange:
    """Percent signal change of a stream, for each voxel, from the mean of the time points so far.

    Time point ``t`` becomes ``100 (x_t / m_t - 1)`` with ``m_t`` the mean over ``0 .. t``, at most 100 and at least
    -100; it is 0 where ``m_t`` is not above 0. Sums run strictly in the order of time, as in :class:`CausalZScore`.

    Parameters
    ----------
    n_features : int
        Number of voxels.
    """

    def __init__(self, n_features: int) -> None:
        self._n, self._sum = 0, RunningSum(n_features)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Scale the next time points of the stream: ``(time, features)``, in any units, to float32 percent."""
        block = np.asarray(block, dtype=np.float64)
        count = self._n + np.arange(1, len(block) + 1)[:, None]
        self._n += len(block)
        return _percent_change(block, self._sum(block) / count)


def _percent_change(block: np.ndarray, mean: np.ndarray) -> np.ndarray:
    has_signal = mean > 0
    change = 100 * (block / np.where(has_signal, mean, 1.0) - 1)
    return np.where(has_signal, np.clip(change, -_LARGEST_CHANGE, _LARGEST_CHANGE), 0.0).astype(np.float32)


class WithSignal:
    """The time series of a run, refused at its end where the mean was removed from its voxels.

    Percent signal change divides by that mean. One volume does not tell: the voxels of a region fluctuate together.

    Parameters
    ----------
    series : TimeSeries
        In the units of the recording; read once, in the order of time.
    where : str
        The run, for the message.
    """

    def __init__(self, series: TimeSeries, where: str) -> None:
        self._series, self._where = series, where
        self.space, self.n_time_points = series.space, series.n_time_points
        self.n_values_read = series.n_values_read
        self._n_read, self._n_below = 0, np.zeros(series.space.n_features, dtype=np.int64)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: ``(time, features)``.

        Raises
        ------
        ImageError
            With the last time point: more than a tenth of the values of voxels that are ever above 0 is not.
        """
        block = self._series.read(start, stop)
        self._n_below += (block <= 0).sum(axis=0)
        self._n_read += len(block)
        ever_above = self._n_below < self._n_read
        if stop == self.n_time_points and ever_above.any():
            fraction = float(self._n_below[ever_above].mean()) / self._n_read
            if fraction > _LARGEST_FRACTION_BELOW:
                raise ImageError(
                    f"{self._where}: prepare.voxel_scaling psc: expected voxels with their mean signal, which percent "
                    f"signal change divides by, found {fraction:.0%} of the values at or below 0: the mean was removed "
                    "from this recording.",
                    "Use --set prepare.voxel_scaling=zscore, or none.",
                )
        return block


class ScaledVoxels:
    """The time series of a run, each voxel scaled.

    Parameters
    ----------
    series : TimeSeries
        In the units of the recording; read once, in the order of time.
    scale : callable
        Scales the next time points, ``(time, features)``.
    """

    def __init__(self, series: TimeSeries, scale: Callable[[np.ndarray], np.ndarray]) -> None:
        self._series, self._scale = series, scale
        self.space, self.n_time_points = series.space, series.n_time_points
        self.n_values_read = series.n_values_read + _VALUES_PER_VOXEL * series.space.n_features

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: float32 ``(time, features)``."""
        return self._scale(self._series.read(start, stop))


def scale_causally(series: TimeSeries, scaling: Scaling) -> ScaledVoxels:
    """Scale each time point of each voxel by the time points that were read so far and itself.

    Parameters
    ----------
    series : TimeSeries
    scaling : {"psc", "zscore"}
    """
    n_features = series.space.n_features
    return ScaledVoxels(series, CausalPercentChange(n_features) if scaling == "psc" else CausalZScore(n_features))


def scale_over_run(series: TimeSeries, scaling: Scaling, scratch: ScratchSeries, first: int) -> ScaledVoxels:
    """Scale each voxel by its mean and standard deviation over a whole run, as most of the literature does.

    Parameters
    ----------
    series : TimeSeries
        Is read to its end.
    scaling : {"psc", "zscore"}
    scratch : ScratchSeries
        Empty; holds the run for the second pass.
    first : int
        The first time point of the steady state; those before it set no statistic.
    """
    n_features = series.space.n_features
    origin, sums, squares = np.zeros(n_features), RunningSum(n_features), RunningSum(n_features)
    for start in range(0, series.n_time_points, _BLOCK_TIME_POINTS):
        block = series.read(start, min(start + _BLOCK_TIME_POINTS, series.n_time_points))
        scratch.append(block)
        steady = block[max(0, first - start) :].astype(np.float64)
        if start <= first < start + len(block):
            # Sums of squares about a time point keep small fluctuations on a large baseline.
            origin = steady[0].copy()
        sums(steady - origin)
        squares((steady - origin) ** 2)
    n_steady = series.n_time_points - first
    about_origin = sums.total / n_steady
    mean = origin + about_origin
    deviation = np.sqrt(np.maximum(squares.total / n_steady - about_origin**2, 0.0))
    is_constant = deviation <= 1e-6 * np.sqrt(squares.total / n_steady)

    def z_score(block: np.ndarray) -> np.ndarray:
        scaled = (block - mean) / np.where(is_constant, 1.0, deviation)
        return np.where(is_constant, 0.0, scaled).astype(np.float32)

    def percent_change(block: np.ndarray) -> np.ndarray:
        return _percent_change(block, mean)

    stored = StoredSeries(scratch, series.space)
    return ScaledVoxels(stored, {"psc": percent_change, "zscore": z_score}[scaling])
