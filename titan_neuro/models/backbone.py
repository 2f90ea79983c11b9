"""What all sequence backbones share: a stack of residual blocks that reads a stream of frames at constant memory."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.layers import FeedForward, NeuralMemoryConfig, NeuralMemoryState
from titan_neuro.ops.stream_state import StreamState


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class BackboneConfig:
    """Size of a backbone: what every variant has.

    Attributes
    ----------
    variant : {"lmm", "mac", "mag", "mal"}
    dim : int
        Width of a token.
    n_layers : int
        Blocks, each with its own memory.
    tokens_per_frame : int
        Tokens that make up one frame.
    ff_expansion : int
        Hidden width of the feed-forward part, in units of `dim`.
    memory : NeuralMemoryConfig
    """

    variant: Literal["lmm", "mac", "mag", "mal"]
    dim: Annotated[int, Field(ge=1)] = 64
    n_layers: Annotated[int, Field(ge=1)] = 2
    tokens_per_frame: Annotated[int, Field(ge=1)] = 8
    ff_expansion: Annotated[int, Field(ge=1)] = 2
    memory: NeuralMemoryConfig = NeuralMemoryConfig()

    def __post_init__(self) -> None:
        if self.dim % self.memory.n_heads:
            raise ConfigError(
                f"{type(self).__name__}.dim: each head of the memory needs a whole share; found dim {self.dim}, "
                f"memory.n_heads {self.memory.n_heads}."
            )

    @property
    def restart_frames(self) -> int:
        """Frames after which a stream may begin anew, and after as many again, and so on."""
        return self.memory.chunk_frames

    def identity(self) -> dict[str, Any]:
        """Every setting that decides what the weights and a stream's state mean, by its dotted name."""
        settings = dataclasses.asdict(self)
        memory = settings.pop("memory")
        # All backends compute the same.
        del memory["backend"]
        return settings | {f"memory.{name}": value for name, value in memory.items()}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AttentionBackboneConfig(BackboneConfig):
    """Size of a backbone with attention beside the memory: what `BackboneConfig` has, and more.

    Attributes
    ----------
    n_heads : int
        Heads of the attention; ``dim / n_heads`` is a whole, even number.
    n_persistent : int
        Learned tokens that attention always sees (equation 19).
    """

    n_heads: Annotated[int, Field(ge=1)] = 4
    n_persistent: Annotated[int, Field(ge=0)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % (2 * self.n_heads):
            raise ConfigError(
                f"{type(self).__name__}.dim: each head of the attention needs a whole, even share; found dim "
                f"{self.dim}, n_heads {self.n_heads}."
            )


@dataclasses.dataclass(frozen=True)
class BlockState(StreamState):
    """What one block carries from one call to the next.

    Attributes
    ----------
    memory : NeuralMemoryState
        The memory as it stands, and the tails of what is written and read.
    """

    memory: NeuralMemoryState


AnyBlockState = TypeVar("AnyBlockState", bound=BlockState)


@dataclasses.dataclass(frozen=True)
class BackboneState(StreamState):
    """What a backbone carries from one call to the next.

    Attributes
    ----------
    identity : dict
        Settings of the backbone that made it, by their dotted names.
    blocks : tuple of BlockState
    """

    identity: dict[str, Any]
    blocks: tuple[BlockState, ...]


class Block(nn.Module, ABC, Generic[AnyBlockState]):
    """One residual block: ``x + mix(norm(x))``, then a feed-forward part, ``x + ff(norm(x))``.

    Parameters
    ----------
    config : BackboneConfig
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.memory = config.memory.build(dim=config.dim, tokens_per_frame=config.tokens_per_frame)
        self.feed_forward_norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.feed_forward = FeedForward(config.dim, config.ff_expansion)

    @abstractmethod
    def init_state(self, batch_size: int) -> AnyBlockState:
        """State before the first frame."""

    @abstractmethod
    def mix(
        self, x: Float[Tensor, "B T D"], state: AnyBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], AnyBlockState]:
        """Bring tokens together along the stream, by the variant's equations."""

    def forward(
        self, x: Float[Tensor, "B T D"], state: AnyBlockState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], AnyBlockState]:
        """Run the block over the next frames.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole frames.
        state : BlockState
            What the call before returned.
        memory_frozen : bool
            Read the memory, write nothing.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : BlockState
        """
        mixed, state = self.mix(self.mixer_norm(x), state, memory_frozen=memory_frozen)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), state

    def remember(
        self, x: Float[Tensor, "B T D"], state: NeuralMemoryState, *, memory_frozen: bool
    ) -> tuple[Float[Tensor, "B T D"], NeuralMemoryState]:
        """Write tokens into the memory and read it for each of them; where it is frozen, read it alone."""
        if not memory_frozen:
            written: tuple[Tensor, NeuralMemoryState] = self.memory(x, state)
            return written
        y, query_tail = self.memory.read(x, state.memory, state.query_tail)
        # The stream goes on: what is written after a thaw follows the frames that came before it.
        _, key_value_tail = self.memory.key_value(x, state.key_value_tail)
        return y, NeuralMemoryState(state.memory, query_tail, key_value_tail)


