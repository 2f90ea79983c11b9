"""What all sequence models share: a stack of blocks that reads a stream of time points with a state of fixed size."""

from __future__ import annotations

import dataclasses
import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.layers.checks import check_tokens
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.models.config import BackboneConfig
from titan_neuro.titans.pretrained import Pretrained
from titan_neuro.titans.stream_state import StreamState

AnyBlockState = TypeVar("AnyBlockState", bound=StreamState)


@dataclasses.dataclass(frozen=True)
class BackboneState(StreamState):
    """What a backbone carries from one call to the next.

    Attributes
    ----------
    identity : dict
        Settings of the backbone that returned it, by their dotted names.
    blocks : tuple of StreamState
        The state of each block.
    """

    identity: dict[str, Any]
    blocks: tuple[StreamState, ...]


class Block(nn.Module, ABC, Generic[AnyBlockState]):
    """One layer of a backbone, with a state of its own."""

    @abstractmethod
    def init_state(self, batch_size: int) -> AnyBlockState:
        """State before the first time point of `batch_size` streams."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T D"], state: AnyBlockState) -> tuple[Float[Tensor, "B T D"], AnyBlockState]:
        """Run the block over the next time points.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : StreamState
            From the previous call, or `init_state`.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : StreamState
        """


class Backbone(Pretrained):
    """A stack of blocks that reads a stream of time points of any length with a state of fixed size.

    Causal by time point: the output at a time point depends on the tokens of this and of earlier time points. A stream
    may be cut into calls between any two time points, with the same results.

    Parameters
    ----------
    config : BackboneConfig
    blocks : iterable of Block

    Attributes
    ----------
    gradient_checkpointing : bool
        Recompute the inside of each block for its gradient instead of storing it. False by default.
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
        """Restart some streams of the batch.

        Parameters
        ----------
        state : BackboneState
            From the previous call.
        is_start : torch.Tensor
            bool, ``(batch,)``: True for the streams whose first time point comes next.

        Returns
        -------
        BackboneState
            The initial state for these streams, the given state for the others.

        Raises
        ------
        MismatchError
            The streams are inside a chunk or a segment, which they share (see ``config.restart_time_points``); or the
            state is of another model or batch size.
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
            ``(batch, tokens, dim)``: any number of whole time points, ``config.tokens_per_time_point`` tokens each.
        state : BackboneState, optional
            From the previous call; by default the start of the streams.
        memory_frozen : bool
            Read the memories without writing: the control condition for learning at test time. Convolutions and
            attention follow the stream as usual. Only for backbones with memories.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : BackboneState

        Raises
        ------
        MismatchError
            Tokens of another rank, width or type, parts of time points, or a state of another model or batch size.
        ConfigError
            `memory_frozen` for a backbone without memories.
        """
        self._check_input(x)
        if memory_frozen and not self.config.has_memory:
            raise ConfigError(f"memory_frozen: a {self.config.variant} backbone has no memory that could be frozen.")
        if state is None:
            state = self.init_state(len(x))
        self._check_state(state, len(x), "x")
        # Blocks without a memory don't have the option.
        options = {"memory_frozen": True} if memory_frozen else {}
        states = []
        for block, block_state in zip(self.blocks, state.blocks, strict=True):
            run = functools.partial(block, **options)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # No block draws random numbers.
                x, after = checkpoint(run, x, block_state, use_reentrant=False, preserve_rng_state=False)
            else:
                x, after = run(x, block_state)
            states.append(after)
        return self.norm(x), BackboneState(state.identity, tuple(states))

    def get_extra_state(self) -> Tensor:
        """Return the settings as JSON in bytes, uint8 ``(bytes,)``: a chunk's length shows in no weight's shape."""
        return torch.tensor(list(json.dumps(self._identity).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse weights of other settings. ``load_state_dict`` calls it before it loads the blocks."""
        try:
            identity = json.loads(bytes(state.tolist()))
        except ValueError as error:
            raise MismatchError(f"state_dict: the settings of the backbone can't be read: {error}.") from error
        self._require_identity("state_dict", identity, "Build the model with the settings of the saved one.")

    def _check_input(self, x: Tensor) -> None:
        check_tokens(
            "x",
            x,
            dim=self.config.dim,
            tokens_per_time_point=self.config.tokens_per_time_point,
            dtype=self.norm.weight.dtype,
        )

    def _check_state(self, state: BackboneState, batch_size: int, origin: str) -> None:
        if not isinstance(state, BackboneState):
            raise MismatchError(
                f"state: expected a BackboneState, found {type(state).__name__}.",
                "Pass what the previous call returned as its second value, or None at the start of a stream.",
            )
        self._require_identity("state", state.identity, "Pass the state back to the model that returned it.")
        found = state.batch_size
        if found != batch_size:
            raise MismatchError(f"state: expected a batch of {batch_size}, as {origin} has, found {found}.")

    def _require_identity(self, name: str, found: Mapping[str, Any], hint: str) -> None:
        expected = self._identity
        for field in (*expected, *found):
            if expected.get(field) != found.get(field):
                raise MismatchError(
                    f"{name}: expected one of {field} {expected.get(field)}, found {field} {found.get(field)}.", hint
                )
