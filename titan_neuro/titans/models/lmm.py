"""The memory alone (LMM), without attention."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from titan_neuro.titans.models.backbone import Backbone
from titan_neuro.titans.models.config import LMMConfig
from titan_neuro.titans.models.memory_block import MemoryBlock, MemoryBlockState


class LMMBlock(MemoryBlock[MemoryBlockState]):
    """One residual block: ``x + M(norm(x))``, then a feed-forward part (Behrouz et al. 2025, section 4).

    Parameters
    ----------
    config : LMMConfig
    """

    def init_state(self, batch_size: int) -> MemoryBlockState:
        """State before the first time point of `batch_size` streams."""
        return MemoryBlockState(self.memory.init_state(batch_size))

    def mix(
        self, x: Float[Tensor, "B T D"], state: MemoryBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], MemoryBlockState]:
        """Write each token, ``(batch, tokens, dim)``, and read for it; see `MemoryBlock.mix`."""
        retrieved, memory = self.write_and_read(x, state.memory, memory_frozen=memory_frozen)
        return retrieved, MemoryBlockState(memory)


class LMM(Backbone):
    """The memory alone, stacked: earlier time points reach a token by a memory or its convolutions only.

    Parameters
    ----------
    config : LMMConfig
    """

    config_class = LMMConfig

    def __init__(self, config: LMMConfig) -> None:
        super().__init__(config, (LMMBlock(config) for _ in range(config.n_layers)))
