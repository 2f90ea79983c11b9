"""The recall: four memories that forecast the errors of the linear skip, in a few spatial components."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster.recall.component_autoregression import (
    ComponentAutoregression,
    ComponentAutoregressionFit,
    ComponentAutoregressionState,
)
from titan_neuro.forecaster.recall.delayed_responses import DelayedResponses, DelayedResponsesFit
from titan_neuro.forecaster.recall.fitted import FitRecord
from titan_neuro.forecaster.recall.forecast_memory import ForecastMemory, ForecastMemoryFit, ForecastMemoryState
from titan_neuro.forecaster.recall.lags import lagged_values
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemory, StimulusMemoryFit
from titan_neuro.linear.lead_time import wait_for_targets
from titan_neuro.linear.running_averages import TIME_CONSTANTS, running_averages
from titan_neuro.settings import settings
from titan_neuro.titans.stream_state import StreamState


class RecallSizes(NamedTuple):
    """Sizes of a recall for a given number of features.

    Attributes
    ----------
    width : int
        Spatial components of forecasts.
    n_components : int
        Components that forecasts are computed from.
    n_key_components : int
        Components of a time point, and of a forecast of it, that the keys of the forecast memory are made of.
    """

    width: int
    n_components: int
    n_key_components: int


@settings
class RecallConfig:
    """Sizes of the memories that are fitted in closed form.

    Attributes
    ----------
    width : int
        Spatial components of forecasts, at most. With fewer than 25 training time points a feature, the fit uses at
        most one component for 50 time points.
    n_components : int
        Components of the stimulus, and of innovations, that forecasts are computed from.
    autoregressive_lags : int
        Time points that the vector autoregression uses: the present one in full, those before in components.
    key_lags : int
        Time points whose innovations enter the keys of the forecast memory.
    key_components : int
        Components that the key features are described by.
    key_width : int
        Dimensions of a key, at most: principal directions of the key features.
    chunk_time_points : int
        Time points whose pairs the forecast memory merges at once; changes the cost alone.
    longest_lag : int
        Longest lag of delayed responses in time points; 0 for none.
    n_delayed_responses : int
        Lags of delayed responses, at most; the fit finds them.
    """

    width: Annotated[int, Field(ge=1)] = 256
    n_components: Annotated[int, Field(ge=1)] = 64
    autoregressive_lags: Annotated[int, Field(ge=1)] = 5
    key_lags: Annotated[int, Field(ge=1)] = 8
    key_components: Annotated[int, Field(ge=1)] = 96
    key_width: Annotated[int, Field(ge=1)] = 384
    chunk_time_points: Annotated[int, Field(ge=1)] = 8
    longest_lag: Annotated[int, Field(ge=0)] = 320
    n_delayed_responses: Annotated[int, Field(ge=1)] = 4

    def sizes(self, n_features: int) -> RecallSizes:
        """Sizes for time points of `n_features` voxels or parcels."""
        width = min(self.width, n_features)
        n_components = min(self.n_components, width)
        n_key_components = min(self.key_components, width)
        return RecallSizes(width, n_components, n_key_components)

    def build(self, *, horizons: tuple[int, ...], n_features: int) -> Recall:
        """Build the memories for time points of `n_features`."""
        return Recall(self, horizons=horizons, n_features=n_features)


@dataclasses.dataclass(frozen=True, eq=False)
class RecallFit(FitRecord):
    """What :func:`titan_neuro.forecaster.recall.fit.fit_recall` returns, and :meth:`Recall.load` loads.

    Attributes
    ----------
    basis, innovation_directions, key_directions : torch.Tensor
        See :class:`Recall`.
    stimulus : StimulusMemoryFit
    autoregression : ComponentAutoregressionFit
    delayed_responses : DelayedResponsesFit
    memory : ForecastMemoryFit
    runs : dict of str to (int, int)
        For each training run, by its key, the indices of its subject and of its fold.
    """

    basis: Tensor
    innovation_directions: Tensor
    key_directions: Tensor
    stimulus: StimulusMemoryFit
    autoregression: ComponentAutoregressionFit
    delayed_responses: DelayedResponsesFit
    memory: ForecastMemoryFit
    runs: dict[str, tuple[int, int]]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], runs: Mapping[str, tuple[int, int]]) -> RecallFit:
        """Put together what :meth:`tensors` returned, and `runs`."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

        return cls(
            basis=tensors["basis"],
            innovation_directions=tensors["innovation_directions"],
            key_directions=tensors["key_directions"],
            stimulus=StimulusMemoryFit(**part("stimulus")),
            autoregression=ComponentAutoregressionFit(**part("autoregression")),
            delayed_responses=DelayedResponsesFit(**part("delayed_responses")),
            memory=ForecastMemoryFit(**part("memory")),
            runs=dict(runs),
        )


