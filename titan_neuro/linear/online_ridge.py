"""Ridge regression that learns while streams run: recursive least squares, exact at every time point."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

# Time points that are read at once, where a call has so many; whole blocks, if those are longer.
_LEAST_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class OnlineState:
    """State of a batch of streams. Its size does not depend on how long they are.

    Attributes
    ----------
    position : int
        Time points read since the last merge, the same in all streams; 0 at their start.
    inverse : torch.Tensor
        ``(batch, groups, predictors, predictors)``: inverse of the sum of products of the merged predictors, plus
        penalty; float64, or of the series' type.
    weights : torch.Tensor
        ``(batch, horizons, predictors, outputs)``: fitted to the merged pairs.
    predictors : torch.Tensor
        The last time points, not merged yet: ``(batch, groups, window, predictors)``; zeros before a stream's start.
    gain : torch.Tensor
        Of the type of `inverse`, ``(batch, groups, predictors, window)``: `inverse` times each of them.
    merged : torch.Tensor
        Corrections by `weights` at each of them, ``(batch, horizons, window, outputs)``.
    errors : torch.Tensor
        The same time points, ``(batch, window, horizons, outputs)``.
    """

    position: int
    inverse: Tensor
    weights: Tensor
    predictors: Tensor
    gain: Tensor
    merged: Tensor
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
        Pairs are merged into the weights after every so many time points. Changes the cost, not the numbers. None:
        never; streams shorter than the number of predictors then cost a fraction, and the state grows with the stream.
    are_predictors_shared : bool
        Whether all horizons have the same predictors: those with the same penalty then form a group, which shares one
        inverse. Otherwise each horizon is a group of its own.
    is_inverse_double : bool
        Whether the inverse is float64 whatever the type of the series. In float32 a time point costs half as much; that
        is exact enough where the penalty is not small beside the products of the predictors.

    Attributes
    ----------
    n_groups : int
    """

    def __init__(
        self,
        horizons: tuple[int, ...],
        penalties: tuple[float, ...],
        *,
        block_time_points: int | None = 64,
        are_predictors_shared: bool = True,
        is_inverse_double: bool = True,
    ) -> None:
        self._is_inverse_double = is_inverse_double
        self.horizons, self._block_time_points = horizons, block_time_points
        # Without blocks a call is read at once: each part of it would factorize all that came before anew.
        self._most_at_once = sys.maxsize if block_time_points is None else max(block_time_points, _LEAST_AT_ONCE)
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
        # Where nothing is merged, the diagonal is the same for all predictors, and no weight is known.
        n_merged = 1 if self._block_time_points is None else n_predictors
        inverse_dtype = torch.float64 if self._is_inverse_double else dtype
        inverse = (torch.eye(n_merged, dtype=torch.float64) / penalties).to(inverse_dtype)
        return OnlineState(
            0,
            inverse.repeat(batch_size, 1, 1, 1),
            torch.zeros(batch_size, n_horizons, n_merged, n_outputs, dtype=dtype),
            torch.zeros(batch_size, self.n_groups, self._n_waiting, n_predictors, dtype=dtype),
            torch.zeros(batch_size, self.n_groups, n_predictors, self._n_waiting, dtype=inverse_dtype),
            torch.zeros(batch_size, n_horizons, self._n_waiting, n_outputs, dtype=dtype),
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
        n_time_points, block = predictors.shape[2], self._block_time_points
        if block is not None and state.position + n_time_points >= block:
            # Merged in place from here on: a copy for each block would cost as much as merging.
            state = replace(state, inverse=state.inverse.clone(), weights=state.weights.clone())
        corrections, surprises, first = [], [], 0
        while first < n_time_points:
            # As many as can be read at once, up to the end of a block.
            n_new = min(n_time_points - first, self._most_at_once)
            if block is not None:
                to_end = block - state.position
                n_new = min(n_new, to_end) + max(n_new - to_end, 0) // block * block
            new = slice(first, first + n_new)
            state = self._append(state, predictors[:, :, new], errors[:, new])
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
        factor, whitened = self._solve(state)
        products = (predictors.to(state.gain) @ state.gain).double()
        # What new rows of the factor hold of each pair; nothing of the new time points is needed for one another.
        factor = torch.linalg.solve_triangular(factor.mT, products, upper=True, left=False)
        corrections = self._merged_corrections(predictors, state)
        for index, horizon in enumerate(self.horizons):
            # Of the pairs in the window, those whose target had arrived.
            held = slice(0, n_held - horizon)
            corrections[:, index] += (factor[:, self._groups[index], :, held] @ whitened[:, index, held]).to(
                corrections
            )
        return corrections.transpose(1, 2)

    def weights(self, state: OnlineState) -> Tensor:
        """All that is held as the weights of a linear map: those of the pairs whose target has arrived.

        Returns
        -------
        torch.Tensor
            ``(batch, horizons, predictors, outputs)``.
        """
        factor, whitened = self._solve(state)
        n_held, parts = state.predictors.shape[2], []
        for index, horizon in enumerate(self.horizons):
            held, group = slice(0, n_held - horizon), self._groups[index]
            # Rows of the inverse factor that later pairs, whose target has not arrived, have no part in.
            solved = torch.linalg.solve_triangular(
                factor[:, group, held, held].mT, whitened[:, index, held], upper=True
            )
            parts.append(state.gain[:, group, :, held].double() @ solved)
        return state.weights + torch.stack(parts, dim=1).to(state.weights)

    def _merged_corrections(self, predictors: Tensor, state: OnlineState) -> Tensor:
        """Corrections by the merged pairs alone, ``(batch, horizons, time, outputs)``."""
        if self._block_time_points is None:
            return state.weights.repeat(1, 1, predictors.shape[2], 1)
        return predictors[:, self._groups] @ state.weights

    def _append(self, state: OnlineState, predictors: Tensor, errors: Tensor) -> OnlineState:
        if self._block_time_points is None:
            gain = state.inverse * predictors.mT.to(state.inverse)
        else:
            gain = state.inverse @ predictors.mT.to(state.inverse)
        merged = self._merged_corrections(predictors, state)
        return replace(
            state,
            position=state.position + predictors.shape[2],
            predictors=torch.cat([state.predictors, predictors], dim=2),
            gain=torch.cat([state.gain, gain], dim=3),
            merged=torch.cat([state.merged, merged], dim=2),
            errors=torch.cat([state.errors, errors], dim=1),
        )

    def _solve(self, state: OnlineState) -> tuple[Tensor, Tensor]:
        """Factorize the window.

        Returns
        -------
        factor : torch.Tensor
            Lower triangular, float64 ``(batch, groups, window, window)``.
        whitened : torch.Tensor
            float64, ``(batch, horizons, window, outputs)``: what the pairs before leave of each pair's error, in units
            of its standard deviation. Rows whose target has not arrived hold any number.
        """
        keys = state.predictors
        products = (keys.to(state.gain) @ state.gain).double()
        identity = torch.eye(keys.shape[2], dtype=products.dtype, device=keys.device)
        # Without a check: predictors that are not finite make corrections that are not, which the caller refuses.
        factor = torch.linalg.cholesky_ex(products + identity).L
        residuals = [
            pad(state.errors[:, horizon:, index], (0, 0, 0, min(horizon, keys.shape[2]))) - state.merged[:, index]
            for index, horizon in enumerate(self.horizons)
        ]
        residual = torch.stack(residuals, dim=1).double()
        whitened = torch.linalg.solve_triangular(factor[:, self._groups], residual, upper=False)
        return factor, whitened

    def _advance(self, state: OnlineState, n_new: int) -> tuple[Tensor, Tensor, OnlineState]:
        """Forecast from the last time points of the window; at the end of a block, merge the oldest ones."""
        factor, whitened = self._solve(state)
        merged, corrections, surprises, length = state.merged, [], [], state.predictors.shape[2]
        for index, horizon in enumerate(self.horizons):
            rows = factor[:, self._groups[index]]
            read = rows[:, -n_new:].tril(length - n_new - horizon) @ whitened[:, index]
            corrections.append(merged[:, index, -n_new:] + read.to(merged))
            arrived = slice(length - n_new - horizon, length - horizon)
            deviation = rows.diagonal(dim1=-2, dim2=-1)[:, arrived, None]
            surprises.append((whitened[:, index, arrived] * deviation).to(merged))
        if self._block_time_points is not None and state.position % self._block_time_points == 0:
            state = self._merge(state, factor, whitened)
        return torch.stack(corrections, dim=2), torch.stack(surprises, dim=2), state

    def _merge(self, state: OnlineState, factor: Tensor, whitened: Tensor) -> OnlineState:
        """Update inverse and weights in place by all pairs whose targets have come at every horizon, and drop them."""
        old, window = slice(0, state.position), slice(state.position, None)
        gain = state.gain[..., old].double()
        change = torch.linalg.solve_triangular(factor[:, :, old, old], gain.mT, upper=False).to(state.gain)
        learned = whitened[:, :, old]
        _add_product(state.weights, change.to(state.weights)[:, self._groups].mT, learned.to(state.weights), 1)
        # A product with its own transpose keeps the inverse symmetric.
        _add_product(state.inverse, change.mT, change, -1)
        # The factor holds the products of the later time points with what is merged.
        told = factor[:, self._groups, window, old] @ learned
        return replace(
            state,
            position=0,
            predictors=state.predictors[:, :, window].clone(),
            # What these pairs tell of the later time points is in the factor of those.
            gain=state.gain[..., window] - change.mT @ factor[:, :, window, old].mT.to(change),
            merged=state.merged[:, :, window] + told.to(state.merged),
            errors=state.errors[:, window].clone(),
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor, factor: int) -> None:
    """Add the products of two batches of matrices in place: another tensor of the size of the total would cost more."""
    flat = total.view(-1, *total.shape[-2:])
    flat.baddbmm_(left.flatten(0, -3), right.flatten(0, -3), alpha=factor)
