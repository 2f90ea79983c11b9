"""Vector autoregression in components: a linear forecast of the whole brain from its last few time points."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.recall.fitted import FitRecord, load_buffers, select_fit
from titan_neuro.forecaster.recall.lags import lagged_values


@dataclasses.dataclass(frozen=True, eq=False)
class ComponentAutoregressionFit(FitRecord):
    """What is fitted of a :class:`ComponentAutoregression`; see its attributes for the shapes."""

    directions: Tensor
    weights: Tensor
    weights_without: Tensor


class ComponentAutoregression(nn.Module):
    """Forecast from the present time point and its innovation in full, and from components of the time points before.

    Parameters
    ----------
    n_horizons, n_lags, n_components, width : int
        Number of lead times; time points that are used, the present one included; components of the earlier ones;
        width of series, innovations and forecasts.

    Attributes
    ----------
    directions : torch.Tensor
        ``(components, width)``: principal directions of the time points, in descending order.
    weights : torch.Tensor
        VAR weights, ``(horizons, features, width)``; features as `features` returns them.
    weights_without : torch.Tensor
        ``(folds, ...)``: fitted without the runs of each fold; of no fold in a module that was read from a file.
    """

    directions: Tensor
    weights: Tensor
    weights_without: Tensor

    def __init__(self, *, n_horizons: int, n_lags: int, n_components: int, width: int) -> None:
        super().__init__()
        self.n_lags, self.n_components, self.width = n_lags, n_components, width
        weights = torch.zeros(n_horizons, sum(self.feature_sizes), width)
        self.register_buffer("directions", torch.zeros(n_components, width))
        self.register_buffer("weights", weights)
        self.register_buffer("weights_without", weights.new_zeros(0, *weights.shape), persistent=False)

    @property
    def feature_sizes(self) -> tuple[int, int, int]:
        """Numbers of features of each kind, in order: time point, innovation, components of the time points before."""
        return self.width, self.width, (self.n_lags - 1) * self.n_components

    def load(self, fit: ComponentAutoregressionFit) -> None:
        """Load what was fitted."""
        load_buffers(self, fit)

    def init_state(self, batch_size: int) -> Float[Tensor, "B L O"]:
        """Components of the time points before the first one, ``(batch, lags - 1, components)``: zeros."""
        return self.directions.new_zeros(batch_size, self.n_lags - 1, self.n_components)

    def forward(
        self,
        series: Float[Tensor, "B T D"],
        innovations: Float[Tensor, "B T D"],
        tail: Float[Tensor, "B L O"],
        folds: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B L O"]]:
        """Forecast from every time point.

        Parameters
        ----------
        series, innovations : torch.Tensor
            Time points, and the errors of the one-step linear forecast of them, ``(batch, time, width)``.
        tail : torch.Tensor
            From the call before, or `init_state`.
        folds : torch.Tensor, optional
            int ``(batch,)``: for each stream the fold that is left out of the weights; -1 for none.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, width)``.
        tail : torch.Tensor
            ``(batch, lags - 1, components)``.
        """
        features, tail = self.features(series, innovations, tail)
        weights = select_fit(self.weights, self.weights_without, folds)
        return (features.unsqueeze(1) @ weights).transpose(1, 2), tail

    def features(
        self, series: Float[Tensor, "B T D"], innovations: Float[Tensor, "B T D"], tail: Float[Tensor, "B L O"]
    ) -> tuple[Float[Tensor, "B T F"], Float[Tensor, "B L O"]]:
        """Autoregressive features of every time point, ``(batch, time, features)``, and the tail after the last.

        The time point, its innovation, and components of the time points before, the latest first.
        """
        lagged, tail = lagged_values(series @ self.directions.T, tail)
        return torch.cat([series, innovations, *lagged[1:]], dim=-1), tail
