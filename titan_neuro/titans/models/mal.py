"""Memory as layer (MAL): sliding-window attention over the output of the memory."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from titan_neuro.titans.models.backbone import Backbone
from titan_neuro.titans.models.config import MALConfig
from titan_neuro.titans.models.window_block import WindowBlock, WindowBlockState


class MALBlock(WindowBlock):
    """One residual block: equations 29 to 31 of Behrouz et al. 2025, then a feed-forward part.

    ``r = M([persistent ; x])``; ``o = r + SW-Attn([persistent ; x + r])``. Departure from the paper, which has ``o =
    SW-Attn(M([persistent ; x]))``: memory and attention are two layers, each with its residual connection. Without the
    first, attention sees a token only as the memory changed it, and training stays on a plateau (the decision on the
    gate in docs has the measurements).

    The persistent tokens are the first that the memory of a stream reads, each as a time point of its own (repeated for
    each of the time point's tokens), so that chunks remain whole time points. Attention always sees the persistent
    tokens themselves, not the memory's output for them at the start of the stream; so they receive a gradient in every
    call, also late in a stream whose gradient was truncated.

    Parameters
    ----------
    config : MALConfig
    """

    def init_state(self, batch_size: int) -> WindowBlockState:
        """State before the first time point of `batch_size` streams: the memory contains the persistent tokens."""
        memory, persistent = self.memory.init_state(batch_size), self.attention.persistent
        if len(persistent):
            time_points = persistent.repeat_interleave(self.attention.tokens_per_time_point, dim=0)
            _, memory = self.memory(time_points.expand(batch_size, -1, -1), memory)
        return WindowBlockState(memory, self.attention.init_state(batch_size))

    def mix(
        self, x: Float[Tensor, "B T D"], state: WindowBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], WindowBlockState]:
        """Attend to the sum of the tokens, ``(batch, tokens, dim)``, and the memory's output; see `MemoryBlock.mix`."""
        retrieved, memory = self.write_and_read(x, state.memory, memory_frozen=memory_frozen)
        attended, attention = self.attention(x + retrieved, state.attention)
        return retrieved + attended, WindowBlockState(memory, attention)


class MAL(Backbone):
    """Memory as layer: the memory reads the stream, and attention the last time points of its output.

    A frozen memory (``memory_frozen``) still contains the persistent tokens: they belong to the model, not to the
    stream.

    Parameters
    ----------
    config : MALConfig
    """

    config_class = MALConfig

    def __init__(self, config: MALConfig) -> None:
        super().__init__(config, (MALBlock(config) for _ in range(config.n_layers)))
