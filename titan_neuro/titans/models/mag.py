"""Memory as gate (MAG): sliding-window attention and the memory, side by side."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from titan_neuro.titans.layers import NonlinearGate
from titan_neuro.titans.models.backbone import Backbone
from titan_neuro.titans.models.config import MAGConfig
from titan_neuro.titans.models.window_block import WindowBlock, WindowBlockState


class MAGBlock(WindowBlock):
    """One residual block: equations 26 to 28 of Behrouz et al. 2025, then a feed-forward part.

    ``y = SW-Attn([persistent ; x])``; ``o = y (x) M(x)``. Departure from the paper: the persistent tokens precede the
    attention only, as in equation 19; the memory reads the stream alone.

    Parameters
    ----------
    config : MAGConfig
    """

    def __init__(self, config: MAGConfig) -> None:
        super().__init__(config)
        self.gate = NonlinearGate(config.dim)

    def mix(
        self, x: Float[Tensor, "B T D"], state: WindowBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], WindowBlockState]:
        """Gate the attention's output, ``(batch, tokens, dim)``, by the memory's; see `MemoryBlock.mix`."""
        attended, attention = self.attention(x, state.attention)
        retrieved, memory = self.write_and_read(x, state.memory, memory_frozen=memory_frozen)
        return self.gate(attended, retrieved), WindowBlockState(memory, attention)


class MAG(Backbone):
    """Memory as gate: at every token the last time points by attention, and all earlier ones by the memory.

    Parameters
    ----------
    config : MAGConfig
    """

    config_class = MAGConfig

    def __init__(self, config: MAGConfig) -> None:
        super().__init__(config, (MAGBlock(config) for _ in range(config.n_layers)))