@dataclasses.dataclass(frozen=True)
class KeyState(StreamState):
    """What the key features of the next time points need of the last ones.

    Attributes
    ----------
    averages : torch.Tensor
        Running averages, ``(batch, time constants, key components)``.
    tail : torch.Tensor
        Innovations of the last time points, ``(batch, key lags - 1, key components)``.
    """

    averages: Float[Tensor, "batch ..."]
    tail: Float[Tensor, "batch ..."]


@dataclasses.dataclass(frozen=True)
class RecallState(StreamState):
    """What is carried from one call to the next.

    Attributes
    ----------
    evidence : torch.Tensor
        For each position of the stimulus, ``(batch, positions)``.
    autoregression : ComponentAutoregressionState
    keys : KeyState
    pending : torch.Tensor
        Forecasts of the last time points, whose targets have not arrived, ``(batch, longest horizon, horizons,
        width)``.
    delayed : torch.Tensor
        Components of the innovations that delayed responses may need, ``(batch, longest lag, components)``.
    memory : ForecastMemoryState
    """

    evidence: Float[Tensor, "batch ..."]
    autoregression: ComponentAutoregressionState
    keys: KeyState
    pending: Float[Tensor, "batch ..."]
    delayed: Float[Tensor, "batch ..."]
    memory: ForecastMemoryState


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


