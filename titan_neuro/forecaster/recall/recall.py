"""What a forecast takes from memory: the stimulus as other brains have seen it, and what this brain does otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from titan_neuro.forecaster.recall.delayed_responses import DelayLine
from titan_neuro.forecaster.recall.forecast_memory import ForecastMemory, ForecastMemoryState
from titan_neuro.forecaster.recall.held_out import select
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemory
from titan_neuro.titans.stream_state import StreamState

# Buffers that hold what was fitted without some of the runs are called so; they are in no file of weights.
_HELD_OUT = "_without"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RecallConfig:
    """Size of the memories that are fitted in closed form.

    Attributes
    ----------
    width : int
        Spatial components that forecasts are made of, at most. Where there are fewer than 25 training time points a
        feature, the fit takes one component for 50 time points at most.
    n_components : int
        Components of the stimulus, and of what single brains do, that forecasts are made from.
    own_lags : int
        Last time points of its own that the linear forecast of a brain sees: the present in full, those before in
        components.
    key_lags : int
        Time points of its own past that the keys of the memory may be made of.
    key_components : int
        Components of them.
    group_width : int
        Width that a key gives to each kind of feature in it.
    n_groups : int
        Kinds of features in a key, at most; what they are is chosen on the training subjects.
    chunk_time_points : int
        Time points of a chunk of the memory that learns at test time.
    longest_lag : int
        Time points of its own past, in components, that the delay line keeps; 0 for none.
    n_delayed_responses : int
        Lags that the delay line forecasts from, at most; they are found on the training subjects.
    """

    width: Annotated[int, Field(ge=1)] = 256
    n_components: Annotated[int, Field(ge=1)] = 64
    own_lags: Annotated[int, Field(ge=1)] = 5
    key_lags: Annotated[int, Field(ge=1)] = 16
    key_components: Annotated[int, Field(ge=1)] = 32
    group_width: Annotated[int, Field(ge=1)] = 32
    n_groups: Annotated[int, Field(ge=1)] = 3
    chunk_time_points: Annotated[int, Field(ge=1)] = 8
    longest_lag: Annotated[int, Field(ge=0)] = 320
    n_delayed_responses: Annotated[int, Field(ge=1)] = 4

    def build(self, *, horizons: tuple[int, ...], n_features: int, context_width: int) -> Recall:
        """Make the memories for time points of `n_features` and a backbone of width `context_width`."""
        return Recall(self, horizons=horizons, n_features=n_features, context_width=context_width)


@dataclasses.dataclass(frozen=True)
class RecallState(StreamState):
    """What is carried from one call to the next.

    Attributes
    ----------
    evidence : torch.Tensor
        For each moment of the stimulus, ``(batch, positions)``.
    recent_tail, own_tail : torch.Tensor
        Components of the last time points, and of their innovations, ``(batch, series, components)``.
    pending : torch.Tensor
        Forecasts of the last time points, ``(batch, longest horizon, horizons, width)``: their errors are still to
        come.
    delayed : torch.Tensor
        Own components of the time points that the delay line keeps, ``(batch, longest lag, components)``.
    memory : ForecastMemoryState
    """

    evidence: Float[Tensor, "batch ..."]
    recent_tail: Float[Tensor, "batch ..."]
    own_tail: Float[Tensor, "batch ..."]
    pending: Float[Tensor, "batch ..."]
    delayed: Float[Tensor, "batch ..."]
    memory: ForecastMemoryState


class Recall(nn.Module):
    """Forecast the errors of linear autoregression from four memories, in a few spatial components.

    1. `stimulus`: persistent memory, what the stimulus did to the training subjects (:class:`StimulusMemory`).
    2. A linear forecast from the own last time points, the present in full, those before in components: vector
       autoregression.
    3. `delayed_responses`: a linear forecast from own time points long ago, at the lags at which something comes back
       (:class:`DelayLine`).
    4. `memory`: a Titans memory that learns at test time what this subject does otherwise (:class:`ForecastMemory`).

    The first three, and what the fourth begins with, are fitted in closed form
    (:func:`titan_neuro.forecaster.recall.fit.fit_recall`). To a run that they were fitted on they would know too much,
    in training and in validation: it is read with what was fitted without it (`held_out_index`).

    Parameters
    ----------
    config : RecallConfig
    horizons : tuple of int
    n_features : int
        Voxels or parcels.
    context_width : int
        Width of the backbone's output.

    Attributes
    ----------
    basis : torch.Tensor
        ``(width, features)``, orthonormal rows, and zeros where the data span fewer.
    present_directions, own_directions : torch.Tensor
        ``(components, width)``: in the basis, directions of time points, and of the errors of single brains, the
        strongest first.
    own_map : torch.Tensor
        ``(horizons, features, width)``: the linear forecast, from what `own_past` returns.
    own_map_without : torch.Tensor
        ``(folds, ...)``: fitted on all runs but those of one fold; of none in a recall read from a file.
    runs : dict of str to (int, int)
        By its key, subject and fold of each run it was fitted on; empty in one read from a file.
    """

    basis: Tensor
    present_directions: Tensor
    own_directions: Tensor
    own_map: Tensor
    own_map_without: Tensor

    def __init__(self, config: RecallConfig, *, horizons: tuple[int, ...], n_features: int, context_width: int) -> None:
        super().__init__()
        self.config, self.horizons = config, horizons
        self.width = min(config.width, n_features)
        self.n_own = min(config.n_components, self.width)
        self.n_key_own = min(config.key_components, self.n_own)
        self.register_buffer("basis", torch.zeros(self.width, n_features))
        self.register_buffer("present_directions", torch.zeros(self.n_own, self.width))
        self.register_buffer("own_directions", torch.zeros(self.n_own, self.width))
        own_map = torch.zeros(len(horizons), sum(self.own_sizes), self.width)
        self.register_buffer("own_map", own_map)
        self.register_buffer("own_map_without", torch.zeros(0, *own_map.shape), persistent=False)
        self.runs: dict[str, tuple[int, int]] = {}
        self.stimulus = self.init_stimulus_memory(0)
        self.delayed_responses = DelayLine(
            horizons=horizons, longest_lag=config.longest_lag, n_components=self.n_own, width=self.width
        )
        self.n_known = 2 * self.width + config.key_lags * self.n_key_own
        self.memory = ForecastMemory(
            horizons=horizons,
            n_features=self.n_known,
            key_width=config.n_groups * config.group_width,
            value_width=self.width,
            context_width=context_width,
            context_key_width=config.group_width,
            chunk_time_points=config.chunk_time_points,
        )

    @property
    def own_sizes(self) -> tuple[int, ...]:
        """Numbers of each kind that `own_past` has, in their order: time points, innovations, components of time
        points.
        """
        return self.width, self.width, (self.config.own_lags - 1) * self.n_own

    def init_stimulus_memory(self, n_positions: int) -> StimulusMemory:
        """Make an empty stimulus memory of so many moments."""
        return StimulusMemory(
            n_positions=n_positions, n_components=self.n_own, horizons=self.horizons, width=self.width
        )

    def held_out_index(self, keys: Sequence[str]) -> Int[Tensor, "B 2"]:
        """Subject and fold of the run that each stream reads, for `forward`; -1 for one that was not there."""
        return torch.tensor([self.runs.get(key, (-1, -1)) for key in keys], device=self.basis.device)

    def set_own_map(self, own_map: Float[Tensor, "K M D"], without: Float[Tensor, "G K M D"]) -> None:
        """Say what the own past predicts, and what without each fold."""
        self.own_map.copy_(own_map)
        self.own_map_without = without.to(self.own_map)

    def set_keys(
        self, key_map: Float[Tensor, "K G F"], steps: list[tuple[float, float]], gain: Float[Tensor, "K D"]
    ) -> None:
        """Say what keys are made of, how fast the memory learns, and how far it is believed.

        Parameters
        ----------
        key_map : torch.Tensor
            ``(horizons, n_groups * group_width, known features)``.
        steps : list of (float, float)
            Step size and forgetting of each horizon.
        gain : torch.Tensor
            ``(horizons, width)``.
        """
        self.memory.key_map.copy_(key_map)
        with torch.no_grad():
            self.memory.gain.copy_(gain)
        for index, (step, forgetting) in enumerate(steps):
            self.memory.set_step(index, step, forgetting)

    def take(self, fitted: Recall) -> None:
        """Take what was fitted before: models of one fold share it. What is drawn at random stays this model's own."""
        own_context = self.memory.context_map.detach().clone()
        self.set_fitted(*fitted.fitted())
        with torch.no_grad():
            self.memory.context_map.copy_(own_context)

    def fitted(self) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
        """Everything that was fitted, by name, what serves to leave runs out among it; and `runs`."""
        held_out = {name: value for name, value in self.named_buffers() if name.endswith(_HELD_OUT)}
        return {**self.state_dict(), **held_out}, self.runs

    def set_fitted(self, tensors: Mapping[str, Tensor], runs: Mapping[str, tuple[int, int]]) -> None:
        """Put back what :meth:`fitted` has returned, of a recall of the same settings."""
        for name, value in tensors.items():
            if name.endswith(_HELD_OUT):
                # Held while there is something to be left out; how large it is, the runs say.
                owner, _, buffer = name.rpartition(".")
                setattr(self.get_submodule(owner), buffer, value)
        self.load_state_dict({name: value for name, value in tensors.items() if not name.endswith(_HELD_OUT)})
        self.runs = dict(runs)

    def init_state(self, batch_size: int) -> RecallState:
        """State before the first time point."""
        return RecallState(
            self.stimulus.init_state(batch_size),
            self.basis.new_zeros(batch_size, self.config.own_lags - 1, self.n_own),
            self.basis.new_zeros(batch_size, self.config.key_lags - 1, self.n_key_own),
            self.basis.new_zeros(batch_size, max(self.horizons), len(self.horizons), self.width),
            self.delayed_responses.init_state(batch_size),
            self.memory.init_state(batch_size),
        )

    def forward(
        self,
        series: Float[Tensor, "B T D"],
        errors: Float[Tensor, "B T K D"],
        context: Float[Tensor, "B T C"],
        state: RecallState,
        *,
        held_out_index: Int[Tensor, "B 2"] | None = None,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], RecallState]:
        """Forecast the errors of the linear skip.

        Parameters
        ----------
        series : torch.Tensor
            In the basis, ``(batch, time, width)``.
        errors : torch.Tensor
            What each time point has shown beyond the linear forecasts of it, in the basis, ``(batch, time, horizons,
            width)``; 0 where no forecast was made. Those of the shortest horizon are the innovations.
        context : torch.Tensor
            The backbone's output, ``(batch, time, context width)``.
        state : RecallState
        held_out_index : torch.Tensor, optional
            Subject and fold of each stream, as the method of this name tells them.
        frozen : bool
            The memory that learns at test time is read, and not written.

        Returns
        -------
        forecasts : torch.Tensor
            In the basis, ``(batch, time, horizons, width)``.
        state : RecallState
        """
        known, base, stimulus_and_tails = self.key_features(series, errors, state, held_out_index)
        folds = None if held_out_index is None else held_out_index[:, 1]
        echoed, delayed = self.delayed_responses(errors[:, :, 0] @ self.own_directions.T, state.delayed, folds)
        base = base + echoed
        made = torch.cat([state.pending, base], dim=1)
        n_time_points, longest = errors.shape[1], max(self.horizons)
        left = torch.stack(
            [
                errors[:, :, index] - made[:, longest - h : longest - h + n_time_points, index]
                for index, h in enumerate(self.horizons)
            ],
            dim=2,
        )
        correction, memory = self.memory(known, left, context, state.memory, frozen=frozen)
        return base + correction, RecallState(*stimulus_and_tails, made[:, n_time_points:], delayed, memory)

    def key_features(
        self,
        series: Float[Tensor, "B T D"],
        errors: Float[Tensor, "B T K D"],
        state: RecallState,
        held_out_index: Int[Tensor, "B 2"] | None,
    ) -> tuple[Float[Tensor, "B T K F"], Float[Tensor, "B T K D"], tuple[Tensor, Tensor, Tensor]]:
        """Return what keys are made of, the forecast of stimulus and own last time points, and what is carried on of
        both.

        The last are the stimulus's evidence, and the tails of time points and of innovations.
        """
        innovations = errors[:, :, 0]
        subjects, folds = (None, None) if held_out_index is None else held_out_index.unbind(1)
        recalled, evidence = self.stimulus(innovations, state.evidence, subjects, folds)
        past, recent_tail = self.own_past(series, innovations, state.recent_tail)
        own_map = select(self.own_map, self.own_map_without, folds)
        foretold = (past.unsqueeze(1) @ own_map).transpose(1, 2)
        lagged, own_tail = _look_back(innovations @ self.own_directions[: self.n_key_own].T, state.own_tail)
        key_past = torch.cat(lagged, dim=-1).unsqueeze(2).expand(-1, -1, len(self.horizons), -1)
        known = torch.cat([recalled, foretold, key_past], dim=-1)
        return known, recalled + foretold, (evidence, recent_tail, own_tail)

    def own_past(
        self, series: Float[Tensor, "B T D"], innovations: Float[Tensor, "B T D"], tail: Float[Tensor, "B L O"]
    ) -> tuple[Float[Tensor, "B T F"], Float[Tensor, "B L O"]]:
        """Return what the linear forecast is made from, and the tail after the last time point.

        The time point and its innovation in full, and components of the time points before, the latest first.
        """
        lagged, tail = _look_back(series @ self.present_directions.T, tail)
        return torch.cat([series, innovations, *lagged[1:]], dim=-1), tail


def _look_back(values: Float[Tensor, "B T O"], tail: Float[Tensor, "B L O"]) -> tuple[list[Tensor], Tensor]:
    """Values at each time point, one time point before, and so on as far as the tail goes; and the tail of the next
    call.
    """
    whole = torch.cat([tail, values], dim=1)
    n_time_points, before = values.shape[1], tail.shape[1]
    return [whole[:, before - lag : before - lag + n_time_points] for lag in range(before + 1)], whole[
        :, n_time_points:
    ]
