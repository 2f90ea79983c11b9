"""A Titans memory that learns, at test time, to forecast."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.errors import MismatchError
from titan_neuro.titans.memory import MemoryState, init_state, memory_read, memory_scan, memory_surprise
from titan_neuro.titans.stream_state import StreamState

# A chunk of equal keys of length 1 would undo at most this share of the error at that key.
_MAX_STEP = 1.5
_MAX_MOMENTUM = 0.9
# What a step begins with where `fit` has not chosen one, as a share of the largest.
_FIRST_STEP = 0.1
_FIRST_MOMENTUM = 0.05
# Length of what keys have of the backbone's output before training.
_FIRST_CONTEXT = 0.1


@dataclasses.dataclass(frozen=True)
class ForecastMemoryState(StreamState):
    """What the layer carries from one call to the next.

    Attributes
    ----------
    memory : MemoryState
        One head a horizon.
    pending : torch.Tensor
        Keys of the last time points, ``(batch, longest horizon, horizons, key width)``: their outcomes are still to
        come.
    """

    memory: MemoryState
    pending: Float[Tensor, "batch ..."]


class ForecastMemory(nn.Module):
    """What is known at a time point is the key; what came of it, ``h`` time points later, is the value.

    One head of a Titans memory (Behrouz et al. 2025, equations 12 to 16) for each horizon. Where the paper takes key
    and value from one token, the key of horizon ``h`` waits ``h`` time points for its value, so that the loss whose
    gradient is the surprise, ``||M(k_(t-h)) - v_t||^2``, is the error of a forecast. The query of time point ``t`` is
    its key: what is read is what such a moment has led to in *this* recording so far. The memory starts at 0 (gradients
    may give it another start) and holds what the subject does otherwise than the subjects of the training.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    n_features : int
        Numbers that describe a time point at each horizon.
    key_width, value_width : int
        Width of what keys have of the features, and width of errors.
    context_width, context_key_width : int
        Width of the backbone's output, which moves the gates, and of what keys have of it.
    chunk_time_points : int
        Time points of a chunk.

    Attributes
    ----------
    key_map : torch.Tensor
        ``(horizons, key width, features)``: what keys are made of; fitted, not trained.
    key_scale : torch.nn.Parameter
        ``(horizons, key width)``: how much each part counts. Keys are cut to length 1.
    context_map : torch.nn.Parameter
        ``(horizons, context key width, context width)``.
    initial_weights : torch.nn.Parameter
        ``(horizons, value width, key width + context key width)``: what the memory holds before the first time point.
    gates : torch.nn.Linear
        From the context to forgetting, momentum and step of each horizon.
    gain : torch.nn.Parameter
        ``(horizons, value width)``: how much of what is read is believed. Where nothing can be learned, what is read is
        noise.
    """

    key_map: Tensor

    def __init__(
        self,
        *,
        horizons: tuple[int, ...],
        n_features: int,
        key_width: int,
        value_width: int,
        context_width: int,
        context_key_width: int,
        chunk_time_points: int,
    ) -> None:
        super().__init__()
        self.horizons, self.chunk_time_points = horizons, chunk_time_points
        n_horizons = len(horizons)
        self.register_buffer("key_map", torch.zeros(n_horizons, key_width, n_features))
        self.key_scale = nn.Parameter(torch.ones(n_horizons, key_width))
        # Little at first: the backbone says nothing yet, and what it says in keys is noise.
        spread = _FIRST_CONTEXT / (context_width * context_key_width) ** 0.5
        self.context_map = nn.Parameter(spread * torch.randn(n_horizons, context_key_width, context_width))
        self.initial_weights = nn.Parameter(torch.zeros(n_horizons, value_width, key_width + context_key_width))
        self.gain = nn.Parameter(torch.ones(n_horizons, value_width))
        self.gates = nn.Linear(context_width, 3 * n_horizons)
        nn.init.zeros_(self.gates.weight)
        first = torch.tensor([1e-3, _FIRST_MOMENTUM / _MAX_MOMENTUM, _FIRST_STEP])
        with torch.no_grad():
            self.gates.bias.copy_(torch.logit(first).repeat_interleave(n_horizons))

    @property
    def largest_step(self) -> float:
        """Step size above which a chunk of equal keys would overshoot, at momentum 0."""
        return _MAX_STEP / (2 * self.chunk_time_points)

    def set_step(self, horizon: int, step: float, forgetting: float) -> None:
        """Set the gates of one horizon, by its index: step size in (0, `largest_step`), forgetting in (0, 1)."""
        n_horizons = len(self.horizons)
        # What momentum adds to a step is taken from it.
        with torch.no_grad():
            self.gates.bias[horizon] = math.log(forgetting / (1 - forgetting))
            share = step / self.largest_step
            self.gates.bias[2 * n_horizons + horizon] = math.log(share / (1 - share))

    def init_state(self, batch_size: int) -> ForecastMemoryState:
        """State before the first time point."""
        memory = init_state((self.initial_weights,), batch_size)
        n_horizons, _, key_width = self.initial_weights.shape
        pending = self.key_map.new_zeros(batch_size, max(self.horizons), n_horizons, key_width)
        return ForecastMemoryState(memory, pending)

    def forward(
        self,
        features: Float[Tensor, "B T K F"],
        errors: Float[Tensor, "B T K D"],
        context: Float[Tensor, "B T C"],
        state: ForecastMemoryState,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], ForecastMemoryState]:
        """Write what each time point has shown, then read for it.

        Parameters
        ----------
        features : torch.Tensor
            What is known at each time point, ``(batch, time, horizons, features)``.
        errors : torch.Tensor
            ``(batch, time, horizons, value width)``: what the time point has shown beyond the other parts' forecasts of
            it, made `horizons` time points ago.
        context : torch.Tensor
            What moves the gates, ``(batch, time, context width)``.
        state : ForecastMemoryState
        frozen : bool
            Read, and write nothing.

        Returns
        -------
        corrections : torch.Tensor
            Expected errors of the forecasts made now, ``(batch, time, horizons, value width)``.
        state : ForecastMemoryState
        """
        queries, keys, pending = self._queries_and_keys(features, context, state.pending)
        if frozen:
            read = memory_read(queries.transpose(1, 2), state.memory)
            return read.transpose(1, 2) * self.gain, ForecastMemoryState(state.memory, pending)
        alpha, eta, theta = torch.sigmoid(self.gates(context)).mT.chunk(3, dim=1)
        eta = _MAX_MOMENTUM * eta
        read, memory = memory_scan(
            queries.transpose(1, 2),
            keys,
            errors.transpose(1, 2),
            alpha,
            eta,
            self.largest_step * theta * (1 - eta),
            state.memory,
            chunk_size=self.chunk_time_points,
        )
        return read.transpose(1, 2) * self.gain, ForecastMemoryState(memory, pending)

    def surprise(
        self,
        features: Float[Tensor, "B T K F"],
        errors: Float[Tensor, "B T K D"],
        context: Float[Tensor, "B T C"],
        state: ForecastMemoryState,
    ) -> Float[Tensor, "B T"]:
        """Norm of the gradient that `forward` would write at each time point, over all horizons, writing nothing.

        ``2 ||M k - v|| ||k||`` for each horizon, root of the sum of squares.

        Parameters
        ----------
        features, errors, context, state
            As `forward` has them, but no further than to the end of the open chunk: at its first weights all its
            gradients are taken (equation 16).

        Returns
        -------
        torch.Tensor
            ``(batch, time)``, at least 0.

        Raises
        ------
        MismatchError
            Time points that reach beyond the chunk.
        """
        if state.memory.position + features.shape[1] > self.chunk_time_points:
            raise MismatchError(
                f"features: {features.shape[1]} time points reach beyond the chunk of {self.chunk_time_points}, of which "
                f"{state.memory.position} are written.",
                "Stream the model in blocks that divide its chunks.",
            )
        _, keys, _ = self._queries_and_keys(features, context, state.pending)
        return memory_surprise(keys, errors.transpose(1, 2), state.memory.reference).square().sum(dim=1).sqrt()

    def _queries_and_keys(self, features: Tensor, context: Tensor, pending: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(batch, time, horizons, width)``, keys by head, and keys that wait for their outcomes."""
        known = torch.einsum("btkf,kdf->btkd", features, self.key_map) * self.key_scale
        told = torch.einsum("btc,kdc->btkd", context, self.context_map)
        queries = _at_most_unit(torch.cat([known, told], dim=-1))
        waited = torch.cat([pending, queries], dim=1)
        n_time_points, longest = queries.shape[1], max(self.horizons)
        keys = [waited[:, longest - h : longest - h + n_time_points, index] for index, h in enumerate(self.horizons)]
        return queries, torch.stack(keys, dim=1), waited[:, n_time_points:]


def _at_most_unit(x: Tensor) -> Tensor:
    # The steps are bounded for keys of length 1; shorter ones stay as they are, their length being their weight.
    return x / F.relu(x.norm(dim=-1, keepdim=True) - 1).add(1)
