"""The backbone of a forecaster: the memory that looks ahead, and the blocks that attend to what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.shallow_copy import with_parts
from titan_neuro.forecaster.titan.config import LookaheadConfig
from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory, LookaheadState
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.models.backbone import Backbone, BackboneState
from titan_neuro.titans.models.config import AnyBackboneConfig
from titan_neuro.titans.stream_state import StreamState

# Leading components in which blocks are shown what is expected: more would be more weights than people to learn from.
_SHOWN_COMPONENTS = 32


@dataclasses.dataclass(frozen=True)
class ForecasterBackboneState(StreamState):
    """What is carried from one call to the next.

    Attributes
    ----------
    stack : BackboneState
    memory : tuple of LookaheadState
        One, or none: for a backbone without memory, and for a memory that is empty and never written
        (:meth:`never_written`).
    """

    stack: BackboneState
    memory: tuple[LookaheadState, ...]

    def never_written(self) -> ForecasterBackboneState:
        """Return the state without that of the memory, which then adds 0: reading an empty memory costs as much."""
        return dataclasses.replace(self, memory=())


class ForecasterBackbone(nn.Module):
    """Correct the forecasts of the other parts by what has followed such moments in this recording.

    ``correction[h] = gate_h(z) * memory_h(key)``, with ``z`` the output of the blocks. The memory associates the key of
    a time point with what comes `h` time points later (:class:`LookaheadMemory`). The blocks are those of a Titans
    variant: they read the tokens of a time point, and with them what was unexpected, what the other parts and the
    memory expect; and they return tokens for the decoder. The gates start at 1 and the decoder at 0: before the first
    gradient step the backbone is its memory.

    Parameters
    ----------
    config : BackboneConfig
        Of the blocks.
    lookahead : LookaheadConfig or None
        None for blocks alone, as those of comparison models.
    horizons : tuple of int
        Lead times in time points, ascending.
    width : int
        Spatial components that the memory computes in.

    Attributes
    ----------
    stack : Backbone
        One of `titan_neuro.titans.models`.
    memory : LookaheadMemory or None
    """

    def __init__(
        self, config: AnyBackboneConfig, lookahead: LookaheadConfig | None, *, horizons: Sequence[int], width: int
    ) -> None:
        super().__init__()
        self.stack: Backbone = config.build()
        self.memory = None if lookahead is None else lookahead.build(horizons=tuple(horizons), width=width)
        if self.memory is not None:
            n_shown = (1 + 2 * len(horizons)) * min(_SHOWN_COMPONENTS, len(self.memory.directions))
            self.shown_norm = RMSNorm(n_shown)
            self.shown = nn.Linear(n_shown, config.dim)
            self.gate = nn.Linear(config.dim, len(horizons))
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def gate_is_open(self) -> bool:
        """Whether the memory passes unchanged whatever the blocks say, as before the first gradient step."""
        return self.memory is None or not (self.gate.weight.any() or self.gate.bias.any())

    def for_short_streams(self, n_time_points: int) -> ForecasterBackbone:
        """Return the backbone with a memory for streams of so many time points; all else is shared."""
        if self.memory is None:
            return self
        return with_parts(self, memory=self.memory.for_short_streams(n_time_points))

    def init_state(self, batch_size: int) -> ForecasterBackboneState:
        """State before the first time point of `batch_size` streams."""
        memory = () if self.memory is None else (self.memory.init_state(batch_size),)
        return ForecasterBackboneState(self.stack.init_state(batch_size), memory)

    def forward(
        self,
        tokens: Float[Tensor, "B T P D"],
        series: Float[Tensor, "B T W"],
        errors: Float[Tensor, "B T K W"],
        recalled: Recalled,
        state: ForecasterBackboneState,
        *,
        memory_frozen: bool = False,
        skip_blocks: bool = False,
    ) -> tuple[Float[Tensor, "B T P D"] | None, Float[Tensor, "B T K W"], ForecasterBackboneState]:
        """Read the next time points.

        Parameters
        ----------
        tokens : torch.Tensor
            Of the tokenizer, ``(batch, time, tokens, dim)``.
        series, errors : torch.Tensor
            In components, ``(batch, time, width)`` and ``(batch, time, horizons, width)``.
        recalled : Recalled
            What the recall forecasts at these time points.
        state : ForecasterBackboneState
        memory_frozen : bool
            Whether memories are read without being written.
        skip_blocks : bool
            Whether to run the memory alone, where the gate is open and nobody reads the blocks' tokens. The blocks'
            state stays as it is.

        Returns
        -------
        output : torch.Tensor or None
            Tokens for the decoder, ``(batch, time, tokens, dim)``; None without the blocks.
        corrections : torch.Tensor
            Of the recall's forecasts, in the basis, ``(batch, time, horizons, width)``; 0 without a memory.
        state : ForecasterBackboneState
        """
        memories: tuple[LookaheadState, ...] = ()
        corrections = torch.zeros_like(errors)
        if self.memory is not None and (state.memory or not memory_frozen):
            with torch.autocast(series.device.type, enabled=False):
                corrections, memory = self.memory(series, errors, recalled, state.memory[0], frozen=memory_frozen)
            memories = (memory,)
        if skip_blocks:
            return None, corrections, ForecasterBackboneState(state.stack, memories)
        if self.memory is not None:
            tokens = tokens + self._show(self.memory, errors, recalled.total, corrections).unsqueeze(2)
        flat, stack = self.stack(tokens.flatten(1, 2), state.stack, memory_frozen=memory_frozen)
        output = flat.view_as(tokens)
        if self.memory is not None:
            corrections = corrections * (1 + self.gate(output.mean(dim=2)))[..., None]
        return output, corrections, ForecasterBackboneState(stack, memories)

    def _show(self, memory: LookaheadMemory, errors: Tensor, forecasts: Tensor, corrections: Tensor) -> Tensor:
        """What the blocks see beside the tokens: ``(batch, time, dim)``."""
        directions = memory.directions[:_SHOWN_COMPONENTS].T
        parts = (errors[:, :, :1], forecasts, corrections)
        shown = torch.cat([(part @ directions).flatten(2) for part in parts], dim=-1)
        output: Tensor = self.shown(self.shown_norm(shown))
        return output
