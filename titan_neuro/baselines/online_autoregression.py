"""Autoregression that is updated on the run it forecasts: each feature from its own past alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.baselines.online_regression import (
    OnlineRegressionBaseline,
    Regression,
    TrainingRun,
    component_variance,
    init_averages,
    pair_runs,
)
from titan_neuro.linear.lagged_statistics import assign_folds
from titan_neuro.linear.refitted_ridge import RefittedRidge
from titan_neuro.linear.running_averages import (
    LEAST_RUN_TIME_POINTS,
    N_LAGS,
    N_OWN_PREDICTORS,
    own_predictors,
)
from titan_neuro.runs import read_blocks
from titan_neuro.typing import RunData

_N_FOLDS = 5


class OnlineAutoregressionBaseline(OnlineRegressionBaseline):
    """AR, plus a regression of its errors on each axis's own last time points and running averages.

    An axis is a feature; where there are many features, a principal component. Its predictors are its last time points
    and running averages (:func:`own_predictors`), and nothing of the other axes: people differ in the
    autocorrelation of their signals, and what a forecaster gains by learning that is no knowledge of the stimulus. See
    :class:`OnlineRegressionBaseline` for what is learned when.
    """

    name = "ar-online"
    group_penalties_tried = (0.005, 0.02, 0.1, 0.5)
    least_run_time_points = LEAST_RUN_TIME_POINTS
    run_penalties_tried = (30.0, 100.0, 400.0)

    def _fit_first(self, runs: Sequence[RunData]) -> list[TrainingRun]:
        self.space, projected = self.shared_fits.residuals(runs)
        self._scale = torch.ones(1) if self.space.is_plain else component_variance(self.space).rsqrt()
        self.training_runs = pair_runs(assign_folds(projected, _N_FOLDS), runs)
        return self.training_runs

    def _regression_of(self, horizons: tuple[int, ...], penalties: tuple[float, ...]) -> Regression:
        return RefittedRidge(horizons, penalties)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.space.n_residuals, N_OWN_PREDICTORS

    @property
    def _unit(self) -> float:
        return 1.0

    def _training_pairs(self, training_run: TrainingRun) -> tuple[Tensor, Tensor]:
        axes = torch.cat([self._axes(series) for _, series in read_blocks(training_run.observed)])
        return own_predictors(axes, *self._init_predictors())[0], self._split(training_run.run.residuals)

    def _init_first(self) -> tuple[Tensor, ...]:
        return (self.space.init_state(),)

    def _init_predictors(self) -> tuple[Tensor, ...]:
        return torch.zeros(N_LAGS - 1, self.space.n_residuals), init_averages(self.space.n_residuals)

    def _step_first(self, series: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        forecasts, history = self.space.autoregress(series, *state)
        return forecasts, (history,)

    def _predict(self, series: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        predictors, *state_after = own_predictors(self._axes(series), *state)
        return predictors, tuple(state_after)

    def _axes(self, series: Tensor) -> Tensor:
        """The axes at each time point, of about unit variance: ``(time, axes)``."""
        return (series if self.space.is_plain else self.space.score(series)) * self._scale
