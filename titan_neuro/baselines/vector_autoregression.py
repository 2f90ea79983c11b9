"""Vector autoregression (VAR): forecasts from the whole brain's last time points, beyond each feature's own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.baselines.base import Baseline
from titan_neuro.baselines.shared_fits import ResidualRun, ResidualSpace
from titan_neuro.linear.lagged_statistics import assign_folds
from titan_neuro.linear.ridge import RidgeStatistics, choose_option
from titan_neuro.typing import RunData, Stretch

# (components, lags) to choose from. On recordings of a stimulus, more lags of more components did not help.
SIZES = ((20, 5), (60, 2), (60, 5), (200, 1), (200, 2))
# Ridge penalties per row, in units of the mean variance of the components.
PENALTIES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class VectorAutoregression:
    """A fitted vector autoregression; see :class:`VectorAutoregressionBaseline`.

    Attributes
    ----------
    weights : torch.Tensor
        float32, ``(predictors, horizons, n_residuals)``.
    chosen : tuple of (int, int, float) or None
        Components, lags and penalty of each lead time.
    stretches : list of Stretch
        Training runs in the space of the residuals, with their folds.
    held_out : torch.Tensor
        float32, ``(folds, predictors, horizons, n_residuals)``: weights fitted without a fold, with the choice of all.
    """

    weights: Tensor
    chosen: tuple[tuple[int, int, float] | None, ...]
    stretches: list[Stretch]
    held_out: Tensor


class VectorAutoregressionBaseline(Baseline[tuple[Tensor, Tensor]]):
    """Autoregression per feature, plus a ridge regression of its residuals on components of the last time points.

    For each lead time, the numbers of principal components and lags and the penalty are those with the smallest squared
    error on training subjects held out in turn (runs, where there is one subject; stretches of time, where there is one
    run). Where none lowers the error of the autoregression by more than a standard error, the forecast is that of the
    autoregression. The regression has no intercept, since the mean of the residuals is near 0.

    The state holds the history of the autoregression and the scores of the last time points.

    Attributes
    ----------
    space : ResidualSpace
        The axes; set by `fit`, as all that follows.
    weights : torch.Tensor
        float32, ``(predictors, horizons, n_residuals)``; a predictor is a component at a lag.
    chosen : tuple of (int, int, float) or None
        Components, lags and penalty of each lead time; None: autoregression alone.
    fitted : VectorAutoregression
        The same, and what was fitted without each fold; shared with `OnlineVectorAutoregressionBaseline`.
    """

    name = "var"
    space: ResidualSpace
    weights: Tensor
    chosen: tuple[tuple[int, int, float] | None, ...]
    fitted: VectorAutoregression

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; raises what :meth:`SharedFits.residuals` does."""
        self.space, projected = self.shared_fits.residuals(runs)
        self._lag, self._component = _predictors(self.space.components.shape[1])
        self.fitted = self.shared_fits.once(runs, VectorAutoregression, lambda: self._fit(projected))
        self.weights, self.chosen = self.fitted.weights, self.fitted.chosen

    def init_state(self) -> tuple[Tensor, Tensor]:
        """Zeros: history of the autoregression, ``(order - 1, features)``, and scores, ``(lags - 1, components)``."""
        return self.space.init_state(), torch.zeros(self._n_past, self.space.components.shape[1])

    def step(self, series: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Forecast from each time point of ``(time, features)``: ``(time, horizons, features)``."""
        history, past = state
        forecasts, history = self.space.autoregress(series, history)
        scores = torch.cat([past, self.space.score(series)])
        residuals = self._lagged(scores) @ self.weights.flatten(1)
        # Not in place: other rows share the autoregression's forecasts.
        forecasts = forecasts + self.space.to_features(residuals.reshape(len(series), len(self.horizons), -1))
        return forecasts, (history, scores[len(series) :].clone())

    def forecast_residuals(self, run: ResidualRun, weights: Tensor) -> Tensor:
        """Forecast the residuals of a training run.

        Parameters
        ----------
        run : ResidualRun
        weights : torch.Tensor
            ``(predictors, horizons, n_residuals)``.

        Returns
        -------
        torch.Tensor
            ``(time, horizons, n_residuals)``.
        """
        predictors = self._lagged(pad(run.scores, (0, 0, self._n_past, 0)))
        return (predictors @ weights.flatten(1)).reshape(run.n_time_points, len(self.horizons), -1)

    def _fit(self, projected: Sequence[ResidualRun]) -> VectorAutoregression:
        stretches = assign_folds(projected, _N_FOLDS)
        n_folds = max(stretch.fold for stretch in stretches) + 1
        weights = torch.zeros(1 + n_folds, len(self._lag), len(self.horizons), self.space.n_residuals)
        chosen = []
        for index in range(len(self.horizons)):
            folds = self._accumulate(stretches, index, n_folds)
            total = functools.reduce(operator.add, folds)
            best = self._choose(folds, total)
            chosen.append(best)
            if best is not None:
                predictors = self._subset(*best[:2])
                weights[0, predictors, index] = self._solve(total, predictors, best[2]).float()
                for number, fold in enumerate(folds):
                    if fold.n_rows < total.n_rows:
                        weights[1 + number, predictors, index] = self._solve(total - fold, predictors, best[2]).float()
        return VectorAutoregression(weights[0], tuple(chosen), stretches, weights[1:])

    @property
    def _n_past(self) -> int:
        return int(self._lag.max())

    def _subset(self, n_components: int, n_lags: int) -> Tensor:
        """Predictors of the first components and lags, int ``(selected,)``."""
        return ((self._component < n_components) & (self._lag < n_lags)).nonzero()[:, 0]

    def _lagged(self, scores: Tensor) -> Tensor:
        """Predictors of every time point but the first `_n_past`: ``(time - _n_past, predictors)``."""
        n_time_points = len(scores) - self._n_past
        parts = []
        for lag in range(self._n_past + 1):
            start = self._n_past - lag
            parts.append(scores[start : start + n_time_points, self._component[self._lag == lag]])
        return torch.cat(parts, dim=1)

    def _accumulate(self, stretches: Sequence[Stretch], index: int, n_folds: int) -> list[RidgeStatistics]:
        """Sum up products of the predictors and with the residuals at one lead time, for each fold."""
        n_predictors, n_residuals = len(self._lag), self.space.n_residuals
        gram = torch.zeros(n_folds, n_predictors, n_predictors, dtype=torch.float64)
        cross = torch.zeros(n_folds, n_predictors, n_residuals, dtype=torch.float64)
        n_rows = [0.0] * n_folds
        for stretch in stretches:
            run = cast(ResidualRun, stretch.run)
            rows = run.targets[:, index].clone()
            target = torch.arange(run.n_time_points) + self.horizons[index]
            rows &= (target >= stretch.start) & (target < stretch.stop)
            # The first time points of a run lack some of the lags.
            rows[: self._n_past] = False
            predictors = self._lagged(pad(run.scores, (0, 0, self._n_past, 0)))[rows]
            gram[stretch.fold] += predictors.T @ predictors
            cross[stretch.fold] += predictors.T @ run.residuals[rows, index]
            n_rows[stretch.fold] += len(predictors)
        return [RidgeStatistics(*fold) for fold in zip(gram, cross, n_rows, strict=True)]

    def _solve(self, statistics: RidgeStatistics, predictors: Tensor, penalty: float) -> Tensor:
        return statistics.select(predictors).solve(penalty * statistics.n_rows * float(self.space.variance.mean()))

    def _choose(self, folds: Sequence[RidgeStatistics], total: RidgeStatistics) -> tuple[int, int, float] | None:
        folds = [fold for fold in folds if 0 < fold.n_rows < total.n_rows]
        available = self.space.components.shape[1]
        sizes = dict.fromkeys((min(n_components, available), n_lags) for n_components, n_lags in SIZES)
        options = [(*size, penalty) for size in sizes for penalty in PENALTIES]
        changes = torch.zeros(len(folds), len(options), dtype=torch.float64)
        for row, fold in enumerate(folds):
            rest = total - fold
            for column, (n_components, n_lags, penalty) in enumerate(options):
                predictors = self._subset(n_components, n_lags)
                weights = self._solve(rest, predictors, penalty)
                changes[row, column] = fold.select(predictors).error_change(weights)
        best = choose_option(changes)
        return None if best is None else options[best]


def _predictors(n_components: int) -> tuple[Tensor, Tensor]:
    """Lag and component of all predictors that some size uses, by lag: int ``(predictors,)`` each."""
    pairs = [
        (lag, component)
        for lag in range(max(n_lags for _, n_lags in SIZES))
        for component in range(min(n_components, max(size for size, n_lags in SIZES if lag < n_lags)))
    ]
    lags, components = zip(*pairs, strict=True)
    return torch.tensor(lags), torch.tensor(components)