class Recall(nn.Module):
    """Forecast the errors of the linear skip by four memories, in a few spatial components.

    1. `stimulus`: persistent memory of the intersubject average (:class:`StimulusMemory`).
    2. `autoregression`: vector autoregression on the last few time points (:class:`ComponentAutoregression`).
    3. `delayed_responses`: a linear forecast from time points at fixed lags, long ago (:class:`DelayedResponses`).
    4. `memory`: a memory that learns, at test time, the errors of the first three (:class:`ForecastMemory`).

    The first three, and the keys of the fourth, are fitted in closed form
    (:func:`titan_neuro.forecaster.recall.fit.fit_recall`). Training and validation runs are read with what was fitted
    without them (`held_out_index`): their own data would leak into their forecasts.

    Parameters
    ----------
    config : RecallConfig
    horizons : tuple of int
        Lead times in time points, ascending.
    n_features : int
        Voxels or parcels.

    Attributes
    ----------
    basis : torch.Tensor
        ``(width, features)``: orthonormal rows; rows of zeros where the data have fewer dimensions.
    innovation_directions : torch.Tensor
        ``(components, width)``: in the basis, principal directions of the innovations, in descending order.
    key_directions : torch.Tensor
        ``(key components, width)``: in the basis, principal directions of the time points, each divided by the root of
        its standard deviation: half-way to equal variances.
    runs : dict of str to (int, int)
        Subject and fold of each run of the fit, by its key; empty in a recall that was read from a file.
    """

    basis: Tensor
    innovation_directions: Tensor
    key_directions: Tensor

    def __init__(self, config: RecallConfig, *, horizons: tuple[int, ...], n_features: int) -> None:
        super().__init__()
        self.config, self.horizons, self.sizes = config, horizons, config.sizes(n_features)
        self.width, n_components = self.sizes.width, self.sizes.n_components
        self.register_buffer("basis", torch.zeros(self.width, n_features))
        self.register_buffer("innovation_directions", torch.zeros(n_components, self.width))
        self.register_buffer("key_directions", torch.zeros(self.sizes.n_key_components, self.width))
        self.runs: dict[str, tuple[int, int]] = {}
        self.stimulus = StimulusMemory(n_components=n_components, horizons=horizons, width=self.width)
        self.autoregression = ComponentAutoregression(
            n_horizons=len(horizons), n_lags=config.autoregressive_lags, n_components=n_components, width=self.width
        )
        self.delayed_responses = DelayedResponses(
            horizons=horizons, longest_lag=config.longest_lag, n_components=n_components, width=self.width
        )
        n_key_features = sum(key_feature_sizes(config, self.sizes, len(horizons)).values())
        self.memory = ForecastMemory(
            horizons=horizons,
            n_features=n_key_features,
            key_width=min(config.key_width, n_key_features),
            value_width=self.width,
            chunk_time_points=config.chunk_time_points,
        )

    def load(self, fit: RecallFit) -> None:
        """Load what was fitted; parameters that are drawn at random or trained stay as they are.

        Raises
        ------
        MismatchError
            The fit is of other sizes.
        """
        for name, found, current in (
            ("basis", fit.basis, self.basis),
            ("innovation_directions", fit.innovation_directions, self.innovation_directions),
            ("key_directions", fit.key_directions, self.key_directions),
            ("autoregression.weights", fit.autoregression.weights, self.autoregression.weights),
            ("memory.key_map", fit.memory.key_map, self.memory.key_map),
        ):
            if found.shape != current.shape:
                raise MismatchError(
                    f"Recall.load: expected {name} {tuple(current.shape)}, found {tuple(found.shape)}.",
                    "Fit with the same RecallConfig, horizons and number of features.",
                )
        self.basis.copy_(fit.basis)
        self.innovation_directions.copy_(fit.innovation_directions)
        self.key_directions.copy_(fit.key_directions)
        self.stimulus.load(fit.stimulus)
        self.autoregression.load(fit.autoregression)
        self.delayed_responses.load(fit.delayed_responses)
        self.memory.load(fit.memory)
        self.runs = dict(fit.runs)

    def held_out_index(self, keys: Sequence[str]) -> Int[Tensor, "B 2"]:
        """Subject and fold of the runs with these keys, for `forward`: ``(batch, 2)``; -1 for runs not in the fit."""
        return torch.tensor([self.runs.get(key, (-1, -1)) for key in keys], device=self.basis.device)

    def init_state(self, batch_size: int) -> RecallState:
        """State before the first time point of `batch_size` streams."""
        return RecallState(
            self.stimulus.init_state(batch_size),
            self.autoregression.init_state(batch_size),
            init_key_state(self.config, self.key_directions, batch_size),
            self.basis.new_zeros(batch_size, max(self.horizons), len(self.horizons), self.width),
            self.delayed_responses.init_state(batch_size),
            self.memory.init_state(batch_size),
        )

    def init_pending(self, batch_size: int) -> PendingForecasts:
        """State of `linear_errors` before the first time point of `batch_size` streams."""
        forecasts = self.basis.new_zeros(batch_size, max(self.horizons), len(self.horizons), self.width)
        return PendingForecasts(forecasts, forecasts.new_zeros(forecasts.shape[:2]))

    def linear_errors(
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
            From the call before, or `init_pending`.

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

    def forward(
        self,
        series: Float[Tensor, "B T D"],
        errors: Float[Tensor, "B T K D"],
        state: RecallState,
        *,
        held_out_index: Int[Tensor, "B 2"] | None = None,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], RecallState]:
        """Forecast the errors of the linear skip.

        Parameters
        ----------
        series, errors : torch.Tensor
            As `linear_errors` returns them, ``(batch, time, width)`` and ``(batch, time, horizons, width)``. Errors of
            the shortest horizon are the innovations.
        state : RecallState
        held_out_index : torch.Tensor, optional
            Subject and fold of each stream, from the method of this name.
        frozen : bool
            Whether the forecast memory is read without being written.

        Returns
        -------
        forecasts : torch.Tensor
            In the basis, ``(batch, time, horizons, width)``.
        state : RecallState
        """
        subjects, folds = (None, None) if held_out_index is None else held_out_index.unbind(1)
        innovations = errors[:, :, 0]
        from_stimulus, evidence = self.stimulus(innovations, state.evidence, subjects, folds)
        from_series, autoregression = self.autoregression(series, innovations, state.autoregression, folds)
        components = innovations @ self.innovation_directions.T
        from_delayed, delayed = self.delayed_responses(components, state.delayed, folds)
        own = from_series + from_delayed
        features, keys = key_features(
            *(values @ self.key_directions.T for values in (series, innovations, from_stimulus, own)), state=state.keys
        )

        due, pending = wait_for_targets(state.pending, from_stimulus + own, self.horizons, dim=1)
        corrections, memory = self.memory(features, errors - due, state.memory, frozen=frozen)
        state = RecallState(evidence, autoregression, keys, pending, delayed, memory)
        return from_stimulus + own + corrections, state


