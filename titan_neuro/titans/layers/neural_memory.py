"""The memory as a layer: it learns its input while it reads it, at test time as in training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.config import settings
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.layers.projection import CausalProjection
from titan_neuro.titans.memory import Backend, MemoryState, init_state, memory_read, memory_scan, memory_surprise
from titan_neuro.titans.stream_state import StreamState

# Half-lives, in time points, that the heads begin with: from a few time points to a few minutes of fMRI.
_FIRST_HALF_LIFE, _LAST_HALF_LIFE = 8.0, 512.0
# Scale of the last layer's initial weights before training, in units of what keeps lengths as they are.
_FIRST_LAST_LAYER = 0.05


@settings
class NeuralMemoryConfig:
    """What kind of memory, and how fast it may learn.

    Attributes
    ----------
    n_heads : int
        Memories side by side, each on its share of the width.
    depth : int
        Layers of each memory's MLP.
    expansion : int
        Its hidden width, in units of a head's width.
    chunk_time_points : int
        Time points of a chunk: all gradients of a chunk are taken at the weights it begins with (equation 16).
    kernel_time_points : int
        Time points that the convolution behind queries, keys and values sees.
    max_step : float
        Bound of the step size: if all tokens of a chunk had the same key, they would undo at most this share of the
        error at that key. Above 2 a memory of one layer may diverge.
    max_momentum : float
        Bound of the momentum gate, below 1.
    max_delta_norm : float or None
        Longest error that a token may write; see `memory_scan`.
    backend : {"auto", "naive", "chunked", "native", "triton"}
        Code that runs the memory.
    """

    n_heads: Annotated[int, Field(ge=1)] = 4
    depth: Annotated[int, Field(ge=1)] = 2
    expansion: Annotated[int, Field(ge=1)] = 2
    chunk_time_points: Annotated[int, Field(ge=1)] = 8
    kernel_time_points: Annotated[int, Field(ge=1)] = 4
    max_step: Annotated[float, Field(gt=0, le=2)] = 1.5
    max_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    max_delta_norm: Annotated[float, Field(gt=0)] | None = 10.0
    backend: Backend = "auto"

    def build(self, *, dim: int, tokens_per_time_point: int) -> NeuralMemory:
        """Make the layer for tokens of width `dim`, `tokens_per_time_point` of which make up a time point."""
        return NeuralMemory(self, dim=dim, tokens_per_time_point=tokens_per_time_point)


@dataclasses.dataclass(frozen=True)
class NeuralMemoryState(StreamState):
    """What the layer carries from one call to the next.

    Attributes
    ----------
    memory : MemoryState
        Weights, momentum and the open chunk.
    query_tail, key_value_tail : torch.Tensor
        Time points that the convolutions still need, ``(batch, kernel_time_points - 1, tokens_per_time_point, width)``.
    """

    memory: MemoryState
    query_tail: Float[Tensor, "batch ..."]
    key_value_tail: Float[Tensor, "batch ..."]


class NeuralMemory(nn.Module):
    """A Titans memory with everything around it (Behrouz et al. 2025, section 4.4): projections, gates, output.

    Causal token by token, so by time point too. Departures from the paper: the convolutions run over time points (see
    `CausalProjection`); the step size is bounded so that no chunk can overshoot, ``theta = max_step sigmoid(.)
    (1 - eta) / (2 C)`` with ``C`` tokens a chunk, since gradients at one reference add up; the error written is
    clamped.

    Parameters
    ----------
    config : NeuralMemoryConfig
    dim : int
        Width of a token, a multiple of ``config.n_heads``.
    tokens_per_time_point : int
        Tokens of a time point.

    Raises
    ------
    ConfigError
        A width that can't be shared out to the heads.
    """

    def __init__(self, config: NeuralMemoryConfig, *, dim: int, tokens_per_time_point: int) -> None:
        super().__init__()
        if dim % config.n_heads:
            raise ConfigError(f"memory.n_heads: must divide dim; found dim {dim} for {config.n_heads} heads.")
        self.config, self.dim, self.tokens_per_time_point = config, dim, tokens_per_time_point
        self.chunk_size = config.chunk_time_points * tokens_per_time_point
        head_dim = dim // config.n_heads
        shape = {"kernel_time_points": config.kernel_time_points, "tokens_per_time_point": tokens_per_time_point}
        self.query = CausalProjection(dim, dim, **shape)
        self.key_value = CausalProjection(dim, 2 * dim, **shape)
        widths = [head_dim] + [config.expansion * head_dim] * (config.depth - 1) + [head_dim]
        self.initial_weights = nn.ParameterList(
            nn.Parameter(torch.randn(config.n_heads, d_out, d_in) * d_in**-0.5)
            for d_in, d_out in itertools.pairwise(widths)
        )
        # A memory begins all but empty: what it gives out is what it was told, not what it was born with.
        self.initial_weights[-1].data.mul_(_FIRST_LAST_LAYER)
        self.gates = nn.Linear(dim, 3 * config.n_heads)
        self.norm = RMSNorm(head_dim)
        self.output_gate = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim)
        self._init_forgetting()

    def _init_forgetting(self) -> None:
        """Spread the heads' half-lives evenly, on a log scale, and start from gates that depend little on the token."""
        n_heads = self.config.n_heads
        half_lives = torch.logspace(math.log10(_FIRST_HALF_LIFE), math.log10(_LAST_HALF_LIFE), n_heads)
        alpha = 1 - 0.5 ** (1 / (half_lives * self.tokens_per_time_point))
        with torch.no_grad():
            self.gates.weight.mul_(0.1)
            self.gates.bias.zero_()
            self.gates.bias[:n_heads] = torch.logit(alpha)

    def init_state(self, batch_size: int) -> NeuralMemoryState:
        """State before the first time point."""
        return NeuralMemoryState(
            init_state(tuple(self.initial_weights), batch_size),
            self.query.init_tail(batch_size),
            self.key_value.init_tail(batch_size),
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: NeuralMemoryState | None = None
    ) -> tuple[Float[Tensor, "B T D"], NeuralMemoryState]:
        """Write each token, and read for it from the memory that already holds it.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : NeuralMemoryState, optional
            What the call before returned; by default the start of a stream.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : NeuralMemoryState

        Raises
        ------
        MismatchError
            Tokens of another width, time points that are not whole, or a state that does not fit.
        """
        self._check(x)
        state = self.init_state(len(x)) if state is None else state
        queries, query_tail = self._queries(x, state.query_tail)
        keys, values, key_value_tail = self._keys_and_values(x, state.key_value_tail)
        read, memory = memory_scan(
            queries,
            keys,
            values,
            *self.gate_values(x),
            state.memory,
            chunk_size=self.chunk_size,
            backend=self.config.backend,
            max_delta_norm=self.config.max_delta_norm,
        )
        return self._output(read, x), NeuralMemoryState(memory, query_tail, key_value_tail)

    def read(
        self, x: Float[Tensor, "B T D"], memory: MemoryState, query_tail: Float[Tensor, "B K P D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B K P D"]]:
        """Read for each token from one and the same memory, writing nothing.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        memory : MemoryState
            The memory that is read.
        query_tail : torch.Tensor
            Time points of `x`'s stream that the queries' convolution still needs.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        query_tail : torch.Tensor
            The same for the next call.
        """
        self._check(x)
        queries, query_tail = self._queries(x, query_tail)
        return self._output(memory_read(queries, memory), x), query_tail

    def surprise(self, x: Float[Tensor, "B T D"], state: NeuralMemoryState) -> Float[Tensor, "B time_points"]:
        """Norm of the gradient that `forward` would write, over all heads and the tokens of a time point, writing
        nothing.

        Parameters
        ----------
        x, state
            As `forward` has them, but no further than to the end of the open chunk: at its first weights all its
            gradients are taken (equation 16).

        Returns
        -------
        torch.Tensor
            ``(batch, time_points)``, at least 0; before what ``max_delta_norm`` shortens.

        Raises
        ------
        MismatchError
            Tokens that don't fit, or that reach beyond the chunk.
        """
        self._check(x)
        if state.memory.position + x.shape[1] > self.chunk_size:
            raise MismatchError(
                f"x: {x.shape[1]} tokens reach beyond the chunk of {self.chunk_size}, of which "
                f"{state.memory.position} are written.",
                "Stream the model in blocks that divide its chunks.",
            )
        keys, values, _ = self._keys_and_values(x, state.key_value_tail)
        squares = memory_surprise(keys, values, state.memory.reference).square().sum(dim=1)
        return squares.view(len(x), -1, self.tokens_per_time_point).sum(dim=2).sqrt()

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != self.dim or x.shape[1] % self.tokens_per_time_point or not x.shape[1]:
            raise MismatchError(
                f"x: expected (batch, tokens, {self.dim}) with whole time points of {self.tokens_per_time_point} tokens, "
                f"found {tuple(x.shape)}."
            )

    def _queries(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        queries, tail = self.query(x, tail)
        return _unit(self._heads(queries)), tail

    def _keys_and_values(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys_and_values, tail = self.key_value(x, tail)
        keys, values = (self._heads(part) for part in keys_and_values.chunk(2, dim=-1))
        return _unit(keys), values, tail

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.config.n_heads, -1).transpose(1, 2)

    def gate_values(self, x: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Forgetting, momentum and step size, ``(batch, heads, tokens)`` each."""
        alpha, eta, theta = torch.sigmoid(self.gates(x)).mT.chunk(3, dim=1)
        eta = self.config.max_momentum * eta
        # A token's gradient acts 1 / (1 - eta) times over, and twice as strong as its error.
        return alpha, eta, self.config.max_step / (2 * self.chunk_size) * theta * (1 - eta)

    def _output(self, read: Tensor, x: Tensor) -> Tensor:
        normalized = self.norm(read).transpose(1, 2).flatten(2)
        output: Tensor = self.output(normalized * F.silu(self.output_gate(x)))
        return output


def _unit(x: Tensor) -> Tensor:
    """Vectors of length 1; an all but silent one stays short, since its direction would be noise."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6)
