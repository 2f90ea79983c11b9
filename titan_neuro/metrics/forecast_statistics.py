"""Sums over the scored time points of a run, from which every metric is made; those of runs add up to a subject's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from titan_neuro.metrics.measures import FloatArray, fisher_z, pearson

# The working set of so many features stays in a core's cache.
_BLOCK_FEATURES = 4096
# A sum of squares about the mean below this fraction of the plain sum of squares is rounding error: the series is
# constant. 1e-10 is far above the rounding of float64 over any run, and far below the variation of float32 data.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class ForecastStatistics:
    """Sums over scored time points for several models that forecast the same targets; sums of runs add by ``+``.

    Spreads are taken about the mean of each run before runs are added. So a model that forecasts only the different
    levels of runs earns no correlation, and a training mean, which is lower where the held-out run is higher, loses
    none.

    Attributes
    ----------
    n_time_points : numpy.ndarray
        int, ``(horizons,)``: scored time points.
    target_spread : numpy.ndarray
        ``(horizons, features)``: sum of squares of the target about its run's mean; exactly 0 where it is constant.
    forecast_spread : numpy.ndarray
        ``(horizons, models, features)``: the same for the forecasts.
    co_spread : numpy.ndarray
        ``(horizons, models, features)``: sum of products of the two.
    squared_error : numpy.ndarray
        ``(horizons, models, features)``: sum of squared errors.
    pattern_z : numpy.ndarray
        ``(horizons, models)``: sum over time points of the Fisher z of the correlation over features.
    n_patterns : numpy.ndarray
        int, ``(horizons, models)``: number of its terms; a constant forecast or target has no correlation.
    """

    n_time_points: NDArray[np.int64]
    target_spread: FloatArray
    forecast_spread: FloatArray
    co_spread: FloatArray
    squared_error: FloatArray
    pattern_z: FloatArray
    n_patterns: NDArray[np.int64]

    def __add__(self, other: ForecastStatistics) -> ForecastStatistics:
        names = (item.name for item in fields(self))
        return ForecastStatistics(**{name: getattr(self, name) + getattr(other, name) for name in names})


class ForecastAccumulator:
    """Add up the statistics of one run, block by block, in float64.

    Parameters
    ----------
    n_horizons, n_models, n_features : int
        Sizes of the sums.
    """

    def __init__(self, n_horizons: int, n_models: int, n_features: int) -> None:
        self._n_time_points = np.zeros(n_horizons, dtype=np.int64)
        # Sum and sum of squares of the target; then, for each model, of the forecast, and of their product.
        self._target = torch.zeros(n_horizons, 2, n_features, dtype=torch.float64)
        self._forecast = torch.zeros(n_horizons, n_models, 3, n_features, dtype=torch.float64)
        self._pattern_z = np.zeros((n_horizons, n_models))
        self._n_patterns = np.zeros((n_horizons, n_models), dtype=np.int64)
        # Of the targets that were added last, at each lead time: the same sums, over the features of each time point.
        self._time_points: dict[int, FloatArray] = {}

    def add(self, horizon: int, targets: Tensor, forecasts: Sequence[Tensor]) -> None:
        """Add targets and every model's forecasts of them; see `add_targets` and `add_forecasts`."""
        self.add_targets(horizon, targets)
        for model, values in enumerate(forecasts):
            self.add_forecasts(horizon, model, targets, values)

    def add_targets(self, horizon: int, targets: Tensor) -> None:
        """Add targets, float32 ``(targets, features)``; `horizon` is the index of the lead time."""
        n_time_points, n_features = targets.shape
        self._n_time_points[horizon] += n_time_points
        over_features = torch.zeros(2, n_time_points, dtype=torch.float64)
        for block in _feature_blocks(n_features):
            target = targets[:, block].double()
            _add_sums((target, target * target), self._target[horizon, :, block], over_features)
        self._time_points[horizon] = over_features.numpy()

    def add_forecasts(self, horizon: int, model: int, targets: Tensor, forecasts: Tensor) -> None:
        """Add one model's forecasts of the targets that were added last: rows need not be in memory together.

        Parameters
        ----------
        horizon, model : int
            Indices of the lead time and of the model.
        targets, forecasts : torch.Tensor
            float32, ``(targets, features)``.
        """
        n_time_points, n_features = targets.shape
        over_features = torch.zeros(3, n_time_points, dtype=torch.float64)
        for block in _feature_blocks(n_features):
            target, values = targets[:, block].double(), forecasts[:, block].double()
            sums = self._forecast[horizon, model, :, block]
            _add_sums((values, values * values, values * target), sums, over_features)
        self._add_patterns(horizon, model, n_features, over_features.numpy())

    def finish(self) -> ForecastStatistics:
        """Return the sums of the run, spreads taken about its mean."""
        target, target_square = self._target.numpy().transpose(1, 0, 2)
        shape = self._forecast[:, :, 0].shape
        forecast_spread, co_spread, squared_error = (np.empty(shape) for _ in range(3))
        # Lead time by lead time: with the voxels of a brain, what is computed on the way takes gigabytes.
        for lead, n_time_points in enumerate(np.maximum(self._n_time_points, 1).tolist()):
            forecast, forecast_square, product = self._forecast[lead].numpy().transpose(1, 0, 2)
            squared_error[lead] = np.maximum(target_square[lead] - 2 * product + forecast_square, 0.0)
            forecast_spread[lead] = _spread(forecast, forecast_square, n_time_points)
            co_spread[lead] = product - forecast * target[lead] / n_time_points
        return ForecastStatistics(
            n_time_points=self._n_time_points,
            target_spread=_spread(target, target_square, np.maximum(self._n_time_points, 1)[:, None]),
            forecast_spread=forecast_spread,
            co_spread=co_spread,
            squared_error=squared_error,
            pattern_z=self._pattern_z,
            n_patterns=self._n_patterns,
        )

    def _add_patterns(self, horizon: int, model: int, n_features: int, forecasts: FloatArray) -> None:
        target, target_square = self._time_points[horizon]
        forecast, forecast_square, product = forecasts
        r = pearson(
            product - forecast * target / n_features,
            _spread(forecast, forecast_square, n_features),
            _spread(target, target_square, n_features),
        )
        defined = np.isfinite(r)
        self._pattern_z[horizon, model] += np.where(defined, fisher_z(r), 0.0).sum()
        self._n_patterns[horizon, model] += defined.sum()


def _feature_blocks(n_features: int) -> Iterator[slice]:
    for first in range(0, n_features, _BLOCK_FEATURES):
        yield slice(first, first + _BLOCK_FEATURES)


def _add_sums(series: Sequence[Tensor], over_time: Tensor, over_features: Tensor) -> None:
    """Add the sums of each of `series`, ``(time, features)``, over time and over features."""
    for index, values in enumerate(series):
        over_time[index] += values.sum(dim=0)
        over_features[index] += values.sum(dim=1)


def _spread(total: FloatArray, total_square: FloatArray, n: int | NDArray[np.int64]) -> FloatArray:
    """Sum of squares about the mean; exactly 0 where it is no more than rounding."""
    about_mean = total_square - total**2 / n
    return np.where(about_mean > _ROUNDING * total_square, about_mean, 0.0)
