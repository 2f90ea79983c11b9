"""What the backbones with a memory share: residual blocks, each with a memory of its own."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from titan_neuro.titans.layers import FeedForward, NeuralMemoryState
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.models.backbone import Block
from titan_neuro.titans.models.config import MemoryBackboneConfig
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class MemoryBlockState(StreamState):
    """What one block carries from one call to the next.

    Attributes
    ----------
    memory : NeuralMemoryState
        The memory, and the last time points that its convolutions need.
    """

    memory: NeuralMemoryState


AnyMemoryBlockState = TypeVar("AnyMemoryBlockState", bound=MemoryBlockState)


class MemoryBlock(Block[AnyMemoryBlockState]):
    """One residual block: ``x + mix(norm(x))``, then a feed-forward part, ``x + ff(norm(x))``.

    Parameters
    ----------
    config : MemoryBackboneConfig
    """

    def __init__(self, config: MemoryBackboneConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.dim)
        self.memory = config.memory.build(dim=config.dim, tokens_per_time_point=config.tokens_per_time_point)
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, width=config.ff_expansion * config.dim)

    @abstractmethod
    def mix(
        self, x: Float[Tensor, "B T D"], state: AnyMemoryBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], AnyMemoryBlockState]:
        """Mix the tokens along the stream by the variant's equations.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, normalized, whole time points.
        state : MemoryBlockState
            From the previous call, or `init_state`.
        memory_frozen : bool
            Read the memory without writing.

        Returns
        -------
        mixed : torch.Tensor
            ``(batch, tokens, dim)``.
        state : MemoryBlockState
        """

    def forward(
        self, x: Float[Tensor, "B T D"], state: AnyMemoryBlockState, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "B T D"], AnyMemoryBlockState]:
        """Run the block over the next time points, ``(batch, tokens, dim)``; see `Block.forward` and `mix`."""
        mixed, state = self.mix(self.mixer_norm(x), state, memory_frozen=memory_frozen)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), state

    def write_and_read(
        self, x: Float[Tensor, "B T D"], state: NeuralMemoryState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], NeuralMemoryState]:
        """Write tokens into the memory and read for each of them; a frozen memory is read only.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : NeuralMemoryState
        memory_frozen : bool

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``: the memory's output.
        state : NeuralMemoryState
        """
        if memory_frozen:
            return self.memory.read_frozen(x, state)
        written: tuple[Tensor, NeuralMemoryState] = self.memory(x, state)
        return written
