"""Regressions that go on learning on the run they forecast: all that is linear in one person's own past."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from titan_neuro.baselines.base import Baseline
from titan_neuro.baselines.shared_fits import ResidualRun, ResidualSpace
from titan_neuro.baselines.shrinkage import held_out_change, shrinkage_weights
from titan_neuro.linear.lead_time import at_target_time, wait_for_targets
from titan_neuro.linear.ridge import choose_option, ridge_factor
from titan_neuro.linear.running_averages import TIME_CONSTANTS
from titan_neuro.runs import group_runs
from titan_neuro.typing import RunData, Stretch

# Lower limit of the variance of a component, as a fraction of the mean variance.
_MIN_VARIANCE = 1e-3


class TrainingRun(NamedTuple):
    """A training run as the regressions see it.

    Attributes
    ----------
    run : ResidualRun
    fold : int
        Its fold.
    observed : RunData
        The same run as it was given.
    """

    run: ResidualRun
    fold: int
    observed: RunData


class Regression(Protocol):
    """Learns errors from predictors while a run is read; its states are not changed in place."""

    def init_state(self, n_blocks: int, n_predictors: int, n_axes: int) -> Any:
        """State before the first time point."""

    def step(self, predictors: Tensor, errors: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Forecast the errors from every time point, and learn.

        Predictors are ``(blocks, time, predictors)``. Errors and what is returned are ``(blocks, time, horizons, axes
        of a block)``: the former at this time point, of the forecast made `horizon` time points earlier; the latter of
        the forecasts made now.
        """


class OnlineRegressionState(NamedTuple):
    """State of a stream.

    Attributes
    ----------
    first : object
        State of the forecaster whose errors are learned.
    predictors : tuple of torch.Tensor
        What the next predictors need of the past.
    pending : torch.Tensor
        Forecasts whose targets have not been read yet, ``(longest lead time, horizons, n_residuals)``.
    regression : object
        State of the regression on this run; None where no lead time has one.
    """

    first: Any
    predictors: tuple[Tensor, ...]
    pending: Tensor
    regression: Any


class OptionSums(NamedTuple):
    """Sums over the training runs of each subject, for each option.

    Attributes
    ----------
    change : torch.Tensor
        Change of the squared error by the group weights, float64 ``(groups, group options, horizons)``.
    cross, power : torch.Tensor
        For the correction by the regression on the run, ``(groups, group options, run penalties, horizons)``; see
        :func:`shrinkage_weights`.
    """

    change: Tensor
    cross: Tensor
    power: Tensor


