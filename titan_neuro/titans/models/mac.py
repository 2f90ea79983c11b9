"""Memory as context (MAC): attention over a segment, led by what the memory recalls of everything before."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.config import settings
from titan_neuro.titans.layers import AttentionCache, NeuralMemoryState, NonlinearGate, SegmentAttention
from titan_neuro.titans.memory import MemoryState
from titan_neuro.titans.models.backbone import Backbone
from titan_neuro.titans.models.memory_block import AttentionBackboneConfig, MemoryBlock, MemoryBlockState


@settings
class MACConfig(AttentionBackboneConfig):
    """Size of the backbone: what `AttentionBackboneConfig` has, and its segments.

    Attributes
    ----------
    segment_time_points : int
        Time points of a segment: how far attention sees by itself. A multiple of ``memory.chunk_time_points``.
    n_longterm : int
        Learned queries that read the memory as it stood before a segment. What they recall stands in front of the
        segment, beside the persistent tokens.
    causal : bool
        False is the paper as printed, for encoding whole windows only: each token sees what was recalled for all of its
        segment, and the memory is read after the whole segment was written.
    """

    variant: Literal["mac"] = "mac"
    segment_time_points: Annotated[int, Field(ge=1)] = 16
    n_longterm: Annotated[int, Field(ge=0)] = 0
    causal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segment_time_points % self.memory.chunk_time_points:
            raise ConfigError(
                f"MACConfig.segment_time_points: expected a multiple of memory.chunk_time_points ({self.memory.chunk_time_points}), "
                f"found {self.segment_time_points}.",
                "A stream can begin anew only where a segment and a chunk begin together.",
            )

    @property
    def restart_time_points(self) -> int:
        """Time points after which a stream may begin anew, and after as many again, and so on."""
        return self.segment_time_points

    def build(self) -> MAC:
        """Make the backbone."""
        return MAC(self)


@dataclasses.dataclass(frozen=True)
class MACBlockState(MemoryBlockState):
    """What one block carries from one call to the next, beside the memory.

    Attributes
    ----------
    recalled : MemoryState
        The memory before the open segment, from which the segment's context is read.
    recall_tail : torch.Tensor
        Time points of the block's input that the queries of the context still need.
    attention : AttentionCache
        Keys and values of the open segment.
    phase : int
        Time points that the open segment holds already; 0 where none is open. All items of a batch share it.
    """

    recalled: MemoryState
    recall_tail: Float[Tensor, "batch ..."]
    attention: AttentionCache
    phase: int


class MACBlock(MemoryBlock[MACBlockState]):
    """One residual block: equations 21 to 25 of Behrouz et al. 2025, then a feed-forward part.

    Per segment: ``h = M(q(S); W before the segment)``; ``y = Attn([persistent ; h ; S])``; ``z = S + y`` is written
    into the memory, token by token; ``o_t = y_t (x) M(q(z_t); W_t)``.

    Departures from the paper: it writes and asks with ``y`` itself, so that the memory is written with averages over
    the segment before attention has learned to choose (docs/architecture.md). And where it leaks the future inside a
    segment, a token sees what was recalled for its own time point and earlier ones only, and reads the memory as it
    stands at that token, not as it will stand after the segment; with ``causal=False`` both are as printed. The
    long-term queries are not in the paper; what they recall was known before the segment, so all of it may see it.

    Parameters
    ----------
    config : MACConfig
    """

    def __init__(self, config: MACConfig) -> None:
        super().__init__(config)
        self.segment_time_points, self.tokens_per_time_point = config.segment_time_points, config.tokens_per_time_point
        self.attention = SegmentAttention(
            config.dim,
            n_heads=config.n_heads,
            n_persistent=config.n_persistent,
            tokens_per_time_point=config.tokens_per_time_point,
            causal=config.causal,
        )
        self.longterm = nn.Parameter(torch.randn(config.n_longterm, config.dim)) if config.n_longterm else None
        self.gate = NonlinearGate(config.dim)

    def init_state(self, batch_size: int) -> MACBlockState:
        """State before the first time point."""
        memory = self.memory.init_state(batch_size)
        return MACBlockState(memory, memory.memory, memory.query_tail, self.attention.init_cache(batch_size), 0)

    def mix(
        self, x: Float[Tensor, "B T D"], state: MACBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], MACBlockState]:
        """Read the time points segment by segment, the first and the last of which may be parts."""
        segment_tokens, open_tokens = (n * self.tokens_per_time_point for n in (self.segment_time_points, state.phase))
        first = min(x.shape[1], segment_tokens - open_tokens)
        mixed = []
        for part in (x[:, :first], *torch.split(x[:, first:], segment_tokens, dim=1)):
            if part.shape[1]:
                output, state = self._mix_segment(part, state, memory_frozen)
                mixed.append(output)
        return torch.cat(mixed, dim=1), state

    def _mix_segment(self, segment: Tensor, state: MACBlockState, memory_frozen: bool) -> tuple[Tensor, MACBlockState]:
        recalled, recall_tail = self.memory.read(segment, state.recalled, state.recall_tail)
        longterm = self._recall_longterm(state.recalled, len(segment))
        attended, attention = self.attention(segment, recalled, state.attention, longterm=longterm)
        remembered, memory = self._remember_segment(segment + attended, state.memory, memory_frozen)
        output = self.gate(attended, remembered)
        phase = state.phase + segment.shape[1] // self.tokens_per_time_point
        if phase < self.segment_time_points:
            return output, MACBlockState(memory, state.recalled, recall_tail, attention, phase)
        closed = self.attention.init_cache(len(segment))
        return output, MACBlockState(memory, memory.memory, recall_tail, closed, 0)

    def _remember_segment(
        self, tokens: Tensor, state: NeuralMemoryState, memory_frozen: bool
    ) -> tuple[Tensor, NeuralMemoryState]:
        remembered, after = self.remember(tokens, state, memory_frozen=memory_frozen)
        if not self.attention.causal:
            remembered, _ = self.memory.read(tokens, after.memory, state.query_tail)
        return remembered, after

    def _recall_longterm(self, memory: MemoryState, batch_size: int) -> Float[Tensor, "B N D"] | None:
        if self.longterm is None:
            return None
        # Read as time points of their own, side by side; what fills the last time point is not used.
        time_points = F.pad(self.longterm, (0, 0, 0, -len(self.longterm) % self.tokens_per_time_point))
        tail = self.memory.query.init_tail(batch_size)
        recalled, _ = self.memory.read(time_points.expand(batch_size, -1, -1), memory, tail)
        return recalled[:, : len(self.longterm)]


class MAC(Backbone):
    """Memory as context: attention inside segments, led by what the memory recalls of everything before them.

    With ``causal=False`` a call holds whole segments, and outputs depend on later time points of their segment.

    Parameters
    ----------
    config : MACConfig
    """

    config_class = MACConfig

    def __init__(self, config: MACConfig) -> None:
        super().__init__(config, (MACBlock(config) for _ in range(config.n_layers)))
        self._segment_tokens = None if config.causal else config.segment_time_points * config.tokens_per_time_point

    def _check_input(self, x: Tensor) -> None:
        super()._check_input(x)
        if self._segment_tokens and x.shape[1] % self._segment_tokens:
            raise MismatchError(
                f"x: expected whole segments of {self._segment_tokens} tokens with causal=False, found {x.shape[1]} "
                "tokens.",
                "To read a stream in any pieces, build the model with causal=True.",
            )
