"""Vector autoregression that is updated on the run it forecasts: all that is linear in one person's own past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from titan_neuro.baselines.base import Baseline
from titan_neuro.baselines.shared_fits import ResidualRun, ResidualSpace, SharedFits
from titan_neuro.baselines.shrinkage import choose_option, held_out_change, shrinkage_weights
from titan_neuro.baselines.vector_autoregression import VectorAutoregressionBaseline
from titan_neuro.linear.lead_time import at_target_time, wait_for_targets
from titan_neuro.linear.online_ridge import OnlineRidge, OnlineState
from titan_neuro.linear.ridge import RidgeStatistics
from titan_neuro.linear.running_averages import TIME_CONSTANTS, running_averages
from titan_neuro.runs import group_runs
from titan_neuro.typing import RunData, Stretch

# Ridge penalties of the group weights, per row, and of the weights of a run, in time points; both in units of the
# predictors' variance.
GROUP_PENALTIES = (1.0, 5.0)
RUN_PENALTIES = (400.0, 1500.0)
# Lower limit of a component's variance, as a fraction of the mean variance.
_MIN_VARIANCE = 1e-3


class OnlineVectorAutoregressionState(NamedTuple):
    """State of a stream.

    Attributes
    ----------
    var : tuple of torch.Tensor
        State of VAR.
    averages : torch.Tensor
        Running averages, ``(time constants, components)``.
    pending : torch.Tensor
        Forecasts whose targets have not been read yet, ``(longest lead time, horizons, n_residuals)``.
    regression : OnlineState or None
        Regression on this run; None where no lead time has one.
    """

    var: tuple[Tensor, Tensor]
    averages: Tensor
    pending: Tensor
    regression: OnlineState | None


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


class OnlineVectorAutoregressionBaseline(Baseline[OnlineVectorAutoregressionState]):
    """VAR, plus a regression of its errors on the last time point and running averages, fitted during each run.

    Predictors are the principal components of the last time point, and their running averages with `TIME_CONSTANTS`. A
    ridge regression of the errors of VAR in the training runs gives the group weights. In a run, a ridge regression
    that shrinks towards the group weights is fitted to those pairs of this run whose target has been read; see
    :class:`OnlineRidge`. Its difference from the group forecast is multiplied by one shrinkage weight per lead time.
    Penalties and shrinkage weights are chosen together on training subjects, whose runs are streamed as in the test,
    with VAR and group weights fitted without them. Either part is left out at lead times where it does not lower the
    error, and both with one training run.

    Attributes
    ----------
    var : VectorAutoregressionBaseline
        Fitted on the same runs.
    weights : torch.Tensor
        Group weights, float32, ``(predictors, horizons, n_residuals)``; set by `fit`, as all that follows.
    group_penalties : tuple of float or None
        Of each lead time; None: the group weights are 0.
    penalties : tuple of float or None
        Of the regression on a run, for each lead time; None: there is none.
    shrinkage : torch.Tensor
        Shrinkage weights, float32, ``(horizons,)``.
    """

    name = "var-online"
    weights: Tensor
    group_penalties: tuple[float | None, ...]
    penalties: tuple[float | None, ...]
    shrinkage: Tensor

    def __init__(self, horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> None:
        super().__init__(horizons, shared_fits)
        self.var = VectorAutoregressionBaseline(horizons, self.shared_fits)

    @property
    def space(self) -> ResidualSpace:
        """The axes; set by `fit`."""
        return self.var.space

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; raises what :meth:`SharedFits.residuals` does."""
        self.var.fit(runs)
        variance = self.space.variance.clamp(min=_MIN_VARIANCE * float(self.space.variance.mean()))
        # Half-way to equal variances: small components contain more than their size suggests, but less than large ones.
        self._scale = variance**-0.25
        self._unit = float(variance.sqrt().mean())
        stretches = self.var.fitted.stretches
        no_penalties: tuple[float | None, ...] = (None,) * len(self.horizons)
        self.group_penalties = self.penalties = no_penalties
        self.shrinkage = torch.zeros(len(self.horizons))
        self.weights = torch.zeros(self._n_predictors, len(self.horizons), self.space.n_residuals)
        # A single training run is split into stretches, which can't be streamed separately.
        if len({stretch.run.key for stretch in stretches}) > 1:
            weights = self._fit_group(stretches)
            self._choose(weights[-1], self._test_options(stretches, weights))
        penalty_of = {index: penalty for index, penalty in enumerate(self.penalties) if penalty is not None}
        self._updated = list(penalty_of)
        horizons = tuple(self.horizons[index] for index in penalty_of)
        penalties = tuple(self._unit * penalty for penalty in penalty_of.values())
        self._regression = OnlineRidge(horizons, penalties) if horizons else None

    def init_state(self) -> OnlineVectorAutoregressionState:
        """State before the first time point of a run."""
        n_residuals, longest = self.space.n_residuals, max(self.horizons)
        regression = self._regression.init_state(len(self.weights), n_residuals) if self._regression else None
        pending = torch.zeros(longest, len(self.horizons), n_residuals)
        return OnlineVectorAutoregressionState(self.var.init_state(), self._init_averages(), pending, regression)

    def step(
        self, series: Tensor, state: OnlineVectorAutoregressionState
    ) -> tuple[Tensor, OnlineVectorAutoregressionState]:
        """Forecast from each time point of ``(time, features)``: ``(time, horizons, features)``."""
        forecasts, var = self.var.step(series, state.var)
        predictors, averages = self._average(self.space.score(series), state.averages)
        correction = (predictors @ self.weights.flatten(1)).reshape(len(series), *state.pending.shape[1:])
        pending, regression = state.pending, state.regression
        if self._regression and regression is not None:
            made = self.space.to_residuals(forecasts) + correction
            due, pending = wait_for_targets(pending, made, self.horizons)
            errors = self.space.to_residuals(series)[:, None] - due[:, self._updated]
            expected_errors, regression = _regress(self._regression, predictors, errors, regression)
            correction[:, self._updated] += self.shrinkage[self._updated, None] * expected_errors
            # A copy, or the forecasts of the whole block would stay in memory.
            pending = pending.clone()
        next_state = OnlineVectorAutoregressionState(var, averages, pending, regression)
        return forecasts + self.space.to_features(correction), next_state

    @property
    def _n_predictors(self) -> int:
        return self.space.components.shape[1] * (1 + len(TIME_CONSTANTS))

    def _init_averages(self) -> Tensor:
        return torch.zeros(len(TIME_CONSTANTS), self.space.components.shape[1])

    def _average(self, scores: Tensor, averages: Tensor) -> tuple[Tensor, Tensor]:
        """Predictors of every time point, ``(time, predictors)``, and the running averages after the last."""
        scores = scores * self._scale
        over_time, averages = running_averages(scores, averages)
        return torch.cat([scores, over_time.flatten(1)], dim=1), averages

    def _predictors_and_errors(self, stretch: Stretch) -> tuple[Tensor, Tensor]:
        """Predictors of a training run ``(time, predictors)``, and errors of VAR fitted without its fold.

        Errors are ``(time, horizons, n_residuals)``, at the time of the forecast.
        """
        run = cast(ResidualRun, stretch.run)
        errors = run.residuals - self.var.forecast_residuals(run, self.var.fitted.held_out[stretch.fold])
        return self._average(run.scores, self._init_averages())[0], errors

    def _fit_group(self, stretches: Sequence[Stretch]) -> Tensor:
        """Fit group weights without each fold and, last, on all folds.

        Returns
        -------
        torch.Tensor
            ``(folds + 1, options, predictors, horizons, n_residuals)``; the first option is weights of 0.
        """
        n_folds, shape = max(stretch.fold for stretch in stretches) + 1, (len(self.horizons), self.space.n_residuals)
        gram = torch.zeros(n_folds, self._n_predictors, self._n_predictors)
        cross = torch.zeros(n_folds, self._n_predictors, shape[0] * shape[1])
        n_rows = torch.zeros(n_folds)
        for stretch in stretches:
            predictors, errors = self._predictors_and_errors(stretch)
            rows = cast(ResidualRun, stretch.run).targets.float()
            # Lead times share their products: they differ only in the rows next to a gap.
            row_weights = rows.mean(1)
            gram[stretch.fold] += predictors.T @ (row_weights[:, None] * predictors)
            cross[stretch.fold] += predictors.T @ (rows[..., None] * errors).flatten(1)
            n_rows[stretch.fold] += row_weights.sum()
        fitted = torch.zeros(n_folds + 1, 1 + len(GROUP_PENALTIES), self._n_predictors, *shape)
        # The last row leaves out no fold.
        for row in range(n_folds + 1):
            others = torch.arange(n_folds) != row
            statistics = RidgeStatistics(
                gram[others].sum(0).double(), cross[others].sum(0), float(n_rows[others].sum())
            )
            for option, penalty in enumerate(GROUP_PENALTIES, start=1):
                weights = statistics.solve(penalty * self._unit * statistics.n_rows)
                fitted[row, option] = weights.reshape(fitted.shape[2:])
        return fitted

    def _test_options(self, stretches: Sequence[Stretch], weights: Tensor) -> OptionSums:
        """Stream each training run, with group weights fitted without it, by every option."""
        groups = group_runs([cast(ResidualRun, stretch.run) for stretch in stretches])
        group_of = {run.key: number for number, group in enumerate(groups) for run in group}
        n_options, n_horizons = weights.shape[1], len(self.horizons)
        change = torch.zeros(len(groups), n_options, n_horizons, dtype=torch.float64)
        cross = torch.zeros(len(groups), n_options, len(RUN_PENALTIES), n_horizons, dtype=torch.float64)
        sums = OptionSums(change, cross, torch.zeros_like(cross))
        for stretch in stretches:
            group = group_of[stretch.run.key]
            self._add_run(stretch, weights[stretch.fold], OptionSums(*(part[group] for part in sums)))
        return sums

    def _add_run(self, stretch: Stretch, weights: Tensor, sums: OptionSums) -> None:
        """Add one training run to the sums of its subject, in place."""
        predictors, errors = self._predictors_and_errors(stretch)
        rows = cast(ResidualRun, stretch.run).targets[..., None]
        remaining = [errors - torch.tensordot(predictors, option, 1) for option in weights]
        for option, after_group in enumerate(remaining):
            sums.change[option] += ((after_group.square() - errors.square()) * rows).sum((0, 2))
        # To the regression, options are further lead times: they share the inverse.
        horizons = self.horizons * len(weights)
        errors_at_target = at_target_time(torch.cat(remaining, dim=1), horizons)
        for column, penalty in enumerate(RUN_PENALTIES):
            regression = OnlineRidge(horizons, (self._unit * penalty,) * len(horizons))
            state = regression.init_state(predictors.shape[1], errors.shape[2])
            corrections, _ = _regress(regression, predictors, errors_at_target, state)
            for option, correction in enumerate(torch.split(corrections, len(self.horizons), dim=1)):
                sums.cross[option, column] += (correction * remaining[option] * rows).sum((0, 2))
                sums.power[option, column] += (correction.square() * rows).sum((0, 2))

    def _choose(self, weights: Tensor, sums: OptionSums) -> None:
        change = sums.change[:, :, None]
        with_regression = change + held_out_change(sums.cross[..., None], sums.power[..., None])
        # The last column: no regression on the run.
        changes = torch.cat([with_regression, change], dim=2)
        group_penalties: list[float | None] = [None] * len(self.horizons)
        penalties = list(group_penalties)
        for index in range(len(self.horizons)):
            best = choose_option(changes[..., index].flatten(1))
            if best is None:
                continue
            option, column = divmod(best, changes.shape[2])
            self.weights[:, index] = weights[option, :, index]
            group_penalties[index] = (None, *GROUP_PENALTIES)[option]
            if column < len(RUN_PENALTIES):
                penalties[index] = RUN_PENALTIES[column]
                where = (slice(None), option, column, index)
                self.shrinkage[index] = shrinkage_weights(sums.cross[where], sums.power[where])
        self.group_penalties, self.penalties = tuple(group_penalties), tuple(penalties)


def _regress(
    regression: OnlineRidge, predictors: Tensor, errors: Tensor, state: OnlineState
) -> tuple[Tensor, OnlineState]:
    """Take a step of one stream; predictors are ``(time, predictors)``, errors ``(time, horizons, outputs)``."""
    predictors_of_groups = predictors.expand(1, regression.n_groups, *predictors.shape)
    corrections, _, state = regression.step(predictors_of_groups, errors[None], state)
    return corrections[0], state
