"""Ridge regressions of many series, each on a few predictors of its own, which learn while a stream runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from titan_neuro.linear.ridge import ridge_factor

# Time points between two fits; so long a pair of predictors and error may be known before it is learned from.
_REFITTED_EVERY = 16


@dataclass(frozen=True, eq=False)
class RefittedState:
    """State of a stream. Its size does not depend on how long the stream is.

    Attributes
    ----------
    position : int
        Time points since the last fit.
    gram : torch.Tensor
        Sums of products of the predictors of all complete pairs, ``(series, predictors, predictors)``.
    cross : torch.Tensor
        The same with the errors, ``(series, predictors, horizons * outputs)``.
    weights : torch.Tensor
        Of the last fit, ``(series, predictors, horizons * outputs)``.
    predictors : torch.Tensor
        Of the last time points, ``(series, longest horizon, predictors)``; zeros before the stream.
    errors : torch.Tensor
        At the last time points, ``(series, longest horizon, horizons, outputs)``.
    """

    position: int
    gram: Tensor
    cross: Tensor
    weights: Tensor
    predictors: Tensor
    errors: Tensor


class RefittedRidge:
    """For each series and horizon, regress the errors of a forecast on predictors, from the pairs that are complete.

    A time point is learned from when its targets at all horizons have arrived. Weights are fitted anew every 16 time
    points of the stream, however it is cut into calls. :class:`OnlineRidge` does the same at every time point; with few
    predictors and many series, solving for the weights costs less than that.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead.
    penalties : tuple of float
        Of each horizon, above 0.
    """

    def __init__(self, horizons: tuple[int, ...], penalties: tuple[float, ...]) -> None:
        self.horizons, self.penalties = horizons, penalties

    def init_state(self, n_series: int, n_predictors: int, n_outputs: int, like: Tensor | None = None) -> RefittedState:
        """State before the first time point, weights of 0; of the type and device of `like`, by default float32."""
        zeros = torch.zeros if like is None else like.new_zeros
        n_horizons, longest = len(self.horizons), max(self.horizons)
        return RefittedState(
            0,
            zeros(n_series, n_predictors, n_predictors),
            zeros(n_series, n_predictors, n_horizons * n_outputs),
            zeros(n_series, n_predictors, n_horizons * n_outputs),
            zeros(n_series, longest, n_predictors),
            zeros(n_series, longest, n_horizons, n_outputs),
        )

    def step(
        self, predictors: Tensor, errors: Tensor, state: RefittedState, *, frozen: bool = False
    ) -> tuple[Tensor, RefittedState]:
        """Forecast from every time point, and learn.

        Parameters
        ----------
        predictors : torch.Tensor
            ``(series, time, predictors)``.
        errors : torch.Tensor
            ``(series, time, horizons, outputs)``: the error, at this time point, of the forecast made `horizon` time
            points earlier; those before the first such forecast count as pairs with predictors of 0.
        state : RefittedState
            Not changed.
        frozen : bool
            Whether to read without learning: errors that arrive meanwhile are never learned from.

        Returns
        -------
        corrections : torch.Tensor
            ``(series, time, horizons, outputs)``: expected errors of the forecasts made now.
        state : RefittedState
        """
        n_time_points, longest = predictors.shape[1], max(self.horizons)
        # Row t is the time point whose last target arrives at t, with its errors at all horizons.
        old = torch.cat([state.predictors, predictors], dim=1)
        made = torch.cat([state.errors, errors], dim=1)
        told = [made[:, horizon : horizon + n_time_points, index] for index, horizon in enumerate(self.horizons)]
        last = slice(n_time_points, n_time_points + longest)
        after = replace(state, predictors=old[:, last].clone(), errors=made[:, last].clone())
        if frozen:
            # Of all time points but the last, an error has arrived meanwhile.
            after.predictors[:, :-1] = 0
            read = predictors @ self._solve(state.gram, state.cross, errors.shape[3])
            return read.reshape(errors.shape), after
        rows, targets = old[:, :n_time_points], torch.stack(told, dim=2).flatten(2)
        gram, cross, weights, position = state.gram, state.cross, state.weights, state.position
        corrections, first = [], 0
        while first < n_time_points:
            if position == 0:
                weights = self._solve(gram, cross, errors.shape[3])
            part = slice(first, min(n_time_points, first + _REFITTED_EVERY - position))
            corrections.append(predictors[:, part] @ weights)
            gram = gram + rows[:, part].mT @ rows[:, part]
            cross = cross + rows[:, part].mT @ targets[:, part]
            position = (position + part.stop - first) % _REFITTED_EVERY
            first = part.stop
        after = replace(after, position=position, gram=gram, cross=cross, weights=weights)
        return torch.cat(corrections, dim=1).reshape(errors.shape), after

    def _solve(self, gram: Tensor, cross: Tensor, n_outputs: int) -> Tensor:
        """Weights of all complete pairs, in double precision: slow averages resemble one another."""
        weights = torch.empty_like(cross)
        # Horizons with the same penalty share a factor.
        for penalty in set(self.penalties):
            columns = [
                index * n_outputs + output
                for index, its_penalty in enumerate(self.penalties)
                if its_penalty == penalty
                for output in range(n_outputs)
            ]
            factor = ridge_factor(gram.double(), penalty)
            weights[..., columns] = torch.cholesky_solve(cross[..., columns].double(), factor).to(weights)
        return weights
