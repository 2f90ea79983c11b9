"""Ridge regression that learns while a stream runs: recursive least squares, exact at every time point."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

# Time points whose pairs are merged into the weights at once. Changes the cost, not the numbers.
BLOCK_TIME_POINTS = 32


@dataclass(frozen=True, eq=False)
class OnlineState:
    """State of a stream. Its size does not depend on the stream's length.

    Attributes
    ----------
    n_time_points : int
        Time points read.
    inverse : torch.Tensor
        float64, ``(penalties, predictors, predictors)``: inverse of the sum of products of the merged predictors,
        plus penalty.
    weights : torch.Tensor
        float32, ``(horizons, predictors, outputs)``: fitted to the merged pairs.
    predictors : torch.Tensor
        The last time points, not merged yet: ``(window, predictors)``.
    errors : torch.Tensor
        The same time points, ``(window, horizons, outputs)``.
    """

    n_time_points: int
    inverse: Tensor
    weights: Tensor
    predictors: Tensor
    errors: Tensor


class OnlineRidge:
    """For each horizon, regress the errors of a forecast on predictors, from the pairs of a stream that are complete.

    At each time point, the weights of a horizon are those of the ridge regression on all pairs whose target has
    arrived. They start at 0, to which the penalty shrinks them. Old pairs are merged into inverse and weights, a block
    at a time, by the matrix inversion lemma. The recent pairs are added by a Cholesky factor of the predictors'
    products, in the order of time: row ``t`` holds the products of time point ``t`` with each earlier pair, given the
    pairs before that one. So one factor serves all time points and, cut off at ``t - h``, all horizons.

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
        """State before the first time point: weights of 0."""
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
            ``(time, horizons, outputs)``: the error, at this time point, of the forecast made `horizon` time points
            earlier; entries before the first such forecast are not used.
        state : OnlineState
            Not changed.

        Returns
        -------
        corrections : torch.Tensor
            ``(time, horizons, outputs)``: expected errors of the forecasts made now.
        state : OnlineState
        """
        if state.n_time_points % BLOCK_TIME_POINTS + len(predictors) >= BLOCK_TIME_POINTS:
            # Merged in place from here on: a copy for each block would cost as much as merging.
            state = replace(state, inverse=state.inverse.clone(), weights=state.weights.clone())
        corrections = []
        while len(predictors):
            n_new = min(BLOCK_TIME_POINTS - state.n_time_points % BLOCK_TIME_POINTS, len(predictors))
            state = replace(
                state,
                n_time_points=state.n_time_points + n_new,
                predictors=torch.cat([state.predictors, predictors[:n_new]]),
                errors=torch.cat([state.errors, errors[:n_new]]),
            )
            correction, state = self._advance(state)
            corrections.append(correction[-n_new:])
            predictors, errors = predictors[n_new:], errors[n_new:]
        return torch.cat(corrections), state

    def _advance(self, state: OnlineState) -> tuple[Tensor, OnlineState]:
        """Forecast from every time point of the window; merge its oldest block once all its targets have arrived."""
        merged = torch.matmul(state.predictors, state.weights)
        window = state.predictors.double()
        gain = state.inverse @ window.T
        factor = torch.linalg.cholesky(window @ gain + torch.eye(len(window), dtype=window.dtype))
        is_due = state.n_time_points % BLOCK_TIME_POINTS == 0 and len(window) - BLOCK_TIME_POINTS >= max(self.horizons)
        corrections = torch.empty_like(state.errors)
        for index, (horizon, which) in enumerate(zip(self.horizons, self._which, strict=True)):
            # Rows whose target has not arrived may hold any number: they are cut off below.
            residual = pad(state.errors[horizon:, index], (0, 0, 0, min(horizon, len(window)))) - merged[index]
            whitened = torch.linalg.solve_triangular(factor[which], residual.double(), upper=False)
            corrections[:, index] = merged[index] + (factor[which].tril(-horizon) @ whitened).float()
            if is_due:
                old = slice(0, BLOCK_TIME_POINTS)
                change = torch.linalg.solve_triangular(factor[which, old, old], gain[which, :, old].T, upper=False).T
                state.weights[index].addmm_(change.float(), whitened[old].float())
        if is_due:
            state = _merge_oldest_block(state, factor, gain)
        return corrections, state


def _merge_oldest_block(state: OnlineState, factor: Tensor, gain: Tensor) -> OnlineState:
    """Update the inverse in place by the products of the oldest block, and drop the block."""
    old = slice(0, BLOCK_TIME_POINTS)
    change = torch.linalg.solve_triangular(factor[:, old, old], gain[:, :, old].mT, upper=False)
    # A product with its own transpose keeps the inverse symmetric.
    state.inverse.baddbmm_(change.mT, change, alpha=-1)
    window = slice(BLOCK_TIME_POINTS, None)
    return replace(state, predictors=state.predictors[window].clone(), errors=state.errors[window].clone())
