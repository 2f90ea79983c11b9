"""What MAG and MAL share: a memory and sliding-window attention."""

from __future__ import annotations

import dataclasses

from titan_neuro.titans.layers import WindowAttention, WindowAttentionState
from titan_neuro.titans.models.config import WindowBackboneConfig
from titan_neuro.titans.models.memory_block import MemoryBlock, MemoryBlockState


@dataclasses.dataclass(frozen=True)
class WindowBlockState(MemoryBlockState):
    """What one block carries from one call to the next: the memory, and the window.

    Attributes
    ----------
    attention : WindowAttentionState
        Keys and values of the window's time points.
    """

    attention: WindowAttentionState


class WindowBlock(MemoryBlock[WindowBlockState]):
    """A residual block with a memory and sliding-window attention; `mix` says how the two are combined.

    Parameters
    ----------
    config : WindowBackboneConfig
    """

    def __init__(self, config: WindowBackboneConfig) -> None:
        super().__init__(config)
        self.attention = WindowAttention(
            config.dim,
            n_heads=config.n_heads,
            n_persistent=config.n_persistent,
            tokens_per_time_point=config.tokens_per_time_point,
            window_time_points=config.window_time_points,
        )

    def init_state(self, batch_size: int) -> WindowBlockState:
        """State before the first time point of `batch_size` streams."""
        return WindowBlockState(self.memory.init_state(batch_size), self.attention.init_state(batch_size))
