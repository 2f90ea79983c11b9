"""The linear skip: autoregression per feature, the forecast to which everything else is added."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.errors import MismatchError
from titan_neuro.linear.autoregression import ORDERS, Autoregression, autoregress
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class LinearSkipState(StreamState):
    """What the linear skip carries from one call to the next.

    Attributes
    ----------
    history : torch.Tensor
        The last time points, ``(batch, order - 1, features)``; zeros before the start.
    """

    history: Float[Tensor, "batch ..."]


class LinearSkip(nn.Module):
    """Linear autoregression per feature, with weights of its own for each horizon; fitted, not trained.

    ``forecast[t, h] = intercept_h + sum_i coefficients_hi y[t - i]``. Before a fit is loaded, the forecast is 0.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points, ascending.
    n_features : int
        Voxels inside the mask, or parcels.

    Attributes
    ----------
    coefficients : torch.Tensor
        ``(horizons, order, features)``.
    intercept : torch.Tensor
        ``(horizons, features)``.
    """

    coefficients: Tensor
    intercept: Tensor

    def __init__(self, *, horizons: tuple[int, ...], n_features: int) -> None:
        super().__init__()
        self.horizons = horizons
        self.register_buffer("coefficients", torch.zeros(len(horizons), max(ORDERS), n_features))
        self.register_buffer("intercept", torch.zeros(len(horizons), n_features))

    def load(self, fit: Autoregression) -> None:
        """Load a fitted autoregression.

        Raises
        ------
        MismatchError
            The fit has other horizons, another order or number of features.
        """
        if fit.horizons != self.horizons or fit.coefficients.shape != self.coefficients.shape:
            raise MismatchError(
                f"LinearSkip.load: expected horizons {self.horizons}, coefficients {tuple(self.coefficients.shape)}; "
                f"found {fit.horizons} and {tuple(fit.coefficients.shape)}.",
                "Fit the autoregression with the model's horizons, on runs with its number of features.",
            )
        self.coefficients.copy_(fit.coefficients)
        self.intercept.copy_(fit.intercept)

    def init_state(self, batch_size: int = 1) -> LinearSkipState:
        """State before the first time point of `batch_size` streams."""
        _, order, n_features = self.coefficients.shape
        return LinearSkipState(self.coefficients.new_zeros(batch_size, order - 1, n_features))

    def forward(
        self, series: Float[Tensor, "B T V"], state: LinearSkipState
    ) -> tuple[Float[Tensor, "B T K V"], LinearSkipState]:
        """Forecast from every time point.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, features)``.
        state : LinearSkipState
            From the call before, or `init_state`.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, features)``.
        state : LinearSkipState
        """
        forecasts, history = autoregress(series, state.history, self.coefficients, self.intercept)
        return forecasts, LinearSkipState(history)
