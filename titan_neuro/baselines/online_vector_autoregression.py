"""Vector autoregression that goes on learning on the run that it forecasts: all that is linear in one person's past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from titan_neuro.baselines.shared_fits import ResidualRun, ResidualSpace, SharedFits
from titan_neuro.baselines.sharing import choose_option, held_out_change, shrunk_gain
from titan_neuro.baselines.vector_autoregression import VectorAutoregressionBaseline
from titan_neuro.linear.lead_time import at_target_time
from titan_neuro.linear.online_ridge import OnlineRidge, OnlineState
from titan_neuro.linear.ridge import RidgeStatistics
from titan_neuro.runs import group_runs
from titan_neuro.typing import RunData, Stretch

# Time points that a running average looks back. Recordings have slow waves that a few lags don't tell from noise.
TIME_CONSTANTS = (5, 15, 40, 100)
# Ridge penalties of the group's weights, per row, and of a run's own, in time points, in units of the predictors'
# variance.
GROUP_PENALTIES = (1.0, 5.0)
OWN_PENALTIES = (400.0, 1500.0)
# No component counts for less than this share of the mean variance.
_LEAST_VARIANCE = 1e-3


class LearnerState(NamedTuple):
    """State of a stream: that of VAR, running averages, forecasts whose targets are to come, and what was learned."""

    var: tuple[Tensor, Tensor]
    averages: Tensor
    pending: Tensor
    learned: OnlineState | None


class OnlineVectorAutoregressionBaseline:
    """VAR, plus a regression of what it leaves on the last time point and running averages, which learns in every run
    anew.

    Predictors are principal components of the last time point, and their running averages over `TIME_CONSTANTS` time
    points. A ridge regression of what VAR leaves of the training runs gives the group's weights. In a run, the weights
    are those of a ridge regression towards the group's, on the pairs of this run whose target has been seen; see
    :class:`OnlineRidge`. What they add to the group's forecast is scaled by one gain a horizon. Penalties and gains are
    chosen together on training subjects, going through their runs as at test, VAR and the group's weights being fitted
    without them; either part is left out at horizons where it doesn't pay, and both where there is one training run.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    shared_fits : SharedFits, optional
        Shared with other rows of the table.

    Attributes
    ----------
    var : VectorAutoregressionBaseline
        Fitted on the same runs.
    weights : torch.Tensor
        The group's, float32, ``(predictors, horizons, n_residuals)``.
    group_penalties : tuple of float or None
        Of each horizon; None: the group's weights are 0.
    penalties : tuple of float or None
        Of a run's own learning at each horizon; None: nothing is learned.
    gain : torch.Tensor
        float32, ``(horizons,)``.
    """

    name = "var-online"
    weights: Tensor
    group_penalties: tuple[float | None, ...]
    penalties: tuple[float | None, ...]
    gain: Tensor

    def __init__(self, horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> None:
        self.horizons = horizons
        self.var = VectorAutoregressionBaseline(horizons, shared_fits)

    @property
    def space(self) -> ResidualSpace:
        """The axes; there once `fit` was called."""
        return self.var.space

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; see :meth:`SharedFits.residuals` for what it raises."""
        self.var.fit(runs)
        spread = self.space.variance.clamp(min=_LEAST_VARIANCE * float(self.space.variance.mean()))
        # Half-way to equal variances: small components say more of a person than their size, though less than large.
        self._scale = spread**-0.25
        self._unit = float(spread.sqrt().mean())
        stretches = self.var.fitted.stretches
        nothing: tuple[float | None, ...] = (None,) * len(self.horizons)
        self.group_penalties, self.penalties, self.gain = nothing, nothing, torch.zeros(len(self.horizons))
        self.weights = torch.zeros(self._n_predictors, len(self.horizons), self.space.n_residuals)
        # The only run of a training set comes in stretches.
        if len({stretch.run.key for stretch in stretches}) > 1:
            weights = self._fit_group(stretches)
            self._choose(weights[-1], *self._try_out(stretches, weights))
        learning = {index: penalty for index, penalty in enumerate(self.penalties) if penalty is not None}
        self._learning = list(learning)
        ahead = tuple(self.horizons[index] for index in learning)
        own = tuple(self._unit * penalty for penalty in learning.values())
        self._learner = OnlineRidge(ahead, own) if ahead else None

    def init_state(self) -> LearnerState:
        """Nothing seen, and nothing learned."""
        n_residuals, longest = self.space.n_residuals, max(self.horizons)
        learned = self._learner.init_state(len(self.weights), n_residuals) if self._learner else None
        pending = torch.zeros(longest, len(self.horizons), n_residuals)
        return LearnerState(self.var.init_state(), self._no_averages(), pending, learned)

    def step(self, series: Tensor, state: LearnerState) -> tuple[Tensor, LearnerState]:
        """Forecast from every time point: ``(time, horizons, features)``."""
        forecasts, var = self.var.step(series, state.var)
        predictors, averages = self._predict_from(self.space.score(series), state.averages)
        more = (predictors @ self.weights.flatten(1)).reshape(len(series), *state.pending.shape[1:])
        pending, learned = state.pending, state.learned
        if self._learner and learned is not None:
            pending = torch.cat([pending, self.space.to_residuals(forecasts) + more])
            errors = self._fall_due(self.space.to_residuals(series), pending)
            own, learned = self._learner.step(predictors, errors, learned)
            more[:, self._learning] += self.gain[self._learning, None] * own
            pending = pending[len(series) :].clone()
        return forecasts + self.space.to_features(more), LearnerState(var, averages, pending, learned)

    def _fall_due(self, observed: Tensor, pending: Tensor) -> Tensor:
        """What the forecasts of these time points missed, ``(time, learning horizons, n_residuals)``."""
        longest, n_time_points = max(self.horizons), len(observed)
        starts = {index: longest - self.horizons[index] for index in self._learning}
        return torch.stack([observed - pending[at : at + n_time_points, index] for index, at in starts.items()], dim=1)

    @property
    def _n_predictors(self) -> int:
        return self.space.components.shape[1] * (1 + len(TIME_CONSTANTS))

    def _no_averages(self) -> Tensor:
        return torch.zeros(len(TIME_CONSTANTS), self.space.components.shape[1])

    def _predict_from(self, scores: Tensor, averages: Tensor) -> tuple[Tensor, Tensor]:
        """Predictors of every time point, ``(time, predictors)``, and the averages after the last."""
        scores = scores * self._scale
        spans = torch.tensor(TIME_CONSTANTS, dtype=scores.dtype)[:, None]
        parts = [torch.cat([scores[:0, None], averages[None][:0]], dim=1)]
        for time_point in scores:
            averages = averages + (time_point - averages) / spans
            # Half the variance of white noise is kept: what is slow counts as much as the last time point.
            parts.append(torch.cat([time_point[None], averages * spans.sqrt()])[None])
        return torch.cat(parts).flatten(1), averages

    def _left_over(self, stretch: Stretch) -> tuple[Tensor, Tensor]:
        """Predictors of a training run, and what VAR, fitted without its fold, leaves of its time points to come."""
        run = cast(ResidualRun, stretch.run)
        residuals = run.residuals - self.var.beyond(run, self.var.fitted.held_out[stretch.fold])
        return self._predict_from(run.scores, self._no_averages())[0], residuals

    def _fit_group(self, stretches: Sequence[Stretch]) -> Tensor:
        """Fit weights without each fold and, last, on all: ``(folds + 1, options, predictors, horizons, n_residuals)``.

        The first option is to have none.
        """
        n_folds, shape = max(stretch.fold for stretch in stretches) + 1, (len(self.horizons), self.space.n_residuals)
        gram = torch.zeros(n_folds, self._n_predictors, self._n_predictors)
        cross = torch.zeros(n_folds, self._n_predictors, shape[0] * shape[1])
        n_rows = torch.zeros(n_folds)
        for stretch in stretches:
            predictors, residuals = self._left_over(stretch)
            rows = cast(ResidualRun, stretch.run).targets.float()
            # Horizons share their products: they differ in the rows next to a gap alone.
            shared = rows.mean(1)
            gram[stretch.fold] += predictors.T @ (shared[:, None] * predictors)
            cross[stretch.fold] += predictors.T @ (rows[..., None] * residuals).flatten(1)
            n_rows[stretch.fold] += shared.sum()
        fitted = torch.zeros(n_folds + 1, 1 + len(GROUP_PENALTIES), self._n_predictors, *shape)
        # The last row leaves out no fold.
        for row in range(n_folds + 1):
            keep = torch.arange(n_folds) != row
            statistics = RidgeStatistics(gram[keep].sum(0).double(), cross[keep].sum(0), float(n_rows[keep].sum()))
            for option, penalty in enumerate(GROUP_PENALTIES, start=1):
                solved = statistics.solve(penalty * self._unit * statistics.n_rows)
                fitted[row, option] = solved.reshape(fitted.shape[2:])
        return fitted

    def _try_out(self, stretches: Sequence[Stretch], weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Learn through each training run, from the group's weights without it, by every option.

        Returns
        -------
        change : torch.Tensor
            Of the squared error by the group's forecast, float64 ``(groups, options, horizons)``.
        cross, power : torch.Tensor
            Of what is learned on top of it, ``(groups, options, own penalties, horizons)``; see :func:`shrunk_gain`.
        """
        groups = group_runs([cast(ResidualRun, stretch.run) for stretch in stretches])
        group_of = {run.key: number for number, group in enumerate(groups) for run in group}
        n_options, n_horizons = weights.shape[1], len(self.horizons)
        change = torch.zeros(len(groups), n_options, n_horizons, dtype=torch.float64)
        cross = torch.zeros(len(groups), n_options, len(OWN_PENALTIES), n_horizons, dtype=torch.float64)
        power = torch.zeros_like(cross)
        for stretch in stretches:
            group = group_of[stretch.run.key]
            predictors, left = self._left_over(stretch)
            rows = cast(ResidualRun, stretch.run).targets[..., None]
            missed = [left - torch.tensordot(predictors, option, 1) for option in weights[stretch.fold]]
            for option, one in enumerate(missed):
                change[group, option] += ((one.square() - left.square()) * rows).sum((0, 2))
            # Options are horizons more to the learner: they share the inverse.
            horizons = self.horizons * n_options
            errors = at_target_time(torch.cat(missed, dim=1), horizons)
            for column, penalty in enumerate(OWN_PENALTIES):
                learner = OnlineRidge(horizons, (self._unit * penalty,) * len(horizons))
                own, _ = learner.step(predictors, errors, learner.init_state(predictors.shape[1], left.shape[2]))
                for option, learned in enumerate(torch.split(own, n_horizons, dim=1)):
                    cross[group, option, column] += (learned * missed[option] * rows).sum((0, 2))
                    power[group, option, column] += (learned.square() * rows).sum((0, 2))
        return change, cross, power

    def _choose(self, weights: Tensor, change: Tensor, cross: Tensor, power: Tensor) -> None:
        own = change[:, :, None] + held_out_change(cross[..., None], power[..., None])
        # The last column: nothing of a run's own.
        changes = torch.cat([own, change[:, :, None]], dim=2)
        group: list[float | None] = [None] * len(self.horizons)
        penalties = list(group)
        for index in range(len(self.horizons)):
            best = choose_option(changes[..., index].flatten(1))
            if best is None:
                continue
            option, column = divmod(best, changes.shape[2])
            self.weights[:, index] = weights[option, :, index]
            group[index] = (None, *GROUP_PENALTIES)[option]
            if column < len(OWN_PENALTIES):
                penalties[index] = OWN_PENALTIES[column]
                where = (slice(None), option, column, index)
                self.gain[index] = shrunk_gain(cross[where], power[where])
        self.group_penalties, self.penalties = tuple(group), tuple(penalties)
