"""The same model, robbed of what is to be shown: its memory frozen, or begun anew every few frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from titan_neuro.models import Forecaster
from titan_neuro.typing import FrameRun

# Frames that the memory is left with: what a window of the rivals sees.
RESET_FRAMES = 20


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
        self.name, self.horizons = f"{model.name}-{self.suffix}", tuple(model.horizons)

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """There is nothing to learn: the model is trained."""

    def start(self) -> Any:
        """State before the first frame of a run."""
        return self.model.start()

    @torch.inference_mode()
    def step(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read the next frames of one run and forecast from each of them."""
        self.model.eval()
        forecasts, state = self.forward(frames.to(self.model.coefficients)[None], state)
        return forecasts[0].to(frames.device), state

    def forward(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Do the same for a batch of runs: ``(batch, time, features)`` to ``(batch, time, horizons, features)``."""
        raise NotImplementedError


class FrozenMemory(Control):
    """The memory recalls what training has put into it, and nothing is written during the run."""

    suffix = "frozen"

    def forward(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read frames without writing; see :class:`Control`."""
        forecasts, state = self.model(frames, state, memory_frozen=True)
        return forecasts, state


@dataclasses.dataclass(frozen=True)
class ResetState:
    """State of the model, and the frames that its memory holds."""

    position: int
    inner: Any


class ResetMemory(Control):
    """The memory begins anew at every 20th frame, counted from where the run begins.

    A forecast rests on the frames since the last such beginning: 1 to 20 of them. The linear skip keeps its lags: it is
    no memory, and the row would fall below linear AR for a reason that has nothing to do with memory.
    """

    suffix = f"reset{RESET_FRAMES}"

    def start(self) -> ResetState:
        """State before the first frame of a run."""
        return ResetState(0, self.model.start())

    def forward(self, frames: Tensor, state: ResetState) -> tuple[Tensor, ResetState]:
        """Read frames window by window; see :class:`Control`."""
        forecasts, at = [], 0
        while at < frames.shape[1]:
            length = min(RESET_FRAMES - state.position, frames.shape[1] - at)
            piece, inner = self.model(frames[:, at : at + length], state.inner)
            forecasts.append(piece)
            at += length
            position = (state.position + length) % RESET_FRAMES
            if position == 0:
                inner = dataclasses.replace(inner, memory=self.model.forget(len(frames)))
            state = ResetState(position, inner)
        return torch.cat(forecasts, dim=1), state


def controls_of(model: Forecaster) -> list[Control]:
    """Make the controls of a trained model, in the order of the table; none of a model without a memory."""
    return [FrozenMemory(model), ResetMemory(model)] if model.config.backbone.has_memory else []
