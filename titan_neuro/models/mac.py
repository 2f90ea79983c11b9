"""Memory as context (MAC): attention over a segment, led by what the memory recalls of everything before."""

from __future__ import annotations

import dataclasses
from typing import Annotated, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.layers import (
    AttentionCache,
    FeedForward,
    NeuralMemoryConfig,
    NeuralMemoryState,
    NonlinearGate,
    SegmentAttention,
)
from titan_neuro.ops.neural_memory import MemoryState
from titan_neuro.ops.stream_state import StreamState


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MACConfig:
    """Size of the backbone.

    Attributes
    ----------
    dim : int
        Width of a token.
    n_layers : int
        Blocks, each with its own memory.
    n_heads : int
        Heads of the attention; ``dim / n_heads`` is a whole, even number.
    tokens_per_frame : int
        Tokens that make up one frame.
    segment_frames : int
        Frames of a segment: how far attention sees by itself. A multiple of ``memory.chunk_frames``.
    n_persistent : int
        Learned tokens in front of every segment (equation 19).
    ff_expansion : int
        Hidden width of the feed-forward part, in units of `dim`.
    memory : NeuralMemoryConfig
    """

    dim: Annotated[int, Field(ge=1)] = 64
    n_layers: Annotated[int, Field(ge=1)] = 2
    n_heads: Annotated[int, Field(ge=1)] = 4
    tokens_per_frame: Annotated[int, Field(ge=1)] = 8
    segment_frames: Annotated[int, Field(ge=1)] = 16
    n_persistent: Annotated[int, Field(ge=0)] = 4
    ff_expansion: Annotated[int, Field(ge=1)] = 2
    memory: NeuralMemoryConfig = NeuralMemoryConfig()

    def __post_init__(self) -> None:
        if self.segment_frames % self.memory.chunk_frames:
            raise ConfigError(
                f"MACConfig.segment_frames: expected a multiple of memory.chunk_frames ({self.memory.chunk_frames}), "
                f"found {self.segment_frames}.",
                "A stream can begin anew only where a segment and a chunk begin together.",
            )
        if self.dim % (2 * self.n_heads) or self.dim % self.memory.n_heads:
            raise ConfigError(
                f"MACConfig.dim: each head needs a whole share, in the attention an even one; found dim {self.dim}, "
                f"n_heads {self.n_heads}, memory.n_heads {self.memory.n_heads}."
            )

    def build(self) -> MAC:
        """Make the backbone."""
        return MAC(self)


@dataclasses.dataclass(frozen=True)
class MACBlockState(StreamState):
    """What one block carries from one call to the next.

    Attributes
    ----------
    memory : NeuralMemoryState
        The memory as it stands, and the tails of what is written and read.
    recalled : MemoryState
        The memory before the open segment, from which the segment's context is read.
    recall_tail : torch.Tensor
        Frames of the block's input that the queries of the context still need.
    attention : AttentionCache
        Keys and values of the open segment.
    """

    memory: NeuralMemoryState
    recalled: MemoryState
    recall_tail: Float[Tensor, "batch ..."]
    attention: AttentionCache


@dataclasses.dataclass(frozen=True)
class MACState(StreamState):
    """What the backbone carries from one call to the next.

    Attributes
    ----------
    phase : int
        Frames that the open segment holds already; 0 where none is open. All items of a batch share it.
    blocks : tuple of MACBlockState
    """

    phase: int
    blocks: tuple[MACBlockState, ...]


