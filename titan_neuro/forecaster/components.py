"""Spatial components of a time point: where the recall and the memory of the backbone compute."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.linear.lead_time import wait_for_targets
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class PendingForecasts(StreamState):
    """Linear forecasts whose targets have not arrived.

    Attributes
    ----------
    forecasts : torch.Tensor
        In the basis, ``(batch, longest horizon, horizons, width)``.
    exists : torch.Tensor
        ``(batch, longest horizon)``: 1 where there was a time point to forecast from, 0 before the start.
    """

    forecasts: Float[Tensor, "batch ..."]
    exists: Float[Tensor, "batch ..."]


class Components(nn.Module):
    """Describe time points, and the errors of the linear forecasts of them, in a few spatial components.

    Parameters
    ----------
    width : int
        Number of components.
    horizons : tuple of int
        Lead times in time points, ascending.
    n_features : int
        Voxels or parcels.

    Attributes
    ----------
    basis : torch.Tensor
        ``(width, features)``: orthonormal rows; rows of zeros where the data have fewer dimensions.
    """

    basis: Tensor

    def __init__(self, width: int, *, horizons: tuple[int, ...], n_features: int) -> None:
        super().__init__()
        self.width, self.horizons = width, horizons
        self.register_buffer("basis", torch.zeros(width, n_features))

    def init_state(self, batch_size: int) -> PendingForecasts:
        """State before the first time point of `batch_size` streams."""
        forecasts = self.basis.new_zeros(batch_size, max(self.horizons), len(self.horizons), self.width)
        return PendingForecasts(forecasts, forecasts.new_zeros(forecasts.shape[:2]))

    def forward(
        self, series: Float[Tensor, "B T V"], forecasts: Float[Tensor, "B T K V"], pending: PendingForecasts
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T K D"], PendingForecasts]:
        """Project time points to the basis, and compare them with the linear forecasts of them.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, features)``.
        forecasts : torch.Tensor
            Of the linear skip, made at these time points, ``(batch, time, horizons, features)``.
        pending : PendingForecasts
            From the call before, or `init_state`.

        Returns
        -------
        projected : torch.Tensor
            ``(batch, time, width)``.
        errors : torch.Tensor
            ``(batch, time, horizons, width)``: each time point less the linear forecasts of it; 0 where none was made.
        pending : PendingForecasts
            To be given with the next time points.
        """
        projected = series @ self.basis.T
        due, waiting = wait_for_targets(pending.forecasts, forecasts @ self.basis.T, self.horizons, dim=1)
        marks = pending.exists.new_ones(*series.shape[:2], len(self.horizons))
        waiting_marks = pending.exists[..., None].expand(-1, -1, len(self.horizons))
        exists, still_waiting = wait_for_targets(waiting_marks, marks, self.horizons, dim=1)
        errors = (projected.unsqueeze(2) - due) * exists[..., None]
        return projected, errors, PendingForecasts(waiting, still_waiting[..., 0])
