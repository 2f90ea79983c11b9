"""Vector autoregression that goes on learning on the run that it forecasts: all that is linear in one person's past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from titan_neuro.baselines.groundwork import Groundwork, ResidualRun, ResidualSpace
from titan_neuro.baselines.online_ridge import OnlineRidge, OnlineState, due_errors
from titan_neuro.baselines.sharing import choose_option, group_runs, held_out_change, shrunk_gain
from titan_neuro.baselines.vector_autoregression import VectorAutoregressionBaseline
from titan_neuro.ops.lagged_moments import Span
from titan_neuro.typing import FrameRun

# Frames that a running average looks back. Recordings have slow waves that a few lags don't tell from noise.
TIME_CONSTANTS = (5, 15, 40, 100)
# Ridge penalties of the group's weights, per row, and of a run's own, in frames, in units of the predictors' variance.
GROUP_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
OWN_PENALTIES = (300.0, 1000.0, 3000.0)
# No component counts for less than this share of the mean variance.
_LEAST_VARIANCE = 1e-3


class LearnerState(NamedTuple):
    """State of a stream: that of VAR, running averages, forecasts whose targets are to come, and what was learned."""

    var: tuple[Tensor, Tensor]
    averages: Tensor
    pending: Tensor
    learned: OnlineState | None


class OnlineVectorAutoregressionBaseline:
    """VAR, plus a regression of what it leaves on the last frame and running averages, which learns in every run anew.

    Predictors are principal components of the last frame, and their running averages over `TIME_CONSTANTS` frames. A
    ridge regression of what VAR leaves of the training runs gives the group's weights. In a run, the weights are those
    of a ridge regression towards the group's, on the pairs of this run whose target has been seen; see
    :class:`OnlineRidge`. What they add to the group's forecast is scaled by one gain a horizon. Penalties and gains are
    chosen on training subjects, going through their runs as at test, VAR and the group's weights being fitted without
    them; both parts are left out at horizons where they don't pay, and learning where there is but one training run.

    Parameters
    ----------
    horizons : tuple of int
        Frames ahead, ascending.
    groundwork : Groundwork, optional
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

    def __init__(self, horizons: tuple[int, ...], groundwork: Groundwork | None = None) -> None:
        self.horizons = horizons
        self.var = VectorAutoregressionBaseline(horizons, groundwork)

    @property
    def space(self) -> ResidualSpace:
        """The axes; there once `fit` was called."""
        return self.var.space

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Fit to the training runs; see :meth:`Groundwork.residuals` for what it raises."""
        self.var.fit(runs)
        spread = self.space.variance.clamp(min=_LEAST_VARIANCE * float(self.space.variance.mean()))
        # Half-way to equal variances: small components say more of a person than their size, though less than large.
        self._scale = spread**-0.25
        self._unit = float(spread.sqrt().mean())
        spans = self.var.fitted.spans
        held_out = self._fit_group(spans)
        # By key: the only run of a training set comes in stretches.
        groups = group_runs(list({span.run.key: cast(ResidualRun, span.run) for span in spans}.values()))
        self.penalties = tuple(None for _ in self.horizons)
        self.gain = torch.zeros(len(self.horizons))
        if len(groups) > 1:
            self._choose_own(*self._try_out(spans, groups, held_out))
        self._learning = [index for index, penalty in enumerate(self.penalties) if penalty is not None]
        ahead = tuple(self.horizons[index] for index in self._learning)
        own = tuple(self._unit * penalty for penalty in self.penalties if penalty is not None)
        self._learner = OnlineRidge(ahead, own) if ahead else None

    def start(self) -> LearnerState:
        """Nothing seen, and nothing learned."""
        n_residuals, longest = self.space.n_residuals, max(self.horizons)
        learned = self._learner.start(len(self.weights), n_residuals) if self._learner else None
        pending = torch.zeros(longest, len(self.horizons), n_residuals)
        return LearnerState(self.var.start(), self._no_averages(), pending, learned)

    def step(self, frames: Tensor, state: LearnerState) -> tuple[Tensor, LearnerState]:
        """Forecast from every frame: ``(time, horizons, features)``."""
        forecasts, var = self.var.step(frames, state.var)
        predictors, averages = self._predict_from(self.space.score(frames), state.averages)
        more = (predictors @ self.weights.flatten(1)).reshape(len(frames), *state.pending.shape[1:])
        pending, learned = state.pending, state.learned
        if self._learner and learned is not None:
            pending = torch.cat([pending, self.space.to_residuals(forecasts) + more])
            errors = self._fall_due(self.space.to_residuals(frames), pending)
            own, learned = self._learner.step(predictors, errors, learned)
            more[:, self._learning] += self.gain[self._learning, None] * own
            pending = pending[len(frames) :].clone()
        return forecasts + self.space.to_features(more), LearnerState(var, averages, pending, learned)

    def _fall_due(self, observed: Tensor, pending: Tensor) -> Tensor:
        """What the forecasts of these frames missed, ``(time, learning horizons, n_residuals)``."""
        longest, n_frames = max(self.horizons), len(observed)
        starts = {index: longest - self.horizons[index] for index in self._learning}
        return torch.stack([observed - pending[at : at + n_frames, index] for index, at in starts.items()], dim=1)

    def _no_averages(self) -> Tensor:
        return torch.zeros(len(TIME_CONSTANTS), self.space.components.shape[1])

    def _predict_from(self, scores: Tensor, averages: Tensor) -> tuple[Tensor, Tensor]:
        """Predictors of every frame, ``(time, predictors)``, and the averages after the last."""
        scores = scores * self._scale
        spans = torch.tensor(TIME_CONSTANTS, dtype=scores.dtype)[:, None]
        parts = [torch.cat([scores[:0, None], averages[None][:0]], dim=1)]
        for frame in scores:
            averages = averages + (frame - averages) / spans
            # White noise keeps its variance.
            parts.append(torch.cat([frame[None], averages * (2 * spans - 1).sqrt()])[None])
        return torch.cat(parts).flatten(1), averages

    def _left_over(self, span: Span) -> tuple[Tensor, Tensor]:
        """Predictors of a training run, and what VAR, fitted without its fold, leaves of its frames to come."""
        run = cast(ResidualRun, span.run)
        residuals = run.residuals - self.var.beyond(run, self.var.fitted.held_out[span.fold])
        return self._predict_from(run.scores, self._no_averages())[0], residuals

    def _fit_group(self, spans: Sequence[Span]) -> Tensor:
        """Fit the group's weights; return those fitted without each fold, ``(folds, predictors, horizons * axes)``."""
        n_folds, shape = max(span.fold for span in spans) + 1, (len(self.horizons), self.space.n_residuals)
        n_predictors = self._no_averages().numel() + self.space.components.shape[1]
        gram = torch.zeros(n_folds, n_predictors, n_predictors)
        cross = torch.zeros(n_folds, n_predictors, shape[0] * shape[1])
        n_rows = torch.zeros(n_folds)
        for span in spans:
            predictors, residuals = self._left_over(span)
            rows = cast(ResidualRun, span.run).targets.float()
            rows[: span.start], rows[span.stop :] = 0, 0
            # Horizons share their products: they differ in the rows next to a gap alone.
            shared = rows.mean(1)
            gram[span.fold] += predictors.T @ (shared[:, None] * predictors)
            cross[span.fold] += predictors.T @ (rows[..., None] * residuals).flatten(1)
            n_rows[span.fold] += shared.sum()
        without = [[part.sum(0) - part[fold] for part in (gram, cross, n_rows)] for fold in range(n_folds)]
        held_out = torch.stack([_solve(products, targets, self._ridge(n)) for products, targets, n in without])
        whole = _solve(gram.sum(0), cross.sum(0), self._ridge(n_rows.sum()))
        changes = torch.zeros(n_folds, len(GROUP_PENALTIES), shape[0], dtype=torch.float64)
        for fold in range(n_folds):
            for option, weights in enumerate(held_out[fold]):
                change = weights * (gram[fold] @ weights - 2 * cross[fold])
                changes[fold, option] = change.sum(0).reshape(shape).sum(1)
        best = [choose_option(changes[..., index]) for index in range(shape[0])]
        self.group_penalties = tuple(None if option is None else GROUP_PENALTIES[option] for option in best)
        self.weights = _pick(whole, best, shape)
        return torch.stack([_pick(weights, best, shape) for weights in held_out])

    def _ridge(self, n_rows: Tensor) -> list[float]:
        return [penalty * self._unit * float(n_rows) for penalty in GROUP_PENALTIES]

    def _try_out(
        self, spans: Sequence[Span], groups: Sequence[Sequence[ResidualRun]], held_out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Learn through each training run, with every penalty.

        Returns
        -------
        cross, power : torch.Tensor
            float64 ``(groups, penalties, horizons)``; see :func:`shrunk_gain`.
        """
        group_of = {run.key: number for number, group in enumerate(groups) for run in group}
        cross = torch.zeros(len(groups), len(OWN_PENALTIES), len(self.horizons), dtype=torch.float64)
        power = torch.zeros_like(cross)
        for span in spans:
            predictors, residuals = self._left_over(span)
            residuals -= (predictors @ held_out[span.fold].flatten(1)).reshape(residuals.shape)
            rows = cast(ResidualRun, span.run).targets[..., None]
            errors = due_errors(residuals, self.horizons)
            for option, penalty in enumerate(OWN_PENALTIES):
                learner = OnlineRidge(self.horizons, (self._unit * penalty,) * len(self.horizons))
                own, _ = learner.step(predictors, errors, learner.start(predictors.shape[1], residuals.shape[2]))
                own *= rows
                cross[group_of[span.run.key], option] += (own * residuals).sum((0, 2))
                power[group_of[span.run.key], option] += own.square().sum((0, 2))
        return cross, power

    def _choose_own(self, cross: Tensor, power: Tensor) -> None:
        changes = held_out_change(cross[..., None], power[..., None])
        penalties: list[float | None] = []
        for index in range(len(self.horizons)):
            best = choose_option(changes[..., index])
            penalties.append(None if best is None else OWN_PENALTIES[best])
            if best is not None:
                self.gain[index] = shrunk_gain(cross[:, best, index], power[:, best, index])
        self.penalties = tuple(penalties)


def _solve(gram: Tensor, cross: Tensor, penalties: Sequence[float]) -> Tensor:
    """Solve a ridge regression for every penalty: ``(penalties, predictors, outputs)``."""
    eye = torch.eye(len(gram), dtype=torch.float64)
    return torch.stack(
        [
            torch.cholesky_solve(cross, torch.linalg.cholesky(gram.double() + penalty * eye).float())
            for penalty in penalties
        ]
    )


def _pick(weights: Tensor, options: Sequence[int | None], shape: tuple[int, int]) -> Tensor:
    """Take each horizon's weights from those of its option: ``(predictors, horizons, n_residuals)``."""
    by_horizon = weights.reshape(*weights.shape[:2], *shape)
    nothing = torch.zeros_like(by_horizon[0, :, 0])
    parts = [nothing if option is None else by_horizon[option, :, index] for index, option in enumerate(options)]
    return torch.stack(parts, dim=1)
