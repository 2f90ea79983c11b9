"""Memory as layer (MAL): attention over the last time points of what the memory makes of the stream."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from titan_neuro.titans.config import settings
from titan_neuro.titans.layers import WindowAttention, WindowCache
from titan_neuro.titans.models.backbone import Backbone
from titan_neuro.titans.models.memory_block import AttentionBackboneConfig, MemoryBlock, MemoryBlockState


@settings
class MALConfig(AttentionBackboneConfig):
    """Size of the backbone: what `AttentionBackboneConfig` has, and its window.

    Attributes
    ----------
    window_time_points : int
        Time points that attention sees by itself, the token's own included.
    """

    variant: Literal["mal"] = "mal"
    window_time_points: Annotated[int, Field(ge=1)] = 16

    def build(self) -> MAL:
        """Make the backbone."""
        return MAL(self)


@dataclasses.dataclass(frozen=True)
class MALBlockState(MemoryBlockState):
    """What one block carries from one call to the next, beside the memory.

    Attributes
    ----------
    attention : WindowCache
        Keys and values of the window's time points.
    """

    attention: WindowCache


class MALBlock(MemoryBlock[MALBlockState]):
    """One residual block: equations 29 to 31 of Behrouz et al. 2025, then a feed-forward part.

    ``r = M([persistent ; x])``; ``o = r + SW-Attn([persistent ; x + r])``. Departure from the paper, which has ``o =
    SW-Attn(M([persistent ; x]))``: memory and attention are two layers, each with its residual connection. Without the
    first, a token that attention is to pass on has to come through the memory unharmed, and training stays on a plateau
    (docs/architecture.md).

    The persistent tokens are the first that the memory of a stream reads, each a time point of its own (at each of the
    time point's places), so that chunks stay whole time points. Attention always sees the tokens themselves, not what
    the memory made of them at the stream's start; so they learn in every call, also far into a stream whose gradient
    was cut.

    Parameters
    ----------
    config : MALConfig
    """

    def __init__(self, config: MALConfig) -> None:
        super().__init__(config)
        self.attention = WindowAttention(
            config.dim,
            n_heads=config.n_heads,
            n_persistent=config.n_persistent,
            tokens_per_time_point=config.tokens_per_time_point,
            window_time_points=config.window_time_points,
        )

    def init_state(self, batch_size: int) -> MALBlockState:
        """State before the first time point: the memory has read the persistent tokens."""
        memory, persistent = self.memory.init_state(batch_size), self.attention.persistent
        if len(persistent):
            time_points = persistent.repeat_interleave(self.attention.tokens_per_time_point, dim=0)
            _, memory = self.memory(time_points.expand(batch_size, -1, -1), memory)
        return MALBlockState(memory, self.attention.init_cache(batch_size))

    def mix(
        self, x: Float[Tensor, "B T D"], state: MALBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], MALBlockState]:
        """Attend to the tokens with what the memory adds to them."""
        remembered, memory = self.remember(x, state.memory, memory_frozen=memory_frozen)
        attended, attention = self.attention(x + remembered, state.attention)
        return remembered + attended, MALBlockState(memory, attention)


class MAL(Backbone):
    """Memory as layer: the memory reads the stream, attention the last time points of what it gives.

    A frozen memory (``memory_frozen``) still holds the persistent tokens: they belong to the model, not to the stream.

    Parameters
    ----------
    config : MALConfig
    """

    config_class = MALConfig

    def __init__(self, config: MALConfig) -> None:
        super().__init__(config, (MALBlock(config) for _ in range(config.n_layers)))
