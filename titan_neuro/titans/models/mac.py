"""Memory as context (MAC): attention over a segment and what the memory returns for it."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.errors import MismatchError
from titan_neuro.titans.layers import NeuralMemoryState, NonlinearGate, SegmentAttention, SegmentAttentionState
from titan_neuro.titans.memory import MemoryState
from titan_neuro.titans.models.backbone import Backbone
from titan_neuro.titans.models.config import MACConfig
from titan_neuro.titans.models.memory_block import MemoryBlock, MemoryBlockState


@dataclasses.dataclass(frozen=True)
class MACBlockState(MemoryBlockState):
    """What one block carries from one call to the next: the memory, and the open segment.

    Attributes
    ----------
    context_memory : MemoryState
        The memory before the open segment, from which the segment's context is read.
    context_tail : torch.Tensor
        Time points of the block's input that the context's queries still need, ``(batch, kernel_time_points - 1,
        tokens_per_time_point, dim)``.
    attention : SegmentAttentionState
        Keys and values of the open segment.
    segment_position : int
        Time points that the open segment has already; 0 where none is open. All streams of a batch share it.
    """

    context_memory: MemoryState
    context_tail: Float[Tensor, "batch ..."]
    attention: SegmentAttentionState
    segment_position: int


class MACBlock(MemoryBlock[MACBlockState]):
    """One residual block: equations 21 to 25 of Behrouz et al. 2025, then a feed-forward part.

    Per segment ``S``: the context ``h = M(q(S); W before the segment)``; ``y = Attn([persistent ; h ; S])``; ``z = S +
    y`` is written into the memory, token by token; ``o_t = y_t (x) M(q(z_t); W_t)``.

    Departures from the paper: it writes and queries with ``y`` alone, so that the memory is written with averages over
    the segment until attention has learned to select (the decision on the gate in docs has the measurements). And where
    it leaks the future inside a segment, a token sees the context of its own and earlier time points only, and reads
    the memory as it is at that token, not after the segment; with ``causal=False`` both follow the paper. The long-term
    queries are not in the paper; they read the memory before the segment, so the whole segment may see the result.

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
        """State before the first time point of `batch_size` streams."""
        memory = self.memory.init_state(batch_size)
        return MACBlockState(memory, memory.memory, memory.query_tail, self.attention.init_state(batch_size), 0)

    def mix(
        self, x: Float[Tensor, "B T D"], state: MACBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], MACBlockState]:
        """Read the time points, ``(batch, tokens, dim)``, segment by segment; see `MemoryBlock.mix`.

        The first and the last segment of a call may be parts of one.
        """
        segment_tokens = self.segment_time_points * self.tokens_per_time_point
        first = min(x.shape[1], segment_tokens - state.segment_position * self.tokens_per_time_point)
        mixed = []
        for part in (x[:, :first], *torch.split(x[:, first:], segment_tokens, dim=1)):
            if part.shape[1]:
                output, state = self._mix_segment(part, state, memory_frozen)
                mixed.append(output)
        return torch.cat(mixed, dim=1), state

    def _mix_segment(self, segment: Tensor, state: MACBlockState, memory_frozen: bool) -> tuple[Tensor, MACBlockState]:
        context, context_tail = self.memory.read(segment, state.context_memory, state.context_tail)
        longterm = self._read_longterm(state.context_memory, len(segment))
        attended, attention = self.attention(segment, context, state.attention, longterm=longterm)
        retrieved, memory = self._write_and_read_segment(segment + attended, state.memory, memory_frozen)
        output = self.gate(attended, retrieved)
        position = state.segment_position + segment.shape[1] // self.tokens_per_time_point
        if position < self.segment_time_points:
            return output, MACBlockState(memory, state.context_memory, context_tail, attention, position)
        closed = self.attention.init_state(len(segment))
        return output, MACBlockState(memory, memory.memory, context_tail, closed, 0)

    def _write_and_read_segment(
        self, tokens: Tensor, state: NeuralMemoryState, memory_frozen: bool
    ) -> tuple[Tensor, NeuralMemoryState]:
        retrieved, after = self.write_and_read(tokens, state, memory_frozen=memory_frozen)
        if not self.attention.causal:
            retrieved, _ = self.memory.read(tokens, after.memory, state.query_tail)
        return retrieved, after

    def _read_longterm(self, memory: MemoryState, batch_size: int) -> Float[Tensor, "B N D"] | None:
        if self.longterm is None:
            return None
        # Read as time points at the start of a stream; the padding of the last time point is dropped.
        time_points = F.pad(self.longterm, (0, 0, 0, -len(self.longterm) % self.tokens_per_time_point))
        tail = self.memory.query.init_state(batch_size)
        retrieved, _ = self.memory.read(time_points.expand(batch_size, -1, -1), memory, tail)
        return retrieved[:, : len(self.longterm)]


class MAC(Backbone):
    """Memory as context: attention inside segments, which also sees what the memory of earlier segments returns.

    With ``causal=False`` a call consists of whole segments, and outputs depend on later time points of their segment.

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
                "To cut a stream anywhere, build the model with causal=True.",
            )
