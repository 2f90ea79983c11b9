"""Controls: the study's model with one part zeroed, replaced or restricted, which shows what the part contributes.

:data:`titan_neuro.evaluation.metrics_and_rows.ABLATIONS` defines each of them in words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from titan_neuro.baselines.shared_fits import ResidualSpace
from titan_neuro.evaluation.metrics_and_rows import (
    BACKBONE_SUFFIX,
    BLOCKS_SUFFIX,
    FROZEN_SUFFIX,
    RECALL_SUFFIX,
    RESET_SUFFIX,
    RESET_TIME_POINTS,
    STIMULUS_SUFFIX,
    SWIN_MEANS_SUFFIX,
    SWIN_SUFFIX,
    control_name,
)
from titan_neuro.evaluation.random_means import RandomMeans
from titan_neuro.forecaster import Forecaster, ForecasterState
from titan_neuro.forecaster.recall import Recalled
from titan_neuro.forecaster.titan import ForecasterBackboneState, LookaheadMemory
from titan_neuro.forecaster.tokenizers import SwinTokenizer
from titan_neuro.titans.models.backbone import BackboneState
from titan_neuro.titans.stream_state import StreamState
from titan_neuro.typing import ForecastModel, RunData

State = TypeVar("State", bound=StreamState)


class Control(Generic[State]):
    """A trained forecaster that lacks something; keeps the protocol of :class:`titan_neuro.typing.ForecastModel`.

    Parameters
    ----------
    model : Forecaster
        Trained; shared, not copied.

    Attributes
    ----------
    name : str
        The model's name and what it lacks, such as ``titan-mac-frozen``.
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
        state, memory = self.model.init_state(), self.model.backbone.memory
        if memory is None or not memory.associations.is_empty_at_first:
            return state
        backbone = state.memory.backbone.never_written()
        return dataclasses.replace(state, memory=dataclasses.replace(state.memory, backbone=backbone))

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

    def __init__(self, model: Forecaster) -> None:
        super().__init__(model.with_parts(backbone=model.backbone.for_short_streams(RESET_TIME_POINTS)))

    def init_state(self) -> ResetState:
        """State before the first time point of a run."""
        return ResetState(0, self.model.init_state())

    def forward(self, series: Tensor, state: ResetState) -> tuple[Tensor, ResetState]:
        """Forecast window by window, with a reset after each; shapes as in :meth:`Control.forward`."""
        linear, observation, observed = self.model.observe(series, state.forecaster.observation)
        residuals, position, memory = [], state.position, state.forecaster.memory
        empty, start = self.model.init_memory(len(series)), 0
        while start < series.shape[1]:
            stop = min(start + RESET_TIME_POINTS - position, series.shape[1])
            residual, memory = self.model.forecast_residual(observation.at(slice(start, stop)), memory)
            residuals.append(residual)
            position = (position + stop - start) % RESET_TIME_POINTS
            memory, start = memory if position else empty, stop
        return linear + torch.cat(residuals, dim=1), ResetState(position, ForecasterState(observed, memory))


