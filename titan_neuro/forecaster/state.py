"""What a forecaster carries from one call to the next, and what passes between its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from titan_neuro.forecaster.components import PendingForecasts
from titan_neuro.forecaster.linear_skip import LinearSkipState
from titan_neuro.forecaster.recall.recall import RecallState
from titan_neuro.forecaster.titan import ForecasterBackboneState
from titan_neuro.titans.stream_state import StreamState


class Observation(NamedTuple):
    """The input of memories and decoder at each time point; it does not depend on what the memories hold.

    Attributes
    ----------
    tokens : torch.Tensor
        Of the tokenizer, ``(batch, time, tokens, width)``.
    series : torch.Tensor
        In components, ``(batch, time, width)``; width 0 in a model without components.
    errors : torch.Tensor
        Each time point less the linear forecasts of it, in components, ``(batch, time, horizons, width)``; 0 where
        none was made.
    """

    tokens: Tensor
    series: Tensor
    errors: Tensor

    def at(self, time_points: slice) -> Observation:
        """The observation of some time points."""
        return Observation(*(part[:, time_points] for part in self))


class LearnedOutput(NamedTuple):
    """Output of backbone and recall at each time point.

    Attributes
    ----------
    tokens : torch.Tensor or None
        Of the backbone's blocks, for the decoder, ``(batch, time, tokens, width)``; None where they enter no forecast.
    components : torch.Tensor
        Forecasts by recall and memory, in components, ``(batch, time, horizons, width)``.
    """

    tokens: Tensor | None
    components: Tensor

    def at(self, time_points: Sequence[int]) -> LearnedOutput:
        """The output at some time points."""
        tokens = None if self.tokens is None else self.tokens[:, list(time_points)]
        return LearnedOutput(tokens, self.components[:, list(time_points)])


@dataclasses.dataclass(frozen=True)
class ObservationState(StreamState):
    """State of the linear skip, and of the comparison of its forecasts with their targets.

    Attributes
    ----------
    linear_skip : LinearSkipState
    pending : tuple of PendingForecasts
        One, or none without components.
    """

    linear_skip: LinearSkipState
    pending: tuple[PendingForecasts, ...]


@dataclasses.dataclass(frozen=True)
class MemoriesState(StreamState):
    """State of backbone and recall.

    Attributes
    ----------
    backbone : ForecasterBackboneState
    recall : tuple of RecallState
        One, or none without a recall.
    """

    backbone: ForecasterBackboneState
    recall: tuple[RecallState, ...]


@dataclasses.dataclass(frozen=True)
class ForecasterState(StreamState):
    """State of a stream; its size does not depend on the stream's length.

    Attributes
    ----------
    observation : ObservationState
    memory : MemoriesState
    """

    observation: ObservationState
    memory: MemoriesState
