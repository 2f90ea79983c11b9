"""Delayed responses: a linear forecast from time points at fixed lags, longer ago than any window of the model."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord, load_buffers, resize_buffers, select_fit, times_fit


@dataclasses.dataclass(frozen=True, eq=False)
class DelayedResponsesFit(FitRecord):
    """What is fitted of :class:`DelayedResponses`; see its attributes for the shapes."""

    lags: Tensor
    weights: Tensor
    weights_without: Tensor

    @classmethod
    def empty(cls, *, n_horizons: int, width: int) -> DelayedResponsesFit:
        """The fit without lags, which forecasts 0."""
        weights = torch.zeros(n_horizons, 0, width)
        return cls(torch.zeros(0, dtype=torch.long), weights, weights.new_zeros(0, *weights.shape))


class DelayedResponses(nn.Module):
    """Store components of the last time points, and forecast from those at fixed lags before the target.

    Lags and weights are the same for all subjects, and fitted beforehand. What is stored is the stream's own, of
    constant size. Without lags the forecast is 0.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points, ascending.
    longest_lag : int
        Number of time points that are stored.
    n_components, width : int
        Components of a time point, and width of a forecast.

    Attributes
    ----------
    lags : torch.Tensor
        int ``(lags,)``: time points from source to target, each at least the longest horizon and at most `longest_lag`.
    weights : torch.Tensor
        ``(horizons, lags * components, width)``.
    weights_without : torch.Tensor
        ``(folds, ...)``: fitted without the runs of each fold; of no fold in a module that was read from a file.
    """

    lags: Tensor
    weights: Tensor
    weights_without: Tensor

    def __init__(self, *, horizons: tuple[int, ...], longest_lag: int, n_components: int, width: int) -> None:
        super().__init__()
        self.horizons, self.longest_lag, self.n_components = horizons, longest_lag, n_components
        empty = DelayedResponsesFit.empty(n_horizons=len(horizons), width=width)
        self.register_buffer("lags", empty.lags)
        self.register_buffer("weights", empty.weights)
        self.register_buffer("weights_without", empty.weights_without, persistent=False)

    def load(self, fit: DelayedResponsesFit) -> None:
        """Load what was fitted; the number of lags becomes that of the fit."""
        load_buffers(self, fit)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        resize_buffers(self, ("lags", "weights"), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def init_state(self, batch_size: int) -> Float[Tensor, "B L O"]:
        """Components of the time points before the first one, ``(batch, longest lag, components)``: zeros."""
        return self.weights.new_zeros(batch_size, self.longest_lag, self.n_components)

    def forward(
        self, components: Float[Tensor, "B T O"], tail: Float[Tensor, "B L O"], folds: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B L O"]]:
        """Forecast from every time point.

        Parameters
        ----------
        components : torch.Tensor
            Components of the innovations, ``(batch, time, components)``.
        tail : torch.Tensor
            Those of the time points before, from the call before or `init_state`, ``(batch, longest lag,
            components)``.
        folds : torch.Tensor, optional
            int ``(batch,)``: for each stream the fold that is left out of the weights; -1 for none.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, width)``.
        tail : torch.Tensor
            To be given with the next time points.
        """
        if not len(self.lags):
            n_horizons, width = len(self.horizons), self.weights.shape[2]
            return components.new_zeros(*components.shape[:2], n_horizons, width), tail
        padded = torch.cat([tail, components], dim=1)
        time_points = torch.arange(self.longest_lag, padded.shape[1], device=components.device)[:, None]
        weights = select_fit(self.weights, self.weights_without, folds)
        forecasts = [
            times_fit(padded[:, time_points + horizon - self.lags].flatten(2), weights[:, index])
            for index, horizon in enumerate(self.horizons)
        ]
        return torch.stack(forecasts, dim=2), padded[:, components.shape[1] :]
