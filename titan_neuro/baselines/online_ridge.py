"""Ridge regression that goes on learning while a stream runs: recursive least squares, exact at every time point."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

# Time points whose pairs are learned for good at once. Changes the cost, not the numbers.
BLOCK_TIME_POINTS = 32


@dataclass(frozen=True, eq=False)
class OnlineState:
    """What is known of a stream. Its size does not depend on the stream's length.

    Attributes
    ----------
    n_time_points : int
        Time points read.
    inverse : torch.Tensor
        float64, ``(penalties, predictors, predictors)``: inverse of the sum of products of predictors that were learned
        for good, plus penalty.
    weights : torch.Tensor
        float32, ``(horizons, predictors, outputs)``: what was learned for good.
    predictors : torch.Tensor
        The last time points, which were not: ``(window, predictors)``.
    errors : torch.Tensor
        The same time points, ``(window, horizons, outputs)``.
    """

    n_time_points: int
    inverse: Tensor
    weights: Tensor
    predictors: Tensor
    errors: Tensor


class OnlineRidge:
    """Regress, for each horizon, what a forecast misses on predictors, from the pairs of a stream that are complete.

    At each time point, the weights of a horizon are those of the ridge regression on all pairs whose target has been
    seen. They start at 0, and the penalty draws them there. Old pairs are learned for good, a block at a time, by the
    matrix inversion lemma. On top of these stand the last pairs: in the order of time, the lower triangular root of the
    predictors' products holds in row ``t`` what time point ``t`` has in common with each pair before it, beyond what
    the pairs before that one tell. So one root serves all time points and, cut off at ``t - h``, all horizons.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead.
    penalties : tuple of float
        Of each horizon, above 0; horizons that share one share the inverse.
    """

    def __init__(self, horizons: tuple[int, ...], penalties: tuple[float, ...]) -> None:
        self.horizons = horizons
        self._penalties = tuple(sorted(set(penalties)))
        self._which = [self._penalties.index(penalty) for penalty in penalties]

    def init_state(self, n_predictors: int, n_outputs: int) -> OnlineState:
        """Nothing seen: weights of 0."""
        eye = torch.eye(n_predictors, dtype=torch.float64)
        return OnlineState(
            0,
            torch.stack([eye / penalty for penalty in self._penalties]),
            torch.zeros(len(self.horizons), n_predictors, n_outputs),
            torch.zeros(0, n_predictors),
            torch.zeros(0, len(self.horizons), n_outputs),
        )

    def step(self, predictors: Tensor, errors: Tensor, state: OnlineState) -> tuple[Tensor, OnlineState]:
        """Forecast from every time point, and learn.

        Parameters
        ----------
        predictors : torch.Tensor
            ``(time, predictors)``.
        errors : torch.Tensor
            ``(time, horizons, outputs)``: what the forecast made `horizon` time points before this time point missed in
            it; what stands before the first such forecast is not used.
        state : OnlineState
            Not changed.

        Returns
        -------
        corrections : torch.Tensor
            ``(time, horizons, outputs)``: what these forecasts are expected to miss.
        state : OnlineState
        """
        if state.n_time_points % BLOCK_TIME_POINTS + len(predictors) >= BLOCK_TIME_POINTS:
            # Learned in place from here on: a copy for each block would cost as much as learning.
            state = replace(state, inverse=state.inverse.clone(), weights=state.weights.clone())
        corrections = []
        while len(predictors):
            n_some = min(BLOCK_TIME_POINTS - state.n_time_points % BLOCK_TIME_POINTS, len(predictors))
            state = replace(
                state,
                n_time_points=state.n_time_points + n_some,
                predictors=torch.cat([state.predictors, predictors[:n_some]]),
                errors=torch.cat([state.errors, errors[:n_some]]),
            )
            correction, state = self._advance(state)
            corrections.append(correction[-n_some:])
            predictors, errors = predictors[n_some:], errors[n_some:]
        return torch.cat(corrections), state

    def _advance(self, state: OnlineState) -> tuple[Tensor, OnlineState]:
        """Forecast from every time point of the window; learn its oldest block for good, if it is time."""
        known = torch.matmul(state.predictors, state.weights)
        wide = state.predictors.double()
        seen = state.inverse @ wide.T
        root = torch.linalg.cholesky(wide @ seen + torch.eye(len(wide), dtype=wide.dtype))
        is_due = state.n_time_points % BLOCK_TIME_POINTS == 0 and len(wide) - BLOCK_TIME_POINTS >= max(self.horizons)
        corrections = torch.empty_like(state.errors)
        for index, (horizon, which) in enumerate(zip(self.horizons, self._which, strict=True)):
            # Rows whose target is to come: any number does, they are cut off below.
            missed = pad(state.errors[horizon:, index], (0, 0, 0, min(horizon, len(wide)))) - known[index]
            news = torch.linalg.solve_triangular(root[which], missed.double(), upper=False)
            corrections[:, index] = known[index] + (root[which].tril(-horizon) @ news).float()
            if is_due:
                old = slice(0, BLOCK_TIME_POINTS)
                gain = torch.linalg.solve_triangular(root[which, old, old], seen[which, :, old].T, upper=False).T
                state.weights[index].addmm_(gain.float(), news[old].float())
        if is_due:
            state = _learn_for_good(state, root, seen)
        return corrections, state


def _learn_for_good(state: OnlineState, root: Tensor, seen: Tensor) -> OnlineState:
    """Add the oldest block's products to what the inverse is the inverse of, in place, and drop the block."""
    old = slice(0, BLOCK_TIME_POINTS)
    change = torch.linalg.solve_triangular(root[:, old, old], seen[:, :, old].mT, upper=False)
    # A product with its own transpose keeps the inverse symmetric.
    state.inverse.baddbmm_(change.mT, change, alpha=-1)
    window = slice(BLOCK_TIME_POINTS, None)
    return replace(state, predictors=state.predictors[window].clone(), errors=state.errors[window].clone())


def due_errors(residuals: Tensor, horizons: tuple[int, ...]) -> Tensor:
    """Move each horizon's residuals, ``(time, horizons, outputs)``, from the time point of the forecast to the
    target's.
    """
    moved = [
        pad(residuals[:-horizon, index], (0, 0, min(horizon, len(residuals)), 0))
        for index, horizon in enumerate(horizons)
    ]
    return torch.stack(moved, dim=1)
