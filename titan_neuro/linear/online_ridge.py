"""Ridge regression that learns while streams run: recursive least squares, exact at every time point."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

# Time points that are read at once, where a call has so many.
_MOST_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class OnlineState:
    """State of a batch of streams. Its size does not depend on how long they are.

    Attributes
    ----------
    position : int
        Time points read since the last merge, the same in all streams; 0 at their start.
    inverse : torch.Tensor
        float64, ``(batch, groups, predictors, predictors)``: inverse of the sum of products of the merged predictors,
        plus penalty.
    weights : torch.Tensor
        ``(batch, horizons, predictors, outputs)``: fitted to the merged pairs.
    predictors : torch.Tensor
        The last time points, not merged yet: ``(batch, groups, window, predictors)``; zeros before a stream's start.
    gain : torch.Tensor
        float64, ``(batch, groups, predictors, window)``: `inverse` times each of them.
    errors : torch.Tensor
        The same time points, ``(batch, window, horizons, outputs)``.
    """

    position: int
    inverse: Tensor
    weights: Tensor
    predictors: Tensor
    gain: Tensor
    errors: Tensor


class OnlineRidge:
    """For each horizon, regress the errors of a forecast on predictors, from the pairs of a stream that are complete.

    At each time point, the weights of a horizon are those of the ridge regression on all pairs whose target has
    arrived. They start at 0, to which the penalty shrinks them. Old pairs are merged into inverse and weights, a block
    at a time, by the matrix inversion lemma. The recent pairs are added by a Cholesky factor of the predictors'
    products, in the order of time: row ``t`` holds the products of time point ``t`` with each earlier pair, given the
    pairs before that one. So one factor serves all time points and, cut off at ``t - h``, all horizons of a group.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead.
    penalties : tuple of float
        Of each horizon, above 0.
    block_time_points : int
        Pairs are merged into the weights after every so many time points. Changes the cost, not the numbers.
    are_predictors_shared : bool
        Whether all horizons have the same predictors: those with the same penalty then form a group, which shares one
        inverse. Otherwise each horizon is a group of its own.

    Attributes
    ----------
    n_groups : int
    """

    def __init__(
        self,
        horizons: tuple[int, ...],
        penalties: tuple[float, ...],
        *,
        block_time_points: int = 32,
        are_predictors_shared: bool = True,
    ) -> None:
        self.horizons, self._block_time_points = horizons, block_time_points
        self._penalties = sorted(set(penalties)) if are_predictors_shared else list(penalties)
        places = [self._penalties.index(penalty) for penalty in penalties]
        self._groups = places if are_predictors_shared else list(range(len(horizons)))
        self.n_groups = len(self._penalties)
        # Time points that a pair may wait for its target.
        self._n_waiting = max(horizons)

    def init_state(
        self, n_predictors: int, n_outputs: int, batch_size: int = 1, dtype: torch.dtype = torch.float32
    ) -> OnlineState:
        """State before the first time point: weights of 0; `dtype` is that of the series."""
        n_horizons = len(self.horizons)
        penalties = torch.tensor(self._penalties, dtype=torch.float64)[:, None, None]
        inverse = torch.eye(n_predictors, dtype=torch.float64) / penalties
        return OnlineState(
            0,
            inverse.repeat(batch_size, 1, 1, 1),
            torch.zeros(batch_size, n_horizons, n_predictors, n_outputs, dtype=dtype),
            torch.zeros(batch_size, self.n_groups, self._n_waiting, n_predictors, dtype=dtype),
            torch.zeros(batch_size, self.n_groups, n_predictors, self._n_waiting, dtype=torch.float64),
            torch.zeros(batch_size, self._n_waiting, n_horizons, n_outputs, dtype=dtype),
        )

    def step(self, predictors: Tensor, errors: Tensor, state: OnlineState) -> tuple[Tensor, Tensor, OnlineState]:
        """Forecast from every time point, and learn.

        Parameters
        ----------
        predictors : torch.Tensor
            ``(batch, groups, time, predictors)``.
        errors : torch.Tensor
            ``(batch, time, horizons, outputs)``: the error, at this time point, of the forecast made `horizon` time
            points earlier; entries before the first such forecast are not used.
        state : OnlineState
            Not changed.

        Returns
        -------
        corrections : torch.Tensor
            ``(batch, time, horizons, outputs)``: expected errors of the forecasts made now.
        surprises : torch.Tensor
            Shaped like `errors`: each error less the correction that the weights before it give for its forecast.
        state : OnlineState
        """
        n_time_points = predictors.shape[2]
        if state.position + n_time_points >= self._block_time_points:
            # Merged in place from here on: a copy for each block would cost as much as merging.
            state = replace(state, inverse=state.inverse.clone(), weights=state.weights.clone())
        corrections, surprises, first = [], [], 0
        while first < n_time_points:
            # As many as can be read at once, up to the end of a block.
            n_new = min(n_time_points - first, _MOST_AT_ONCE)
            to_end = self._block_time_points - state.position
            n_new = min(n_new, to_end) + max(n_new - to_end, 0) // self._block_time_points * self._block_time_points
            new = slice(first, first + n_new)
            state = _append(state, predictors[:, :, new], errors[:, new])
            correction, surprise, state = self._advance(state, n_new)
            corrections.append(correction)
            surprises.append(surprise)
            first = new.stop
        return torch.cat(corrections, dim=1), torch.cat(surprises, dim=1), state

    def read(self, predictors: Tensor, state: OnlineState) -> Tensor:
        """Forecast from new time points by what is held, and learn nothing.

        Parameters
        ----------
        predictors : torch.Tensor
            ``(batch, groups, time, predictors)``, which follow those of `state`.
        state : OnlineState

        Returns
        -------
        torch.Tensor
            ``(batch, time, horizons, outputs)``.
        """
        n_held = state.predictors.shape[2]
        unknown = state.errors.new_zeros(len(predictors), predictors.shape[2], *state.errors.shape[2:])
        state = _append(state, predictors, unknown)
        merged, factor, whitened = self._solve(state)
        corrections = []
        for index, horizon in enumerate(self.horizons):
            # Of the pairs in the window, those whose target had arrived.
            held = slice(0, n_held - horizon)
            rows = factor[:, self._groups[index], n_held:, held]
            corrections.append(merged[:, index, n_held:] + (rows @ whitened[:, index, held]).to(merged))
        return torch.stack(corrections, dim=2)

    def _solve(self, state: OnlineState) -> tuple[Tensor, Tensor, Tensor]:
        """Factorize the window.

        Returns
        -------
        merged : torch.Tensor
            Corrections by the merged pairs alone, ``(batch, horizons, window, outputs)``.
        factor : torch.Tensor
            Lower triangular, float64 ``(batch, groups, window, window)``.
        whitened : torch.Tensor
            float64, ``(batch, horizons, window, outputs)``: what the pairs before leave of each pair's error, in units
            of its standard deviation. Rows whose target has not arrived hold any number.
        """
        keys = state.predictors
        merged = keys[:, self._groups] @ state.weights
        products = keys.double() @ state.gain
        identity = torch.eye(keys.shape[2], dtype=products.dtype, device=keys.device)
        # Without a check: predictors that are not finite make corrections that are not, which the caller refuses.
        factor = torch.linalg.cholesky_ex(products + identity).L
        residuals = [
            pad(state.errors[:, horizon:, index], (0, 0, 0, min(horizon, keys.shape[2]))) - merged[:, index]
            for index, horizon in enumerate(self.horizons)
        ]
        residual = torch.stack(residuals, dim=1).double()
        whitened = torch.linalg.solve_triangular(factor[:, self._groups], residual, upper=False)
        return merged, factor, whitened

    def _advance(self, state: OnlineState, n_new: int) -> tuple[Tensor, Tensor, OnlineState]:
        """Forecast from the last time points of the window; at the end of a block, merge the oldest ones."""
        merged, factor, whitened = self._solve(state)
        corrections, surprises, length = [], [], state.predictors.shape[2]
        for index, horizon in enumerate(self.horizons):
            rows = factor[:, self._groups[index]]
            read = rows[:, -n_new:].tril(length - n_new - horizon) @ whitened[:, index]
            corrections.append(merged[:, index, -n_new:] + read.to(merged))
            arrived = slice(length - n_new - horizon, length - horizon)
            deviation = rows.diagonal(dim1=-2, dim2=-1)[:, arrived, None]
            surprises.append((whitened[:, index, arrived] * deviation).to(merged))
        if state.position % self._block_time_points == 0:
            state = self._merge(state, factor, whitened)
        return torch.stack(corrections, dim=2), torch.stack(surprises, dim=2), state

    def _merge(self, state: OnlineState, factor: Tensor, whitened: Tensor) -> OnlineState:
        """Update inverse and weights in place by all pairs whose targets have come at every horizon, and drop them."""
        old, window = slice(0, state.position), slice(state.position, None)
        change = torch.linalg.solve_triangular(factor[:, :, old, old], state.gain[..., old].mT, upper=False)
        state.weights.add_((change[:, self._groups].mT @ whitened[:, :, old]).to(state.weights))
        # A product with its own transpose keeps the inverse symmetric.
        state.inverse.sub_(change.mT @ change)
        return replace(
            state,
            position=0,
            predictors=state.predictors[:, :, window].clone(),
            # What these pairs tell of the later time points is in the factor of those.
            gain=state.gain[..., window] - change.mT @ factor[:, :, window, old].mT,
            errors=state.errors[:, window].clone(),
        )


def _append(state: OnlineState, predictors: Tensor, errors: Tensor) -> OnlineState:
    gain = state.inverse @ predictors.mT.double()
    return replace(
        state,
        position=state.position + predictors.shape[2],
        predictors=torch.cat([state.predictors, predictors], dim=2),
        gain=torch.cat([state.gain, gain], dim=3),
        errors=torch.cat([state.errors, errors], dim=1),
    )
