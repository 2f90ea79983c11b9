"""Each component's own past: what its last time points and slow averages tell of what the other parts miss."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord, load_buffers, select_fit
from titan_neuro.linear.running_averages import N_LAGS, N_OWN_PREDICTORS, TIME_CONSTANTS, own_predictors
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True, eq=False)
class OwnPastFit(FitRecord):
    """What is fitted of :class:`OwnPast`; see its attributes for the shapes."""

    weights: Tensor
    weights_without: Tensor


@dataclasses.dataclass(frozen=True)
class OwnPastState(StreamState):
    """What predictors need of the time points before.

    Attributes
    ----------
    past : torch.Tensor
        The last time points, ``(batch, N_LAGS - 1, width)``.
    averages : torch.Tensor
        Running averages, ``(batch, time constants, width)``.
    """

    past: Float[Tensor, "batch ..."]
    averages: Float[Tensor, "batch ..."]

    @classmethod
    def start(cls, like: Tensor, batch_size: int, width: int) -> OwnPastState:
        """State before the first time point: zeros, of the type of `like`."""
        return cls(
            like.new_zeros(batch_size, N_LAGS - 1, width), like.new_zeros(batch_size, len(TIME_CONSTANTS), width)
        )

    def read(self, series: Tensor) -> tuple[Float[Tensor, "B D T P"], OwnPastState]:
        """Predictors at each time point of ``(batch, time, width)``, and the state after the last."""
        predictors, past, averages = own_predictors(series, self.past, self.averages)
        return predictors, OwnPastState(past, averages)


class OwnPast(nn.Module):
    """Forecast each component from its own last time points and running averages, by weights of its own.

    Parameters
    ----------
    n_horizons, width : int
        Number of lead times; components.

    Attributes
    ----------
    weights : torch.Tensor
        ``(width, predictors, horizons)``.
    weights_without : torch.Tensor
        ``(folds, ...)``: fitted without the runs of each fold; of no fold in a module that was read from a file.
    """

    weights: Tensor
    weights_without: Tensor

    def __init__(self, *, n_horizons: int, width: int) -> None:
        super().__init__()
        self.width = width
        weights = torch.zeros(width, N_OWN_PREDICTORS, n_horizons)
        self.register_buffer("weights", weights)
        self.register_buffer("weights_without", weights.new_zeros(0, *weights.shape), persistent=False)

    def load(self, fit: OwnPastFit) -> None:
        """Load what was fitted."""
        load_buffers(self, fit)

    def init_state(self, batch_size: int) -> OwnPastState:
        """State before the first time point: zeros."""
        return OwnPastState.start(self.weights, batch_size, self.width)

    def forward(
        self, series: Float[Tensor, "B T D"], state: OwnPastState, folds: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B T K D"], OwnPastState]:
        """Forecast from every time point.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, width)``.
        state : OwnPastState
            From the call before, or `init_state`.
        folds : torch.Tensor, optional
            int ``(batch,)``: for each stream the fold that is left out of the weights; -1 for none.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, width)``.
        state : OwnPastState
        """
        predictors, state = state.read(series)
        forecasts = predictors @ select_fit(self.weights, self.weights_without, folds)
        return forecasts.permute(0, 2, 3, 1), state