def key_feature_sizes(config: RecallConfig, sizes: RecallSizes, n_horizons: int) -> dict[str, int]:
    """Number of features of each kind, in the order in which :func:`key_features` returns them."""
    n_components = sizes.n_key_components
    averages = {f"average {constant}": n_components for constant in TIME_CONSTANTS}
    innovations = {f"innovation {lag}": n_components for lag in range(config.key_lags)}
    forecasts = {"stimulus, all lead times": n_horizons * n_components, "stimulus": n_components, "own": n_components}
    return {"time point": n_components, **averages, **innovations, **forecasts}


def init_key_state(config: RecallConfig, directions: Tensor, batch_size: int) -> KeyState:
    """State of `key_features` before the first time point: zeros; `directions` are :attr:`Recall.key_directions`."""
    n_components = len(directions)
    return KeyState(
        directions.new_zeros(batch_size, len(TIME_CONSTANTS), n_components),
        directions.new_zeros(batch_size, config.key_lags - 1, n_components),
    )


def key_features(
    series: Float[Tensor, "B T O"],
    innovations: Float[Tensor, "B T O"],
    from_stimulus: Float[Tensor, "B T K O"],
    own: Float[Tensor, "B T K O"],
    *,
    state: KeyState,
) -> tuple[Float[Tensor, "B T K F"], KeyState]:
    """Features from which the keys of the forecast memory are made.

    What the person's brain does now, has done slowly, and what was unexpected in the last time points; and what the
    other parts forecast.

    Parameters
    ----------
    series, innovations : torch.Tensor
        Key components of the time points, and of their innovations, ``(batch, time, key components)``.
    from_stimulus, own : torch.Tensor
        Of the forecasts from the stimulus, and from the stream's own past, ``(batch, time, horizons, key components)``.
    state : KeyState
        From the call before, or `init_key_state`.

    Returns
    -------
    features : torch.Tensor
        ``(batch, time, horizons, features)``; their kinds are those of `key_feature_sizes`.
    state : KeyState
    """
    over_time, averages = running_averages(series, state.averages)
    lagged, tail = lagged_values(innovations, state.tail)
    common = torch.cat([series, over_time.flatten(2), *lagged, from_stimulus.flatten(2)], dim=-1)
    n_horizons = own.shape[2]
    features = torch.cat([common.unsqueeze(2).expand(-1, -1, n_horizons, -1), from_stimulus, own], dim=-1)
    return features, KeyState(averages, tail)