class OnlineRegressionBaseline(Baseline[OnlineRegressionState]):
    """A forecaster, plus a regression of its errors on the run's own past, fitted during each run.

    The axes of the errors fall into blocks, each with predictors of its own. A ridge regression of the errors in the
    training runs gives the group weights. In a run, a ridge regression that shrinks towards the group weights is fitted
    to pairs of this run whose target has been read. Its difference from the group forecast is multiplied by one
    shrinkage weight per lead time. Penalties and shrinkage weights are chosen together on training subjects, whose runs
    are streamed as in the test, with group weights fitted without them. Either part is left out at lead times where it
    does not lower the error, and both with one training run.

    Attributes
    ----------
    group_penalties_tried, run_penalties_tried : tuple of float
        Ridge penalties of the group weights, per row, and of the weights of a run, in time points; both in units of the
        predictors' variance.
    least_run_time_points : int
        Runs from which group weights are learned have at least so many.
    space : ResidualSpace
        The axes; set by `fit`, as all that follows.
    weights : torch.Tensor
        Group weights, float32, ``(blocks, predictors, horizons, axes of a block)``.
    group_penalties : tuple of float or None
        Of each lead time; None: the group weights are 0.
    penalties : tuple of float or None
        Of the regression on a run, for each lead time; None: there is none.
    shrinkage : torch.Tensor
        Shrinkage weights, float32, ``(horizons,)``.
    """

    group_penalties_tried: ClassVar[tuple[float, ...]]
    run_penalties_tried: ClassVar[tuple[float, ...]]
    least_run_time_points: ClassVar[int] = 0
    space: ResidualSpace
    weights: Tensor
    group_penalties: tuple[float | None, ...]
    penalties: tuple[float | None, ...]
    shrinkage: Tensor

    @abstractmethod
    def _fit_first(self, runs: Sequence[RunData]) -> list[TrainingRun]:
        """Fit the forecaster whose errors are learned; the training runs, or none where there is only one."""

    @abstractmethod
    def _regression_of(self, horizons: tuple[int, ...], penalties: tuple[float, ...]) -> Regression:
        """A regression on a run; penalties are those of each horizon, times `_unit`."""

    @property
    @abstractmethod
    def _shape(self) -> tuple[int, int]:
        """Numbers of blocks and of the predictors of each."""

    @property
    @abstractmethod
    def _unit(self) -> float:
        """Variance of the predictors, in which penalties are given."""

    @abstractmethod
    def _training_pairs(self, training_run: TrainingRun) -> tuple[Tensor, Tensor]:
        """Predictors of a training run ``(blocks, time, predictors)``, and the errors that they are to forecast.

        Errors are ``(blocks, time, horizons, axes of a block)``, at the time of the forecast, of the forecaster fitted
        without the fold of this run where that matters.
        """

    @abstractmethod
    def _init_first(self) -> Any:
        """State of the forecaster whose errors are learned."""

    @abstractmethod
    def _init_predictors(self) -> tuple[Tensor, ...]:
        """What predictors need of the time before a run."""

    @abstractmethod
    def _step_first(self, series: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Forecasts by the forecaster whose errors are learned, ``(time, horizons, features)``."""

    @abstractmethod
    def _predict(self, series: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Predictors of each time point, ``(blocks, time, predictors)``."""

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; raises what :meth:`SharedFits.residuals` does."""
        training_runs = self._fit_first(runs)
        n_blocks, n_predictors = self._shape
        no_penalties: tuple[float | None, ...] = (None,) * len(self.horizons)
        self.group_penalties = self.penalties = no_penalties
        self.shrinkage = torch.zeros(len(self.horizons))
        self.weights = torch.zeros(n_blocks, n_predictors, len(self.horizons), self.space.n_residuals // n_blocks)
        self._held_out = self.weights[None]
        if training_runs:
            weights = self._fit_group(training_runs)
            self._choose(weights, self._test_options(training_runs, weights))
        penalty_of = {index: penalty for index, penalty in enumerate(self.penalties) if penalty is not None}
        self._updated = list(penalty_of)
        self._regression_horizons = tuple(self.horizons[index] for index in penalty_of)
        penalties = tuple(self._unit * penalty for penalty in penalty_of.values())
        self._regression = self._regression_of(self._regression_horizons, penalties) if penalties else None

    def init_state(self) -> OnlineRegressionState:
        """State before the first time point of a run."""
        n_blocks, n_predictors, _, n_axes = self.weights.shape
        regression = self._regression.init_state(n_blocks, n_predictors, n_axes) if self._regression else None
        pending = torch.zeros(max(self.horizons), len(self.horizons), self.space.n_residuals)
        return OnlineRegressionState(self._init_first(), self._init_predictors(), pending, regression)

    def step(self, series: Tensor, state: OnlineRegressionState) -> tuple[Tensor, OnlineRegressionState]:
        """Forecast from each time point of ``(time, features)``: ``(time, horizons, features)``."""
        forecasts, first = self._step_first(series, state.first)
        predictors, before = self._predict(series, state.predictors)
        correction = _forecast(predictors, self.weights)
        pending, regression = state.pending, state.regression
        if self._regression:
            made = self.space.to_residuals(forecasts) + self._join(correction)
            due, pending = wait_for_targets(pending, made, self.horizons)
            errors = self._split(self.space.to_residuals(series)[:, None] - due[:, self._updated])
            expected_errors, regression = self._regression.step(predictors, errors, regression)
            correction[:, :, self._updated] += self.shrinkage[self._updated, None] * expected_errors
            # A copy, or the forecasts of the whole block would stay in memory.
            pending = pending.clone()
        next_state = OnlineRegressionState(first, before, pending, regression)
        return forecasts + self.space.to_features(self._join(correction)), next_state

    def training_errors(self, training_run: TrainingRun) -> Tensor:
        """Errors of this forecaster in a training run, streamed as in the test with group weights fitted without it.

        Parameters
        ----------
        training_run : TrainingRun
            One of those that this forecaster was fitted to.

        Returns
        -------
        torch.Tensor
            ``(time, horizons, n_residuals)``, at the time of the forecast.
        """
        predictors, errors = self._training_pairs(training_run)
        errors = errors - _forecast(predictors, self._held_out[training_run.fold])
        if self._regression:
            arrived = at_target_time(errors[:, :, self._updated], self._regression_horizons, dim=1)
            state = self._regression.init_state(len(predictors), predictors.shape[2], errors.shape[3])
            expected, _ = self._regression.step(predictors, arrived, state)
            errors[:, :, self._updated] -= self.shrinkage[self._updated, None] * expected
        return self._join(errors)

    def _split(self, residuals: Tensor) -> Tensor:
        """From ``(time, horizons, n_residuals)`` to ``(blocks, time, horizons, axes of a block)``."""
        n_time_points, n_horizons, n_residuals = residuals.shape
        n_blocks = self._shape[0]
        return residuals.reshape(n_time_points, n_horizons, n_blocks, n_residuals // n_blocks).movedim(2, 0)

    def _join(self, blocks: Tensor) -> Tensor:
        """From ``(blocks, time, horizons, axes of a block)`` to ``(time, horizons, n_residuals)``."""
        return blocks.movedim(0, -2).flatten(-2)

    def _fit_group(self, training_runs: Sequence[TrainingRun]) -> Tensor:
        """Fit group weights without each fold and, last, on all folds.

        Returns
        -------
        torch.Tensor
            ``(folds + 1, options, blocks, predictors, horizons, axes of a block)``; the first option is weights of 0.
        """
        n_folds, shape = max(each.fold for each in training_runs) + 1, self.weights.shape
        n_blocks, n_predictors = shape[:2]
        gram = torch.zeros(n_folds, n_blocks, n_predictors, n_predictors)
        cross = torch.zeros(n_folds, n_blocks, n_predictors, shape[2] * shape[3])
        n_rows = torch.zeros(n_folds)
        for each in training_runs:
            if each.run.n_time_points < self.least_run_time_points:
                continue
            predictors, errors = self._training_pairs(each)
            rows = each.run.targets.float()
            # Lead times share their products: they differ only in the rows next to a gap.
            row_weights = rows.mean(1)
            gram[each.fold] += predictors.mT @ (row_weights[:, None] * predictors)
            cross[each.fold] += predictors.mT @ (rows[..., None] * errors).flatten(2)
            n_rows[each.fold] += row_weights.sum()
        fitted = torch.zeros(n_folds + 1, 1 + len(self.group_penalties_tried), *shape)
        # The last row leaves out no fold.
        for row in range(n_folds + 1):
            others = torch.arange(n_folds) != row
            products, sums, count = gram[others].sum(0).double(), cross[others].sum(0), float(n_rows[others].sum())
            if count == 0:
                continue
            for option, penalty in enumerate(self.group_penalties_tried, start=1):
                factor = ridge_factor(products, penalty * self._unit * count)
                fitted[row, option] = torch.cholesky_solve(sums.double(), factor).reshape(shape)
        return fitted

    def _test_options(self, training_runs: Sequence[TrainingRun], weights: Tensor) -> OptionSums:
        """Stream each training run, with group weights fitted without it, by every option."""
        groups = group_runs([each.run for each in training_runs])
        group_of = {run.key: number for number, group in enumerate(groups) for run in group}
        n_options, n_penalties, n_horizons = weights.shape[1], len(self.run_penalties_tried), len(self.horizons)
        change = torch.zeros(len(groups), n_options, n_horizons, dtype=torch.float64)
        cross = torch.zeros(len(groups), n_options, n_penalties, n_horizons, dtype=torch.float64)
        sums = OptionSums(change, cross, torch.zeros_like(cross))
        for each in training_runs:
            group = group_of[each.run.key]
            self._add_run(each, weights[each.fold], OptionSums(*(part[group] for part in sums)))
        return sums

    def _add_run(self, training_run: TrainingRun, weights: Tensor, sums: OptionSums) -> None:
        """Add one training run to the sums of its subject, in place."""
        predictors, errors = self._training_pairs(training_run)
        rows = training_run.run.targets[..., None]
        remaining = [errors - _forecast(predictors, option) for option in weights]
        for option, after_group in enumerate(remaining):
            sums.change[option] += ((after_group.square() - errors.square()) * rows).sum((0, 1, 3))
        # To the regression, options are further lead times: they share the inverse.
        horizons = self.horizons * len(weights)
        errors_at_target = at_target_time(torch.cat(remaining, dim=2), horizons, dim=1)
        for column, penalty in enumerate(self.run_penalties_tried):
            regression = self._regression_of(horizons, (self._unit * penalty,) * len(horizons))
            state = regression.init_state(len(predictors), predictors.shape[2], errors.shape[3])
            corrections, _ = regression.step(predictors, errors_at_target, state)
            for option, correction in enumerate(torch.split(corrections, len(self.horizons), dim=2)):
                sums.cross[option, column] += (correction * remaining[option] * rows).sum((0, 1, 3))
                sums.power[option, column] += (correction.square() * rows).sum((0, 1, 3))

    def _choose(self, weights: Tensor, sums: OptionSums) -> None:
        change = sums.change[:, :, None]
        with_regression = change + held_out_change(sums.cross[..., None], sums.power[..., None])
        # The last column: no regression on the run.
        changes = torch.cat([with_regression, change], dim=2)
        group_penalties: list[float | None] = [None] * len(self.horizons)
        penalties = list(group_penalties)
        chosen = torch.zeros_like(weights[:, 0])
        for index in range(len(self.horizons)):
            best = choose_option(changes[..., index].flatten(1))
            if best is None:
                continue
            option, column = divmod(best, changes.shape[2])
            chosen[..., index, :] = weights[:, option, :, :, index]
            group_penalties[index] = (None, *self.group_penalties_tried)[option]
            if column < len(self.run_penalties_tried):
                penalties[index] = self.run_penalties_tried[column]
                where = (slice(None), option, column, index)
                self.shrinkage[index] = shrinkage_weights(sums.cross[where], sums.power[where])
        self.weights, self._held_out = chosen[-1], chosen[:-1]
        self.group_penalties, self.penalties = tuple(group_penalties), tuple(penalties)


def pair_runs(stretches: Sequence[Stretch], runs: Sequence[RunData]) -> list[TrainingRun]:
    """Pair the runs in the space of the residuals, in `stretches`, with the same runs as they were given.

    There are none where `runs` is a single one: it is split into stretches, which can't be streamed separately.
    """
    if len(runs) == 1:
        return []
    return [
        TrainingRun(cast(ResidualRun, stretch.run), stretch.fold, run)
        for stretch, run in zip(stretches, runs, strict=True)
    ]


def component_variance(space: ResidualSpace) -> Tensor:
    """Variance of the components, that of the smallest ones raised so that it can be divided by: ``(components,)``."""
    return space.variance.clamp(min=_MIN_VARIANCE * float(space.variance.mean()))


def init_averages(n_axes: int) -> Tensor:
    """Running averages before a run: zeros, ``(time constants, axes)``."""
    return torch.zeros(len(TIME_CONSTANTS), n_axes)


def _forecast(predictors: Tensor, weights: Tensor) -> Tensor:
    """From ``(blocks, time, predictors)`` to ``(blocks, time, horizons, axes of a block)``."""
    forecasts = predictors @ weights.flatten(2)
    return forecasts.reshape(*predictors.shape[:2], *weights.shape[2:])
