"""Memory as gate (MAG): attention over the last time points and the memory, side by side."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from titan_neuro.titans.config import settings
from titan_neuro.titans.layers import NonlinearGate, WindowAttention, WindowCache
from titan_neuro.titans.models.backbone import Backbone
from titan_neuro.titans.models.memory_block import AttentionBackboneConfig, MemoryBlock, MemoryBlockState


@settings
class MAGConfig(AttentionBackboneConfig):
    """Size of the backbone: what `AttentionBackboneConfig` has, and its window.

    Attributes
    ----------
    window_time_points : int
        Time points that attention sees by itself, the token's own included.
    """

    variant: Literal["mag"] = "mag"
    window_time_points: Annotated[int, Field(ge=1)] = 16

    def build(self) -> MAG:
        """Make the backbone."""
        return MAG(self)


@dataclasses.dataclass(frozen=True)
class MAGBlockState(MemoryBlockState):
    """What one block carries from one call to the next, beside the memory.

    Attributes
    ----------
    attention : WindowCache
        Keys and values of the window's time points.
    """

    attention: WindowCache


class MAGBlock(MemoryBlock[MAGBlockState]):
    """One residual block: equations 26 to 28 of Behrouz et al. 2025, then a feed-forward part.

    ``y = SW-Attn([persistent ; x])``; ``o = y (x) M(x)``. Departure from the paper: the persistent tokens stand in
    front of the attention alone, as equation 19 has them; the memory reads the stream.

    Parameters
    ----------
    config : MAGConfig
    """

    def __init__(self, config: MAGConfig) -> None:
        super().__init__(config)
        self.attention = WindowAttention(
            config.dim,
            n_heads=config.n_heads,
            n_persistent=config.n_persistent,
            tokens_per_time_point=config.tokens_per_time_point,
            window_time_points=config.window_time_points,
        )
        self.gate = NonlinearGate(config.dim)

    def init_state(self, batch_size: int) -> MAGBlockState:
        """State before the first time point."""
        return MAGBlockState(self.memory.init_state(batch_size), self.attention.init_cache(batch_size))

    def mix(
        self, x: Float[Tensor, "B T D"], state: MAGBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], MAGBlockState]:
        """Gate what attention sees by what the memory knows."""
        attended, attention = self.attention(x, state.attention)
        remembered, memory = self.remember(x, state.memory, memory_frozen=memory_frozen)
        return self.gate(attended, remembered), MAGBlockState(memory, attention)


class MAG(Backbone):
    """Memory as gate: the last time points by attention, everything before them by the memory, at every token.

    Parameters
    ----------
    config : MAGConfig
    """

    config_class = MAGConfig

    def __init__(self, config: MAGConfig) -> None:
        super().__init__(config, (MAGBlock(config) for _ in range(config.n_layers)))
