"""The same model, robbed of what is to be shown: its memory frozen, or reset every few time points."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from titan_neuro.evaluation.vocabulary import FROZEN_SUFFIX, RESET_SUFFIX, RESET_TIME_POINTS, control_name
from titan_neuro.forecaster import Forecaster
from titan_neuro.typing import RunData


class Control:
    """A trained forecaster with a handicap; it keeps the protocol of :class:`titan_neuro.typing.ForecastModel`.

    Parameters
    ----------
    model : Forecaster
        Trained; shared, not copied.

    Attributes
    ----------
    name : str
        The model's, and the handicap.
    horizons : tuple of int
        The model's.
    """

    suffix: str

    def __init__(self, model: Forecaster) -> None:
        self.model = model
        self.name, self.horizons = control_name(model.name, self.suffix), tuple(model.horizons)

    def fit(self, runs: Sequence[RunData]) -> None:
        """There is nothing to learn: the model is trained."""

    def init_state(self) -> Any:
        """State before the first time point of a run."""
        return self.model.init_state()

    @torch.inference_mode()
    def step(self, series: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read the next time points of one run and forecast from each of them."""
        self.model.eval()
        forecasts, state = self.forward(series.to(self.model.coefficients)[None], state)
        return forecasts[0].to(series.device), state

    def forward(self, series: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Do the same for a batch of runs: ``(batch, time, features)`` to ``(batch, time, horizons, features)``."""
        raise NotImplementedError


class FrozenMemory(Control):
    """The memory recalls what training has put into it, and nothing is written during the run."""

    suffix = FROZEN_SUFFIX

    def forward(self, series: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read time points without writing; see :class:`Control`."""
        forecasts, state = self.model(series, state, memory_frozen=True)
        return forecasts, state


@dataclasses.dataclass(frozen=True)
class ResetState:
    """State of the model, and the time points that its memory holds."""

    position: int
    inner: Any


class ResetMemory(Control):
    """The memory is reset at every 20th time point, counted from where the run begins.

    A forecast rests on the time points since the last such beginning: 1 to 20 of them. The linear skip keeps its lags:
    it is no memory, and the row would fall below linear AR for a reason that has nothing to do with memory.
    """

    suffix = RESET_SUFFIX

    def init_state(self) -> ResetState:
        """State before the first time point of a run."""
        return ResetState(0, self.model.init_state())

    def forward(self, series: Tensor, state: ResetState) -> tuple[Tensor, ResetState]:
        """Read time points window by window; see :class:`Control`."""
        forecasts, at = [], 0
        while at < series.shape[1]:
            length = min(RESET_TIME_POINTS - state.position, series.shape[1] - at)
            piece, inner = self.model(series[:, at : at + length], state.inner)
            forecasts.append(piece)
            at += length
            position = (state.position + length) % RESET_TIME_POINTS
            if position == 0:
                inner = dataclasses.replace(inner, memory=self.model.init_memory(len(series)))
            state = ResetState(position, inner)
        return torch.cat(forecasts, dim=1), state


def controls_of(model: Forecaster) -> list[Control]:
    """Make the controls of a trained model, in the order of the table; none of a model without a memory."""
    return [FrozenMemory(model), ResetMemory(model)] if model.config.backbone.has_memory else []
