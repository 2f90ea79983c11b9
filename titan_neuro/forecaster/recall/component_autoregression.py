"""Vector autoregression in components: a linear forecast of the whole brain from its last few time points."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord, load_buffers, select_fit, times_fit
from titan_neuro.forecaster.lags import lagged_values
from titan_neuro.linear.running_averages import TIME_CONSTANTS, running_averages
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True, eq=False)
class ComponentAutoregressionFit(FitRecord):
    """What is fitted of a :class:`ComponentAutoregression`; see its attributes for the shapes."""

    directions: Tensor
    weights: Tensor
    weights_without: Tensor


@dataclasses.dataclass(frozen=True)
class ComponentAutoregressionState(StreamState):
    """What is carried from one call to the next.

    Attributes
    ----------
    tail : torch.Tensor
        Components of the last time points, ``(batch, lags - 1, components)``.
    averages : torch.Tensor
        Running averages of the components, ``(batch, time constants, components)``.
    """

    tail: Float[Tensor, "batch ..."]
    averages: Float[Tensor, "batch ..."]


class ComponentAutoregression(nn.Module):
    """Forecast from the present time point and its innovation in full, and from components of the time points before.

    Of these, the last few are used one by one, and all of them in running averages.

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
    def feature_sizes(self) -> tuple[int, int, int, int]:
        """Numbers of features of each kind, in order.

        Time point, innovation, components of the time points before, running averages.
        """
        n_components = self.n_components
        return self.width, self.width, (self.n_lags - 1) * n_components, len(TIME_CONSTANTS) * n_components

    def load(self, fit: ComponentAutoregressionFit) -> None:
        """Load what was fitted."""
        load_buffers(self, fit)

    def init_state(self, batch_size: int) -> ComponentAutoregressionState:
        """State before the first time point: zeros."""
        return ComponentAutoregressionState(
            self.directions.new_zeros(batch_size, self.n_lags - 1, self.n_components),
            self.directions.new_zeros(batch_size, len(TIME_CONSTANTS), self.n_components),
        )

    def forward(
        self,
        series: Float[Tensor, "B T D"],
        innovations: Float[Tensor, "B T D"],
        state: ComponentAutoregressionState,
        folds: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T K D"], ComponentAutoregressionState]:
        """Forecast from every time point.

        Parameters
        ----------
        series, innovations : torch.Tensor
            Time points, and the errors of the one-step linear forecast of them, ``(batch, time, width)``.
        state : ComponentAutoregressionState
            From the call before, or `init_state`.
        folds : torch.Tensor, optional
            int ``(batch,)``: for each stream the fold that is left out of the weights; -1 for none.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, width)``.
        state : ComponentAutoregressionState
        """
        features, state = self.features(series, innovations, state)
        weights = select_fit(self.weights, self.weights_without, folds)
        return times_fit(features.unsqueeze(1), weights).transpose(1, 2), state

    def features(
        self, series: Float[Tensor, "B T D"], innovations: Float[Tensor, "B T D"], state: ComponentAutoregressionState
    ) -> tuple[Float[Tensor, "B T F"], ComponentAutoregressionState]:
        """Autoregressive features of every time point, ``(batch, time, features)``, and the state after the last.

        The time point, its innovation, components of the time points before, the latest first, and running averages of
        the components.
        """
        components = series @ self.directions.T
        lagged, tail = lagged_values(components, state.tail)
        over_time, averages = running_averages(components, state.averages)
        features = torch.cat([series, innovations, *lagged[1:], over_time.flatten(2)], dim=-1)
        return features, ComponentAutoregressionState(tail, averages)
