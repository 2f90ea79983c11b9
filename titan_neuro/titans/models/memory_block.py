"""What the backbones with a memory share: residual blocks, each with a memory of its own."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Annotated, Any, TypeVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from titan_neuro.errors import ConfigError
from titan_neuro.settings import settings
from titan_neuro.titans.layers import FeedForward, NeuralMemoryConfig, NeuralMemoryState
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.models.backbone import BackboneConfig, Block
from titan_neuro.titans.stream_state import StreamState


@settings
class MemoryBackboneConfig(BackboneConfig):
    """Size of a backbone whose blocks have memories: the settings of `BackboneConfig`, and these.

    Attributes
    ----------
    ff_expansion : int
        Hidden width of the feed-forward part, in units of `dim`.
    memory : NeuralMemoryConfig
    """

    ff_expansion: Annotated[int, Field(ge=1)] = 2
    memory: NeuralMemoryConfig = NeuralMemoryConfig()

    def __post_init__(self) -> None:
        if self.dim % self.memory.n_heads:
            raise ConfigError(
                f"{type(self).__name__}.dim: each head of the memory needs an equal part; found dim {self.dim}, "
                f"memory.n_heads {self.memory.n_heads}."
            )

    @property
    def name(self) -> str:
        """Name of a model with this backbone in tables: ``titan-`` and the variant."""
        return f"titan-{self.variant}"

    @property
    def has_memory(self) -> bool:
        """Whether its blocks have memories that learn at test time."""
        return True

    @property
    def restart_time_points(self) -> int:
        """A stream can be restarted after each multiple of this number of time points: a chunk."""
        return self.memory.chunk_time_points

    def identity(self) -> dict[str, Any]:
        """Every setting that decides what the weights and a stream's state mean, by its dotted name."""
        values = super().identity()
        memory = values.pop("memory")
        # All backends compute the same.
        del memory["backend"]
        return values | {f"memory.{name}": value for name, value in memory.items()}


@settings
class AttentionBackboneConfig(MemoryBackboneConfig):
    """Size of a backbone with attention and a memory: the settings of `MemoryBackboneConfig`, and these.

    Attributes
    ----------
    n_heads : int
        Heads of the attention; ``dim / n_heads`` must be an even integer.
    n_persistent : int
        Learned tokens that attention always sees (equation 19).
    """

    n_heads: Annotated[int, Field(ge=1)] = 4
    n_persistent: Annotated[int, Field(ge=0)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_even_heads(self.n_heads)


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
