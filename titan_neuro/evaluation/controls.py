"""Controls: the study's model with its memory restricted, which shows what the memory contributes.

``-frozen``: test-time learning off. ``-reset20``: memory reset every 20 time points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from titan_neuro.evaluation.metrics_and_rows import FROZEN_SUFFIX, RESET_SUFFIX, RESET_TIME_POINTS, control_name
from titan_neuro.forecaster import Forecaster, ForecasterState
from titan_neuro.titans.stream_state import StreamState
from titan_neuro.typing import RunData

State = TypeVar("State", bound=StreamState)


class Control(Generic[State]):
    """A trained forecaster with a restricted memory; keeps the protocol of :class:`titan_neuro.typing.ForecastModel`.

    Parameters
    ----------
    model : Forecaster
        Trained; shared, not copied.

    Attributes
    ----------
    name : str
        The model's name and the restriction, such as ``titan-mac-frozen``.
    horizons : tuple of int
        The model's lead times, in time points.
    """

    suffix: str

    def __init__(self, model: Forecaster) -> None:
        self.model = model
        self.name, self.horizons = control_name(model.name, self.suffix), tuple(model.horizons)

    def fit(self, runs: Sequence[RunData]) -> None:
        """Do nothing: the model is trained."""

    def init_state(self) -> State:
        """State before the first time point of a run."""
        raise NotImplementedError

    @torch.inference_mode()
    def step(self, series: Tensor, state: State) -> tuple[Tensor, State]:
        """Forecast from each time point of the next block of a run.

        Parameters
        ----------
        series : torch.Tensor
            ``(time, features)``.
        state : StreamState
            State before the block.

        Returns
        -------
        forecasts : torch.Tensor
            ``(time, horizons, features)``, on the device of `series`.
        state : StreamState
            State after the block.
        """
        self.model.eval()
        forecasts, state = self.forward(series.to(self.model.linear_skip.coefficients)[None], state)
        return forecasts[0].to(series.device), state

    def forward(self, series: Tensor, state: State) -> tuple[Tensor, State]:
        """Forecast for a batch of runs: ``(batch, time, features)`` to ``(batch, time, horizons, features)``."""
        raise NotImplementedError


class FrozenMemory(Control[ForecasterState]):
    """Test-time learning off: the memory is read as it was after training, and never written."""

    suffix = FROZEN_SUFFIX

    def init_state(self) -> ForecasterState:
        """State before the first time point of a run."""
        return self.model.init_state()

    def forward(self, series: Tensor, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Forecast without writing the memory; shapes as in :meth:`Control.forward`."""
        forecasts, state = self.model(series, state, memory_frozen=True)
        return forecasts, state


@dataclasses.dataclass(frozen=True)
class ResetState(StreamState):
    """State of a model whose memory is reset regularly.

    Attributes
    ----------
    position : int
        Time points read since the last reset.
    forecaster : ForecasterState
    """

    position: int
    forecaster: ForecasterState


class ResetMemory(Control[ResetState]):
    """Memory reset every 20 time points, counted from the beginning of the run.

    A forecast rests on the 1 to 20 time points since the last reset. The linear skip keeps its lags: it is no memory,
    and without them the row would fall below linear autoregression for a reason that is not the memory.
    """

    suffix = RESET_SUFFIX

    def init_state(self) -> ResetState:
        """State before the first time point of a run."""
        return ResetState(0, self.model.init_state())

    def forward(self, series: Tensor, state: ResetState) -> tuple[Tensor, ResetState]:
        """Forecast window by window, with a reset after each; shapes as in :meth:`Control.forward`."""
        forecasts, start = [], 0
        while start < series.shape[1]:
            length = min(RESET_TIME_POINTS - state.position, series.shape[1] - start)
            part, forecaster = self.model(series[:, start : start + length], state.forecaster)
            forecasts.append(part)
            start += length
            position = (state.position + length) % RESET_TIME_POINTS
            if position == 0:
                forecaster = dataclasses.replace(forecaster, memory=self.model.init_memory(len(series)))
            state = ResetState(position, forecaster)
        return torch.cat(forecasts, dim=1), state


def controls_of(model: Forecaster) -> list[FrozenMemory | ResetMemory]:
    """Make the controls of a trained model, in the order of the table; none of a model without a memory."""
    return [FrozenMemory(model), ResetMemory(model)] if model.config.backbone.has_memory else []
