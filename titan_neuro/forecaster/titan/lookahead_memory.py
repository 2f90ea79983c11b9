"""The backbone's memory: what follows a time point in this recording, learned while the recording runs."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord, require_shapes
from titan_neuro.forecaster.lags import lagged_values
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.shallow_copy import with_parts
from titan_neuro.forecaster.titan.config import LookaheadConfig
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemoryFit
from titan_neuro.forecaster.titan.own_past_memory import OwnPastMemory, OwnPastMemoryFit, OwnPastMemoryState
from titan_neuro.linear.lead_time import wait_for_targets
from titan_neuro.linear.running_averages import TIME_CONSTANTS, running_averages
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True, eq=False)
class LookaheadMemoryFit(FitRecord):
    """What is fitted of a :class:`LookaheadMemory`; see its attributes."""

    directions: Tensor
    own_past: OwnPastMemoryFit
    associations: ForecastMemoryFit


@dataclasses.dataclass(frozen=True)
class LookaheadState(StreamState):
    """What is carried from one call to the next.

    Attributes
    ----------
    averages : torch.Tensor
        Running averages, ``(batch, time constants, components)``.
    innovations : torch.Tensor
        Innovations of the last time points, ``(batch, lags - 1, components)``.
    pending : torch.Tensor
        Forecasts of the last time points by recall and `own_past`, whose targets have not arrived, ``(batch, longest
        horizon, horizons, width)``.
    own_past : OwnPastMemoryState
    associations : StreamState
        Of the write rule's memory.
    """

    averages: Float[Tensor, "batch ..."]
    innovations: Float[Tensor, "batch ..."]
    pending: Float[Tensor, "batch ..."]
    own_past: OwnPastMemoryState
    associations: StreamState


class LookaheadMemory(nn.Module):
    """Learn at test time what the recall misses: memories whose keys wait for their values.

    First a small one for each component (:class:`OwnPastMemory`), then one for all, which learns what is left.
    The key of a time point tells what the person's brain does now, has done slowly, and what was unexpected in the last
    time points; and what the recall forecasts. Its value comes `horizon` time points later: what the recall's forecast
    of that time point missed. How its pairs are held and read is up to `associations`.

    Parameters
    ----------
    config : LookaheadConfig
    horizons : tuple of int
        Lead times in time points, ascending.
    width : int
        Spatial components.

    Attributes
    ----------
    directions : torch.Tensor
        ``(components, width)``: principal directions of the time points, each divided by the root of its standard
        deviation: half-way to equal variances.
    own_past : OwnPastMemory
    associations : ExactForecastMemory or TitansForecastMemory
    """

    directions: Tensor

    def __init__(self, config: LookaheadConfig, *, horizons: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.config, self.horizons, self.width = config, horizons, width
        sizes = config.feature_sizes(width=width)
        self._innovation_sizes = [sizes[f"innovation {lag}"] for lag in range(config.n_lags)]
        self.register_buffer("directions", torch.zeros(min(config.n_components, width), width))
        self.own_past = OwnPastMemory(horizons=horizons, width=width)
        self.associations = config.build_associations(horizons=horizons, width=width)

    def load(self, fit: LookaheadMemoryFit) -> None:
        """Load what was fitted.

        Raises
        ------
        MismatchError
            The fit is of other sizes.
        """
        require_shapes(
            "LookaheadMemory.load",
            "Fit with the same LookaheadConfig, horizons and number of features.",
            ("directions", fit.directions, self.directions),
            ("key_map", fit.associations.key_map, self.associations.key_map),
        )
        self.directions.copy_(fit.directions)
        self.own_past.load(fit.own_past)
        self.associations.load(fit.associations)

    def for_short_streams(self, n_time_points: int) -> LookaheadMemory:
        """Return the memory with associations for streams of so many time points; all else is shared."""
        return with_parts(self, associations=self.associations.for_short_streams(n_time_points))

    def init_state(self, batch_size: int) -> LookaheadState:
        """State before the first time point of `batch_size` streams."""
        zeros = self.directions.new_zeros
        n_components, n_horizons = len(self.directions), len(self.horizons)
        return LookaheadState(
            zeros(batch_size, len(TIME_CONSTANTS), n_components),
            zeros(batch_size, self.config.n_lags - 1, n_components),
            zeros(batch_size, max(self.horizons), n_horizons, self.width),
            self.own_past.init_state(batch_size),
            self.associations.init_state(batch_size),
        )

    def forward(
        self,
        series: Float[Tensor, "B T D"],
        errors: Float[Tensor, "B T K D"],
        recalled: Recalled,
        state: LookaheadState,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], LookaheadState]:
        """Learn from what has arrived, then correct the forecasts that the recall makes at each time point.

        Parameters
        ----------
        series, errors : torch.Tensor
            As :class:`titan_neuro.forecaster.components.Components` returns them.
        recalled : Recalled
            What the recall forecasts at these time points.
        state : LookaheadState
        frozen : bool
            Whether the memory is read without being written.

        Returns
        -------
        corrections : torch.Tensor
            Expected errors of the recall, in the basis, ``(batch, time, horizons, width)``.
        state : LookaheadState
        """
        from_own_past, own_past = self.own_past(series, errors, recalled.total, state.own_past, frozen=frozen)
        expected = recalled._replace(own=recalled.own + from_own_past)
        features, averages, innovations = self.key_features(series, errors[:, :, 0], expected, state)
        due, pending = wait_for_targets(state.pending, expected.total, self.horizons, dim=1)
        corrections, associations = self.associations(features, errors - due, state.associations, frozen=frozen)
        return from_own_past + corrections, LookaheadState(averages, innovations, pending, own_past, associations)

    def key_features(
        self,
        series: Float[Tensor, "B T D"],
        innovations: Float[Tensor, "B T D"],
        recalled: Recalled,
        state: LookaheadState,
    ) -> tuple[Float[Tensor, "B T K F"], Tensor, Tensor]:
        """Features from which the keys of `associations` are made; `recalled` includes what `own_past` adds.

        Returns
        -------
        features : torch.Tensor
            ``(batch, time, horizons, features)``; their kinds are those of `LookaheadConfig.feature_sizes`.
        averages, innovations : torch.Tensor
            Of the next state.
        """
        parts = (series, innovations, recalled.stimulus, recalled.own)
        now, unexpected, from_stimulus, own = (values @ self.directions.T for values in parts)
        over_time, averages = running_averages(now, state.averages)
        lagged, tail = lagged_values(unexpected, state.innovations)
        recent = [values[..., :size] for values, size in zip(lagged, self._innovation_sizes, strict=True)]
        common = torch.cat([now, over_time.flatten(2), *recent], dim=-1)
        common = common.unsqueeze(2).expand(-1, -1, own.shape[2], -1)
        return torch.cat([common, from_stimulus, own], dim=-1), averages, tail
