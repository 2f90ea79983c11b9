"""What all sequence backbones share: a stack of blocks that reads a stream of time points at constant memory."""

from __future__ import annotations

import dataclasses
import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.config import settings
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.pretrained import Pretrained
from titan_neuro.titans.stream_state import StreamState


@settings
class BackboneConfig:
    """Size of a backbone: what every variant has.

    Attributes
    ----------
    variant : {"lmm", "mac", "mag", "mal", "gru", "transformer"}
    dim : int
        Width of a token.
    n_layers : int
        Layers, one above the other.
    tokens_per_time_point : int
        Tokens that make up one time point.
    """

    variant: Literal["lmm", "mac", "mag", "mal", "gru", "transformer"]
    dim: Annotated[int, Field(ge=1)] = 64
    n_layers: Annotated[int, Field(ge=1)] = 2
    tokens_per_time_point: Annotated[int, Field(ge=1)] = 8

    @property
    def name(self) -> str:
        """What a model with this backbone is called in tables."""
        return self.variant

    @property
    def has_memory(self) -> bool:
        """Whether its blocks have memories that learn while they read."""
        return False

    @property
    def restart_time_points(self) -> int:
        """Time points after which a stream may begin anew, and after as many again, and so on."""
        return 1

    def identity(self) -> dict[str, Any]:
        """Every setting that decides what the weights and a stream's state mean, by its dotted name."""
        return dataclasses.asdict(self)

    def require_even_heads(self, n_heads: int) -> None:
        """Raise a `ConfigError` where the heads of an attention can't share the width."""
        if self.dim % (2 * n_heads):
            raise ConfigError(
                f"{type(self).__name__}.dim: each head of the attention needs a whole, even share; found dim "
                f"{self.dim}, n_heads {n_heads}."
            )


AnyBlockState = TypeVar("AnyBlockState", bound=StreamState)


@dataclasses.dataclass(frozen=True)
class BackboneState(StreamState):
    """What a backbone carries from one call to the next.

    Attributes
    ----------
    identity : dict
        Settings of the backbone that made it, by their dotted names.
    blocks : tuple of StreamState
        What each block carries.
    """

    identity: dict[str, Any]
    blocks: tuple[StreamState, ...]


class Block(nn.Module, ABC, Generic[AnyBlockState]):
    """One stage that all time points of a stream pass, with a state of its own."""

    @abstractmethod
    def init_state(self, batch_size: int) -> AnyBlockState:
        """State before the first time point."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T D"], state: AnyBlockState) -> tuple[Float[Tensor, "B T D"], AnyBlockState]:
        """Run the block over the next time points.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : StreamState
            What the call before returned.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : StreamState
        """


class Backbone(Pretrained):
    """A stack of blocks that reads a stream of time points of any length at constant memory.

    Causal by time point: the output at a time point depends on the tokens of this time point and of earlier ones. A
    stream may be cut into calls at any time point, with the same numbers.

    Parameters
    ----------
    config : BackboneConfig
    blocks : iterable of Block

    Attributes
    ----------
    gradient_checkpointing : bool
        Compute what is inside a block again for its gradient, and keep it not. False unless it is set.
    """

    def __init__(self, config: BackboneConfig, blocks: Iterable[Block[Any]]) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.dim)
        self.gradient_checkpointing = False
        self._identity = config.identity()

    def init_state(self, batch_size: int) -> BackboneState:
        """State before the first time point of `batch_size` streams."""
        blocks = tuple(cast("Block[Any]", block).init_state(batch_size) for block in self.blocks)
        return BackboneState(self._identity, blocks)

    def restart(self, state: BackboneState, is_start: Bool[Tensor, " B"]) -> BackboneState:
        """Begin anew for the items of the batch where `is_start`; the others go on.

        Raises
        ------
        MismatchError
            The streams stand inside a chunk or a segment (see ``config.restart_time_points``), which items share; or a
            state of another model or batch size.
        """
        self._check_state(state, len(is_start), "is_start")
        return state.reset(is_start, self.init_state(len(is_start)))

    def forward(
        self, x: Float[Tensor, "B T D"], state: BackboneState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "B T D"], BackboneState]:
        """Read the next time points of the streams.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``: whole time points, ``config.tokens_per_time_point`` tokens each; any number of
            time points.
        state : BackboneState, optional
            What the call before returned; by default the start of the streams.
        memory_frozen : bool
            Read the memories as they are, writing nothing into them: the control for what learning at test time is
            worth. Convolutions and attention go on as ever. For backbones with memories alone.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : BackboneState

        Raises
        ------
        MismatchError
            Tokens of another width, time points that are not whole, or a state of another model or batch size.
        ConfigError
            `memory_frozen` in a backbone without memories.
        """
        self._check_input(x)
        if memory_frozen and not self.config.has_memory:
            raise ConfigError(f"memory_frozen: a {self.config.variant} backbone has no memory that could be frozen.")
        if state is None:
            state = self.init_state(len(x))
        self._check_state(state, len(x), "x")
        # Only blocks with a memory know the word.
        options = {"memory_frozen": True} if memory_frozen else {}
        blocks = []
        for block, block_state in zip(self.blocks, state.blocks, strict=True):
            run = functools.partial(block, **options)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # No block draws at random.
                x, after = checkpoint(run, x, block_state, use_reentrant=False, preserve_rng_state=False)
            else:
                x, after = run(x, block_state)
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
        dim, tokens_per_time_point = self.config.dim, self.config.tokens_per_time_point
        if x.ndim != 3 or x.shape[2] != dim or not x.shape[1] or x.shape[1] % tokens_per_time_point:
            raise MismatchError(
                f"x: expected (batch, tokens, {dim}) with whole time points of {tokens_per_time_point} tokens, "
                f"found {tuple(x.shape)}."
            )

    def _check_state(self, state: BackboneState, batch_size: int, origin: str) -> None:
        self._require_own("state", state.identity, "A state goes back into the model that it came from.")
        found = state.batch_size
        if found != batch_size:
            raise MismatchError(f"state: expected a batch of {batch_size}, as {origin} has, found {found}.")

    def _require_own(self, name: str, found: Mapping[str, Any], hint: str) -> None:
        own = self._identity
        for field in (*own, *found):
            if own.get(field) != found.get(field):
                raise MismatchError(
                    f"{name}: expected one of {field} {own.get(field)}, found {field} {found.get(field)}.", hint
                )
