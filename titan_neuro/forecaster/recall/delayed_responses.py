"""What comes back after a fixed time, longer ago than any window sees: a linear forecast from time points far back."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.recall.held_out import select


class DelayLine(nn.Module):
    """Keep the last time points in components, and forecast from those that lie some fixed lags before the target.

    The lags and the map are the same for all subjects and are fitted beforehand; what is kept is the stream's own past,
    of constant size. Without lags nothing is forecast.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    longest_lag : int
        Time points that are kept.
    n_components, width : int
        Numbers that describe a time point, and width of a forecast.

    Attributes
    ----------
    lags : torch.Tensor
        int ``(lags,)``: time points from the source to the target, each at least the longest horizon and at most
        `longest_lag`.
    map : torch.Tensor
        ``(horizons, lags * components, width)``.
    map_without : torch.Tensor
        ``(folds, ...)``: fitted on all runs but those of one fold; of none in a line that was read from a file.
    """

    lags: Tensor
    map: Tensor
    map_without: Tensor

    def __init__(self, *, horizons: tuple[int, ...], longest_lag: int, n_components: int, width: int) -> None:
        super().__init__()
        self.horizons, self.longest_lag, self.n_components = horizons, longest_lag, n_components
        self.register_buffer("lags", torch.zeros(0, dtype=torch.long))
        self.register_buffer("map", torch.zeros(len(horizons), 0, width))
        self.register_buffer("map_without", torch.zeros(0, len(horizons), 0, width), persistent=False)

    def set_lags(
        self, lags: Int[Tensor, " L"], weights: Float[Tensor, "K M D"], without: Float[Tensor, "G K M D"]
    ) -> None:
        """Say what comes back when, and as what; see the attributes."""
        self.lags, self.map, self.map_without = lags.to(self.lags), weights.to(self.map), without.to(self.map)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # How many lags there are is known from the training runs alone: the line takes the saved number.
        saved = [state_dict.get(prefix + name) for name in ("lags", "map")]
        if saved[0] is not None and saved[1] is not None:
            lags, weights = self.lags.new_empty(saved[0].shape), self.map.new_empty(saved[1].shape)
            self.set_lags(lags, weights, weights.new_empty(0, *weights.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def init_state(self, batch_size: int) -> Float[Tensor, "B L O"]:
        """Nothing was seen before the first time point."""
        return self.map.new_zeros(batch_size, self.longest_lag, self.n_components)

    def forward(
        self, own: Float[Tensor, "B T O"], tail: Float[Tensor, "B L O"], folds: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B L O"]]:
        """Forecast from every time point.

        Parameters
        ----------
        own : torch.Tensor
            ``(batch, time, components)``.
        tail : torch.Tensor
            The time points before, from the call before or `init_state`.
        folds : torch.Tensor, optional
            For each stream the fold that is left out of the map; -1 for none.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, width)``.
        tail : torch.Tensor
        """
        if not len(self.lags):
            return own.new_zeros(*own.shape[:2], len(self.horizons), self.map.shape[2]), tail
        whole = torch.cat([tail, own], dim=1)
        now = torch.arange(self.longest_lag, whole.shape[1], device=own.device)[:, None]
        weights = select(self.map, self.map_without, folds)
        forecasts = [
            whole[:, now + horizon - self.lags].flatten(2) @ weights[:, index]
            for index, horizon in enumerate(self.horizons)
        ]
        return torch.stack(forecasts, dim=2), whole[:, own.shape[1] :]
