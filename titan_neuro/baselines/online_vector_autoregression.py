"""Linear forecasts from the whole brain's past that are updated on the run they forecast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.baselines.online_autoregression import OnlineAutoregressionBaseline
from titan_neuro.baselines.online_regression import (
    OnlineRegressionBaseline,
    OnlineRegressionState,
    Regression,
    TrainingRun,
    component_variance,
    init_averages,
    pair_runs,
)
from titan_neuro.baselines.shared_fits import SharedFits
from titan_neuro.baselines.vector_autoregression import VectorAutoregressionBaseline
from titan_neuro.linear.online_ridge import OnlineRidge, OnlineState
from titan_neuro.linear.running_averages import TIME_CONSTANTS, running_averages
from titan_neuro.typing import RunData


class _FromComponents(OnlineRegressionBaseline):
    """Predictors are the principal components of the last time point, and their running averages.

    All axes of the errors form one block.
    """

    group_penalties_tried = (1.0, 5.0)
    run_penalties_tried = (400.0, 1500.0)

    def _scale_components(self) -> None:
        """Scale the components of the space."""
        variance = component_variance(self.space)
        # Half-way to equal variances: small components contain more than their size suggests, but less than large ones.
        self._scale = variance**-0.25
        self._scaled_variance = float(variance.sqrt().mean())

    def _regression_of(self, horizons: tuple[int, ...], penalties: tuple[float, ...]) -> Regression:
        return _ExactRegression(horizons, penalties)

    @property
    def _shape(self) -> tuple[int, int]:
        return 1, self.space.components.shape[1] * (1 + len(TIME_CONSTANTS))

    @property
    def _unit(self) -> float:
        return self._scaled_variance

    def _init_predictors(self) -> tuple[Tensor, ...]:
        return (init_averages(self.space.components.shape[1]),)

    def _predict(self, series: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        predictors, averages = self._average(self.space.score(series), state[0])
        return predictors, (averages,)

    def _average(self, scores: Tensor, averages: Tensor) -> tuple[Tensor, Tensor]:
        """Predictors of every time point, ``(1, time, predictors)``, and the running averages after the last."""
        scores = scores * self._scale
        over_time, averages = running_averages(scores, averages)
        return torch.cat([scores, over_time.flatten(1)], dim=1)[None], averages


class OnlineVectorAutoregressionBaseline(_FromComponents):
    """VAR, plus a regression of its errors on the last time point and running averages, fitted during each run.

    Predictors are the principal components of the last time point, and their running averages with `TIME_CONSTANTS`.
    See :class:`OnlineRegressionBaseline` for what is learned when; the errors of a training run are those of VAR fitted
    without it.

    Attributes
    ----------
    var : VectorAutoregressionBaseline
        Fitted on the same runs.
    """

    name = "var-online"

    def __init__(self, horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> None:
        super().__init__(horizons, shared_fits)
        self.var = VectorAutoregressionBaseline(horizons, self.shared_fits)

    def _fit_first(self, runs: Sequence[RunData]) -> list[TrainingRun]:
        self.var.fit(runs)
        self.space = self.var.space
        self._scale_components()
        return pair_runs(self.var.fitted.stretches, runs)

    def _training_pairs(self, training_run: TrainingRun) -> tuple[Tensor, Tensor]:
        run = training_run.run
        errors = run.residuals - self.var.forecast_residuals(run, self.var.fitted.held_out[training_run.fold])
        return self._average(run.scores, self._init_predictors()[0])[0], errors[None]

    def _init_first(self) -> tuple[Tensor, Tensor]:
        return self.var.init_state()

    def _step_first(self, series: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.var.step(series, state)


class LinearOnlineBaseline(_FromComponents):
    """All that is linear in one person's own past: AR updated during the run, then the whole brain's past.

    First each axis from its own past (:class:`OnlineAutoregressionBaseline`); what that misses is learned as
    `var-online` learns the errors of VAR. On recordings whose phases are shuffled, where people differ in their spectra
    alone, this is what a forecaster that learns online may gain.

    Attributes
    ----------
    own : OnlineAutoregressionBaseline
        Fitted on the same runs.
    """

    name = "linear-online"

    def __init__(self, horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> None:
        super().__init__(horizons, shared_fits)
        self.own = OnlineAutoregressionBaseline(horizons, self.shared_fits)

    def _fit_first(self, runs: Sequence[RunData]) -> list[TrainingRun]:
        self.own.fit(runs)
        self.space = self.own.space
        self._scale_components()
        return self.own.training_runs

    def _training_pairs(self, training_run: TrainingRun) -> tuple[Tensor, Tensor]:
        predictors, _ = self._average(training_run.run.scores, self._init_predictors()[0])
        return predictors, self.own.training_errors(training_run)[None]

    def _init_first(self) -> OnlineRegressionState:
        return self.own.init_state()

    def _step_first(self, series: Tensor, state: OnlineRegressionState) -> tuple[Tensor, OnlineRegressionState]:
        return self.own.step(series, state)


class _ExactRegression:
    """`OnlineRidge`, whose weights are those of all complete pairs at every time point."""

    def __init__(self, horizons: tuple[int, ...], penalties: tuple[float, ...]) -> None:
        self._ridge = OnlineRidge(horizons, penalties)

    def init_state(self, n_blocks: int, n_predictors: int, n_axes: int) -> OnlineState:
        return self._ridge.init_state(n_predictors, n_axes, n_blocks)

    def step(self, predictors: Tensor, errors: Tensor, state: OnlineState) -> tuple[Tensor, OnlineState]:
        n_blocks, n_time_points, n_predictors = predictors.shape
        of_groups = predictors[:, None].expand(n_blocks, self._ridge.n_groups, n_time_points, n_predictors)
        corrections, _, state = self._ridge.step(of_groups, errors, state)
        return corrections, state