class Backbone(nn.Module):
    """A stack of residual blocks that reads a stream of frames of any length at constant memory.

    Causal by frame: the output at a frame depends on the tokens of this frame and of earlier ones. A stream may be cut
    into calls at any frame, with the same numbers.

    Parameters
    ----------
    config : BackboneConfig
    blocks : iterable of Block
    """

    def __init__(self, config: BackboneConfig, blocks: Iterable[Block[Any]]) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(config.dim, eps=1e-5)
        self._identity = config.identity()

    def init_state(self, batch_size: int) -> BackboneState:
        """State before the first frame of `batch_size` streams."""
        blocks = tuple(cast("Block[Any]", block).init_state(batch_size) for block in self.blocks)
        return BackboneState(self._identity, blocks)

    def restart(self, state: BackboneState, is_start: Bool[Tensor, " B"]) -> BackboneState:
        """Begin anew for the items of the batch where `is_start`; the others go on.

        Raises
        ------
        MismatchError
            The streams stand inside a chunk or a segment (see ``config.restart_frames``), which items share; or a state
            of another model or batch size.
        """
        self._check_state(state, len(is_start), "is_start")
        return state.reset(is_start, self.init_state(len(is_start)))

    def forward(
        self, x: Float[Tensor, "B T D"], state: BackboneState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "B T D"], BackboneState]:
        """Read the next frames of the streams.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``: whole frames, ``config.tokens_per_frame`` tokens each; any number of frames.
        state : BackboneState, optional
            What the call before returned; by default the start of the streams.
        memory_frozen : bool
            Read the memories as they are, writing nothing into them: the control for what learning at test time is
            worth. Convolutions and attention go on as ever.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : BackboneState

        Raises
        ------
        MismatchError
            Tokens of another width, frames that are not whole, or a state of another model or batch size.
        """
        self._check_input(x)
        if state is None:
            state = self.init_state(len(x))
        self._check_state(state, len(x), "x")
        blocks = []
        for block, block_state in zip(self.blocks, state.blocks, strict=True):
            x, after = block(x, block_state, memory_frozen=memory_frozen)
            blocks.append(after)
        return self.norm(x), BackboneState(state.identity, tuple(blocks))

    def get_extra_state(self) -> Tensor:
        """Return the settings as JSON in bytes: a chunk's length shows in no weight's shape, but changes the model."""
        return torch.tensor(list(json.dumps(self._identity).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse weights of other settings. Called by ``load_state_dict``, before it looks at the blocks."""
        try:
            identity = json.loads(bytes(state.tolist()))
        except ValueError as error:
            raise MismatchError(f"state_dict: the settings of the backbone can't be read: {error}.") from error
        self._require_own("state_dict", identity, "Build the model with the settings that the weights were made with.")

    def _check_input(self, x: Tensor) -> None:
        dim, tokens_per_frame = self.config.dim, self.config.tokens_per_frame
        if x.ndim != 3 or x.shape[2] != dim or not x.shape[1] or x.shape[1] % tokens_per_frame:
            raise MismatchError(
                f"x: expected (batch, tokens, {dim}) with whole frames of {tokens_per_frame} tokens, "
                f"found {tuple(x.shape)}."
            )

    def _check_state(self, state: BackboneState, batch_size: int, origin: str) -> None:
        self._require_own("state", state.identity, "A state goes back into the model that it came from.")
        found = len(state.blocks[0].memory.memory.weights[0])
        if found != batch_size:
            raise MismatchError(f"state: expected a batch of {batch_size}, as {origin} has, found {found}.")

    def _require_own(self, name: str, found: Mapping[str, Any], hint: str) -> None:
        own = self._identity
        for field in (*own, *found):
            if own.get(field) != found.get(field):
                raise MismatchError(
                    f"{name}: expected one of {field} {own.get(field)}, found {field} {found.get(field)}.", hint
                )