class MACBlock(nn.Module):
    """One residual block: equations 21 to 25 of the paper, then a feed-forward part, both behind a norm.

    Per segment: ``h = M(q(S); W before the segment)``; ``y = Attn([persistent ; h ; S])``; ``y`` is written into the
    memory, token by token; ``o_t = y_t (x) M(q(y_t); W_t)``. Departures from the paper, which leaks the future inside
    a segment: a token sees what was recalled for its own frame and earlier ones only, and reads the memory as it stands
    at that token, not as it will stand after the segment.

    Parameters
    ----------
    config : MACConfig
    """

    def __init__(self, config: MACConfig) -> None:
        super().__init__()
        dim, tokens_per_frame = config.dim, config.tokens_per_frame
        self.mixer_norm = nn.RMSNorm(dim, eps=1e-5)
        self.memory = config.memory.build(dim=dim, tokens_per_frame=tokens_per_frame)
        self.attention = SegmentAttention(
            dim,
            n_heads=config.n_heads,
            n_persistent=config.n_persistent,
            segment_frames=config.segment_frames,
            tokens_per_frame=tokens_per_frame,
        )
        self.gate = NonlinearGate(dim)
        self.feed_forward_norm = nn.RMSNorm(dim, eps=1e-5)
        self.feed_forward = FeedForward(dim, config.ff_expansion)

    def init_state(self, batch_size: int) -> MACBlockState:
        """State before the first frame."""
        memory = self.memory.init_state(batch_size)
        return MACBlockState(memory, memory.memory, memory.query_tail, self.attention.init_cache(batch_size))

    def forward(
        self, x: Float[Tensor, "B T D"], state: MACBlockState, *, pieces: list[Piece], memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], MACBlockState]:
        """Run the block over the pieces of a call.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``.
        state : MACBlockState
            What the call before returned.
        pieces : list of Piece
            How the call is cut into segments.
        memory_frozen : bool
            Read the memory, write nothing.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : MACBlockState
        """
        mixed = []
        parts = torch.split(self.mixer_norm(x), [piece.n_tokens for piece in pieces], dim=1)
        for part, piece in zip(parts, pieces, strict=True):
            output, state = self._mix(part, state, memory_frozen)
            mixed.append(output)
            if piece.completes_segment:
                attention = self.attention.init_cache(len(x))
                state = dataclasses.replace(state, recalled=state.memory.memory, attention=attention)
        x = x + torch.cat(mixed, dim=1)
        return x + self.feed_forward(self.feed_forward_norm(x)), state

    def _mix(self, segment: Tensor, state: MACBlockState, memory_frozen: bool) -> tuple[Tensor, MACBlockState]:
        recalled, recall_tail = self.memory.read(segment, state.recalled, state.recall_tail)
        attended, attention = self.attention(segment, recalled, state.attention)
        if memory_frozen:
            remembered, query_tail = self.memory.read(attended, state.memory.memory, state.memory.query_tail)
            memory = dataclasses.replace(state.memory, query_tail=query_tail)
        else:
            remembered, memory = self.memory(attended, state.memory)
        return self.gate(attended, remembered), MACBlockState(memory, state.recalled, recall_tail, attention)


class Piece(NamedTuple):
    """A stretch of one call that lies in one segment."""

    n_tokens: int
    completes_segment: bool


class MAC(nn.Module):
    """Memory as context: a stack of residual blocks that reads a stream of frames of any length at constant memory.

    Causal by frame: the output at a frame depends on the tokens of this frame and of earlier ones. A stream may be cut
    into calls at any frame, also inside a segment, with the same numbers.

    Parameters
    ----------
    config : MACConfig
    """

    def __init__(self, config: MACConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(MACBlock(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.dim, eps=1e-5)

    def init_state(self, batch_size: int) -> MACState:
        """State before the first frame of `batch_size` streams."""
        return MACState(0, tuple(cast(MACBlock, block).init_state(batch_size) for block in self.blocks))

    def restart(self, state: MACState, is_start: Bool[Tensor, " B"]) -> MACState:
        """Begin anew for the items of the batch where `is_start`; the others go on.

        Raises
        ------
        MismatchError
            A segment is open (``state.phase`` is not 0): items share their place inside it.
        """
        return state.reset(is_start, self.init_state(len(is_start)))

    def forward(
        self, x: Float[Tensor, "B T D"], state: MACState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "B T D"], MACState]:
        """Read the next frames of the streams.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``: whole frames, ``config.tokens_per_frame`` tokens each; any number of frames.
        state : MACState, optional
            What the call before returned; by default the start of the streams.
        memory_frozen : bool
            Read the memories as they are, writing nothing into them: the control for what learning at test time is
            worth. Attention inside a segment goes on as ever.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : MACState

        Raises
        ------
        MismatchError
            Tokens of another width, frames that are not whole, or a state of another model or batch size.
        """
        self._check(x, state)
        state = self.init_state(len(x)) if state is None else state
        pieces, phase = self._pieces(x.shape[1] // self.config.tokens_per_frame, state.phase)
        blocks = []
        for block, block_state in zip(self.blocks, state.blocks, strict=True):
            x, after = block(x, block_state, pieces=pieces, memory_frozen=memory_frozen)
            blocks.append(after)
        return self.norm(x), MACState(phase, tuple(blocks))

    def _pieces(self, n_frames: int, phase: int) -> tuple[list[Piece], int]:
        pieces = []
        while n_frames:
            length = min(n_frames, self.config.segment_frames - phase)
            n_frames, phase = n_frames - length, (phase + length) % self.config.segment_frames
            pieces.append(Piece(length * self.config.tokens_per_frame, phase == 0))
        return pieces, phase

    def _check(self, x: Tensor, state: MACState | None) -> None:
        dim, tokens_per_frame = self.config.dim, self.config.tokens_per_frame
        if x.ndim != 3 or x.shape[2] != dim or not x.shape[1] or x.shape[1] % tokens_per_frame:
            raise MismatchError(
                f"x: expected (batch, tokens, {dim}) with whole frames of {tokens_per_frame} tokens, "
                f"found {tuple(x.shape)}."
            )
        if state is None:
            return
        if len(state.blocks) != len(self.blocks):
            raise MismatchError(f"state: expected {len(self.blocks)} blocks, found {len(state.blocks)}.")
        found = len(state.blocks[0].recall_tail)
        if found != len(x):
            raise MismatchError(f"state: expected a batch of {len(x)}, as x has, found {found}.")