class OtherParts(Control[ForecasterState]):
    """Some parts of the model replaced.

    Parameters
    ----------
    model : Forecaster
        Trained; shared, not copied.
    suffix : str
        Of the name.
    **parts : torch.nn.Module or None
        As for :meth:`titan_neuro.forecaster.Forecaster.with_parts`.
    """

    def __init__(self, model: Forecaster, suffix: str, **parts: nn.Module | None) -> None:
        self.suffix = suffix
        super().__init__(model.with_parts(**parts))

    def init_state(self) -> ForecasterState:
        """State before the first time point of a run."""
        return self.model.init_state()

    def forward(self, series: Tensor, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Forecast without the parts; shapes as in :meth:`Control.forward`."""
        forecasts, state = self.model(series, state)
        return forecasts, state


class _Zeros(nn.Module):
    """Zeros of one shape at each time point: ``(batch, time, ...)`` to ``(batch, time, *shape)``."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:2], *self.shape)

    def is_zero(self) -> bool:
        return True


class _MemoryAlone(nn.Module):
    """A backbone without blocks: the memory's output is not gated. Without a memory, too, all it returns is 0."""

    def __init__(self, memory: LookaheadMemory | None) -> None:
        super().__init__()
        self.memory = memory

    def init_state(self, batch_size: int) -> ForecasterBackboneState:
        memory = () if self.memory is None else (self.memory.init_state(batch_size),)
        return ForecasterBackboneState(BackboneState({}, ()), memory)

    def gate_is_open(self) -> bool:
        return True

    def forward(
        self,
        tokens: Tensor,
        series: Tensor,
        errors: Tensor,
        recalled: Recalled,
        state: ForecasterBackboneState,
        *,
        memory_frozen: bool = False,
        skip_blocks: bool = False,
    ) -> tuple[Tensor | None, Tensor, ForecasterBackboneState]:
        corrections = torch.zeros_like(errors)
        if self.memory is not None:
            corrections, memory = self.memory(series, errors, recalled, state.memory[0], frozen=memory_frozen)
            state = dataclasses.replace(state, memory=(memory,))
        return None if skip_blocks else torch.zeros_like(tokens), corrections, state


AnyControl = FrozenMemory | ResetMemory | OtherParts


def controls_of(model: Forecaster, train_runs: Sequence[RunData], *, is_trained: bool = True) -> list[AnyControl]:
    """Make the controls of a trained model, in the order of the table.

    Those of the memory are left out for a backbone without one, those of stimulus memory and recall for a model without
    them, and those of the Swin encoder for a model that reads no volumes. Without gradient training nothing of the
    blocks and their tokens enters a forecast, so that the model is its own control for both: these rows are left out,
    too.

    Parameters
    ----------
    model : Forecaster
        Trained.
    train_runs : sequence of RunData
        Runs that it was trained on: what replaces the output of the Swin encoder is scaled to it there.
    is_trained : bool
        Whether the blocks were trained by gradients.
    """
    config, tokenizer = model.config, model.tokenizer
    # A backbone that is not there needs no tokens: the encoder does not run.
    no_tokens = _Zeros(config.tokenizer.n_tokens, config.backbone.dim)
    no_decoder = _Zeros(len(model.horizons), model.n_features)
    controls: list[AnyControl] = [FrozenMemory(model), ResetMemory(model)] if config.backbone.has_memory else []
    without = {"tokenizer": no_tokens, "decoder": no_decoder}
    controls.append(OtherParts(model, BACKBONE_SUFFIX, backbone=_MemoryAlone(None), **without))
    if is_trained and model.backbone.memory is not None:
        controls.append(OtherParts(model, BLOCKS_SUFFIX, backbone=_MemoryAlone(model.backbone.memory), **without))
    if model.recall is not None:
        if model.recall.stimulus.n_positions:
            controls.append(OtherParts(model, STIMULUS_SUFFIX, recall=model.recall.without_stimulus()))
        controls.append(OtherParts(model, RECALL_SUFFIX, recall=None))
    if is_trained and isinstance(tokenizer, SwinTokenizer):
        controls.append(OtherParts(model, SWIN_SUFFIX, tokenizer=no_tokens))
        controls.append(OtherParts(model, SWIN_MEANS_SUFFIX, tokenizer=RandomMeans(tokenizer, train_runs)))
    return controls


def shared_parts(forecasters: Sequence[ForecastModel]) -> Iterator[tuple[object, str]]:
    """Yield what several rows compute alike, each as an object and the name of its method.

    That are the parts of networks that their controls leave as they are, and the autoregression to which baselines add.
    """
    for forecaster in forecasters:
        model = forecaster.model if isinstance(forecaster, Control) else forecaster
        if isinstance(model, Forecaster):
            parts = (model.linear_skip, model.tokenizer, model.components, model.recall, model.backbone.memory)
            yield from ((part, "forward") for part in parts if part is not None)
        elif isinstance(space := getattr(model, "space", None), ResidualSpace):
            yield space, "autoregress"
