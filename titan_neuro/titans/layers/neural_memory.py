"""The memory as a layer: it learns its input while it reads it, at test time as in training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.layers.checks import check_tokens
from titan_neuro.titans.layers.config import NeuralMemoryConfig
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.layers.projection import CausalProjection
from titan_neuro.titans.memory import MemoryState, init_state, memory_read, memory_scan, memory_surprise
from titan_neuro.titans.pretrained import Pretrained
from titan_neuro.titans.stream_state import StreamState

# Initial half-lives of the heads, in time points: in fMRI from a few volumes to several minutes.
_SHORTEST_HALF_LIFE, _LONGEST_HALF_LIFE = 8.0, 512.0
# Scale of the last layer's initial weights before training, relative to weights that preserve lengths.
_LAST_LAYER_SCALE = 0.05


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


class NeuralMemory(Pretrained):
    """A Titans memory with its projections, gates and output (Behrouz et al. 2025, section 4.4).

    Causal by token, and so by time point. Departures from the paper: the convolutions run over time points (see
    `CausalProjection`); the step size is bounded so that no chunk can overshoot, ``theta = max_step sigmoid(.)
    (1 - eta) / (2 C)`` with ``C`` tokens per chunk, since the gradients at one reference add up; the error that is
    written is clamped.

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
        `dim` can't be divided among the heads, or an unknown argument.
    """

    config_class = NeuralMemoryConfig

    def __init__(self, config: NeuralMemoryConfig, *, dim: int, tokens_per_time_point: int = 1) -> None:
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
        # An untrained memory starts almost empty: its output is what was written into it, not its initial weights.
        self.initial_weights[-1].data.mul_(_LAST_LAYER_SCALE)
        self.gates = nn.Linear(dim, 3 * config.n_heads)
        self.norm = RMSNorm(head_dim)
        self.output_gate = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim)
        self._init_gates()

    def _init_gates(self) -> None:
        """Space the heads' half-lives evenly on a log scale, and let all gates depend little on the token at first."""
        n_heads = self.config.n_heads
        half_lives = torch.logspace(math.log10(_SHORTEST_HALF_LIFE), math.log10(_LONGEST_HALF_LIFE), n_heads)
        alpha = 1 - 0.5 ** (1 / (half_lives * self.tokens_per_time_point))
        with torch.no_grad():
            self.gates.weight.mul_(0.1)
            self.gates.bias.zero_()
            self.gates.bias[:n_heads] = torch.logit(alpha)

    def constructor_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the constructor beside `config`, as JSON can hold them."""
        return {"dim": self.dim, "tokens_per_time_point": self.tokens_per_time_point}

    def init_state(self, batch_size: int) -> NeuralMemoryState:
        """State before the first time point of `batch_size` streams."""
        return NeuralMemoryState(
            init_state(tuple(self.initial_weights), batch_size),
            self.query.init_state(batch_size),
            self.key_value.init_state(batch_size),
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: NeuralMemoryState | None = None
    ) -> tuple[Float[Tensor, "B T D"], NeuralMemoryState]:
        """Write each token into the memory, then read for it from the memory that contains it.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : NeuralMemoryState, optional
            From the previous call; by default the start of a stream.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : NeuralMemoryState

        Raises
        ------
        MismatchError
            Tokens of another width or type, parts of time points, or a state of another layer or batch size.
        """
        self._check(x)
        state = self.init_state(len(x)) if state is None else state
        self._check_state(state, len(x))
        queries, query_tail = self._queries(x, state.query_tail)
        keys, values, key_value_tail = self._keys_and_values(x, state.key_value_tail)
        outputs, memory = memory_scan(
            queries,
            keys,
            values,
            *self.gate_values(x),
            state.memory,
            chunk_size=self.chunk_size,
            backend=self.config.backend,
            max_delta_norm=self.config.max_delta_norm,
        )
        return self._output(outputs, x), NeuralMemoryState(memory, query_tail, key_value_tail)

    def read(
        self, x: Float[Tensor, "B T D"], memory: MemoryState, query_tail: Float[Tensor, "B K P D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B K P D"]]:
        """Read for each token from one and the same memory, without writing.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        memory : MemoryState
            The memory that is read.
        query_tail : torch.Tensor
            ``(batch, kernel_time_points - 1, tokens_per_time_point, dim)``: time points before `x` that the queries'
            convolution still needs.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        query_tail : torch.Tensor
            For the next call.

        Raises
        ------
        MismatchError
            Tokens of another width or type, parts of time points, or a memory of another layer.
        """
        self._check(x)
        queries, query_tail = self._queries(x, query_tail)
        return self._output(memory_read(queries, memory), x), query_tail

    def read_frozen(
        self, x: Float[Tensor, "B T D"], state: NeuralMemoryState
    ) -> tuple[Float[Tensor, "B T D"], NeuralMemoryState]:
        """Do as `forward` without writing: the memory stays as it is, while the convolutions follow the stream.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : NeuralMemoryState
            From the previous call.

        Returns
        -------
        y : torch.Tensor
            ``(batch, tokens, dim)``.
        state : NeuralMemoryState
        """
        y, query_tail = self.read(x, state.memory, state.query_tail)
        _, key_value_tail = self.key_value(x, state.key_value_tail)
        return y, NeuralMemoryState(state.memory, query_tail, key_value_tail)

    def surprise(self, x: Float[Tensor, "B T D"], state: NeuralMemoryState) -> Float[Tensor, "B time_points"]:
        """Norm of the gradient that `forward` would write, over all heads and all tokens of a time point.

        Nothing is written. All gradients of a chunk are taken at the weights before it (equation 16), so the tokens may
        not reach beyond the open chunk.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : NeuralMemoryState
            From the previous call.

        Returns
        -------
        torch.Tensor
            ``(batch, time_points)``, at least 0. The clamp ``max_delta_norm`` is not applied.

        Raises
        ------
        MismatchError
            Tokens that don't fit, or that reach beyond the open chunk.
        """
        self._check(x)
        self._check_state(state, len(x))
        if state.memory.position + x.shape[1] > self.chunk_size:
            raise MismatchError(
                f"x: {x.shape[1]} tokens reach beyond the chunk of {self.chunk_size}, {state.memory.position} of which "
                "are written.",
                "Stream the model in blocks that divide its chunks.",
            )
        keys, values, _ = self._keys_and_values(x, state.key_value_tail)
        squares = memory_surprise(keys, values, state.memory.reference).square().sum(dim=1)
        return squares.view(len(x), -1, self.tokens_per_time_point).sum(dim=2).sqrt()

    def gate_values(self, x: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Gates of forgetting, momentum and step size (``alpha, eta, theta``), ``(batch, heads, tokens)`` each."""
        alpha, eta, theta = torch.sigmoid(self.gates(x)).mT.chunk(3, dim=1)
        eta = self.config.max_momentum * eta
        # Through the momentum a gradient is applied 1 / (1 - eta) times, and it is twice the error.
        return alpha, eta, self.config.max_step / (2 * self.chunk_size) * theta * (1 - eta)

    def _check(self, x: Tensor) -> None:
        check_tokens(
            "x",
            x,
            dim=self.dim,
            tokens_per_time_point=self.tokens_per_time_point,
            dtype=self.gates.weight.dtype,
        )

    def _check_state(self, state: NeuralMemoryState, batch_size: int) -> None:
        if not isinstance(state, NeuralMemoryState):
            raise MismatchError(f"state: expected a NeuralMemoryState, found {type(state).__name__}.")
        for name, projection in (("query_tail", self.query), ("key_value_tail", self.key_value)):
            n_time_points, width = projection.kernel.shape
            expected = (batch_size, n_time_points - 1, self.tokens_per_time_point, width)
            if (found := tuple(getattr(state, name).shape)) != expected:
                raise MismatchError(
                    f"state.{name}: expected shape {expected}, found {found}.",
                    "Pass the state back to the layer that returned it, with the same number of streams.",
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

    def _output(self, outputs: Tensor, x: Tensor) -> Tensor:
        normalized = self.norm(outputs).transpose(1, 2).flatten(2)
        projected: Tensor = self.output(normalized * F.silu(self.output_gate(x)))
        return projected


def _unit(x: Tensor) -> Tensor:
    """Normalize vectors to length 1; one near 0 stays short, since its direction would be noise."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6)
