"""A Titans memory that learns, at test time, to forecast."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster.recall.fitted import FitRecord
from titan_neuro.linear.lead_time import wait_for_targets
from titan_neuro.titans.memory import MemoryState, init_state, memory_read, memory_scan, memory_surprise
from titan_neuro.titans.stream_state import StreamState

# A chunk of equal keys of length 1 removes at most this fraction of the error at that key.
_MAX_STEP = 1.5
_MAX_MOMENTUM = 0.9
# Initial step size, as a fraction of the largest, and momentum; the fit chooses another step size.
_FIRST_STEP = 0.1
_FIRST_MOMENTUM = 0.05
# Length of the part of keys that is made from the backbone's output, before training.
_FIRST_CONTEXT = 0.1


@dataclasses.dataclass(frozen=True)
class ForecastMemoryState(StreamState):
    """What the layer carries from one call to the next.

    Attributes
    ----------
    memory : MemoryState
        One head a horizon.
    pending : torch.Tensor
        Keys of the last time points, whose values have not arrived, ``(batch, longest horizon, horizons, key width)``.
    """

    memory: MemoryState
    pending: Float[Tensor, "batch ..."]


@dataclasses.dataclass(frozen=True, eq=False)
class ForecastMemoryFit(FitRecord):
    """What is fitted of a :class:`ForecastMemory`.

    Attributes
    ----------
    key_map : torch.Tensor
        ``(horizons, key width, features)``.
    reliability : torch.Tensor
        ``(horizons, value width)``, 0 to 1.
    step_size, forgetting : torch.Tensor
        float64 ``(horizons,)``: step size in (0, `largest_step`), and forgetting in (0, 1).
    """

    key_map: Tensor
    reliability: Tensor
    step_size: Tensor
    forgetting: Tensor


class ForecastMemory(nn.Module):
    """Learn at test time what follows, ``h`` time points later, from the features of a time point.

    One head of a Titans memory (Behrouz et al. 2025, equations 12 to 16) for each horizon. Where the paper takes key
    and value from one token, the key of horizon ``h`` waits ``h`` time points for its value, so that the loss whose
    gradient is the surprise, ``||M(k_(t-h)) - v_t||^2``, is the error of a forecast. The query of time point ``t`` is
    its key: the memory returns what has followed such features in *this* recording so far. It starts at 0 (training may
    learn another start) and holds how the subject deviates from the subjects of the training runs.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points, ascending.
    n_features : int
        Key features of a time point at each horizon.
    key_width, value_width : int
        Width of the part of a key that is made from the key features, and width of errors.
    context_width, context_key_width : int
        Width of the backbone's output, from which the gates are computed, and of the part of a key that is made from
        it.
    chunk_time_points : int
        Time points of a chunk.

    Attributes
    ----------
    key_map : torch.Tensor
        ``(horizons, key width, features)``: from key features to keys; fitted, not trained.
    key_scale : torch.nn.Parameter
        ``(horizons, key width)``: scale of each dimension of the keys. Keys longer than 1 are scaled to length 1.
    context_map : torch.nn.Parameter
        ``(horizons, context key width, context width)``: from the backbone's output to keys.
    initial_weights : torch.nn.Parameter
        ``(horizons, value width, key width + context key width)``: content before the first time point.
    gates : torch.nn.Linear
        From the backbone's output to forgetting, momentum and step size of each horizon.
    reliability : torch.nn.Parameter
        ``(horizons, value width)``: shrinkage weight by which the output is multiplied; 0 where nothing can be learned
        and the output is noise.
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
        # Small at first: the output of an untrained backbone is noise in the keys.
        spread = _FIRST_CONTEXT / (context_width * context_key_width) ** 0.5
        self.context_map = nn.Parameter(spread * torch.randn(n_horizons, context_key_width, context_width))
        self.initial_weights = nn.Parameter(torch.zeros(n_horizons, value_width, key_width + context_key_width))
        self.reliability = nn.Parameter(torch.ones(n_horizons, value_width))
        self.gates = nn.Linear(context_width, 3 * n_horizons)
        nn.init.zeros_(self.gates.weight)
        first = torch.tensor([1e-3, _FIRST_MOMENTUM / _MAX_MOMENTUM, _FIRST_STEP])
        with torch.no_grad():
            self.gates.bias.copy_(torch.logit(first).repeat_interleave(n_horizons))

    @property
    def largest_step(self) -> float:
        """Upper bound of the step size; see :func:`largest_step_size`."""
        return largest_step_size(self.chunk_time_points)

    def load(self, fit: ForecastMemoryFit) -> None:
        """Load what was fitted: key map, reliability, and the gates' biases. Other parameters stay as they are."""
        self.key_map.copy_(fit.key_map)
        with torch.no_grad():
            self.reliability.copy_(fit.reliability)
        for index, (step_size, forgetting) in enumerate(
            zip(fit.step_size.tolist(), fit.forgetting.tolist(), strict=True)
        ):
            self.set_step(index, step_size, forgetting)

    def set_step(self, index: int, step_size: float, forgetting: float) -> None:
        """Set the gates of one horizon: step size in (0, `largest_step`), forgetting in (0, 1)."""
        n_horizons = len(self.horizons)
        fraction = step_size / self.largest_step
        with torch.no_grad():
            self.gates.bias[index] = math.log(forgetting / (1 - forgetting))
            self.gates.bias[2 * n_horizons + index] = math.log(fraction / (1 - fraction))

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
        """Learn from the errors at each time point, then forecast from it.

        Parameters
        ----------
        features : torch.Tensor
            Key features of each time point, ``(batch, time, horizons, features)``.
        errors : torch.Tensor
            ``(batch, time, horizons, value width)``: at each time point the errors of the other parts' forecasts of it,
            made `horizons` time points earlier.
        context : torch.Tensor
            The backbone's output, ``(batch, time, context width)``.
        state : ForecastMemoryState
        frozen : bool
            Whether to read without writing.

        Returns
        -------
        corrections : torch.Tensor
            Expected errors of the forecasts made at each time point, ``(batch, time, horizons, value width)``.
        state : ForecastMemoryState
        """
        queries, keys, pending = self._queries_and_keys(features, context, state.pending)
        if frozen:
            read = memory_read(queries.transpose(1, 2), state.memory)
            return read.transpose(1, 2) * self.reliability, ForecastMemoryState(state.memory, pending)
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
        return read.transpose(1, 2) * self.reliability, ForecastMemoryState(memory, pending)

    def surprise(
        self,
        features: Float[Tensor, "B T K F"],
        errors: Float[Tensor, "B T K D"],
        context: Float[Tensor, "B T C"],
        state: ForecastMemoryState,
    ) -> Float[Tensor, "B T"]:
        """Norm of the gradient that `forward` would write at each time point, over all horizons; nothing is written.

        ``2 ||M k - v|| ||k||`` for each horizon, root of the sum of squares.

        Parameters
        ----------
        features, errors, context, state
            As for `forward`, but no further than the end of the current chunk: all its gradients are taken at the
            weights before it (equation 16).

        Returns
        -------
        torch.Tensor
            ``(batch, time)``, at least 0.

        Raises
        ------
        MismatchError
            Time points beyond the end of the chunk.
        """
        if state.memory.position + features.shape[1] > self.chunk_time_points:
            raise MismatchError(
                f"features: {features.shape[1]} time points reach beyond the chunk of {self.chunk_time_points}, "
                f"{state.memory.position} of which are written.",
                "Stream the model in blocks that divide its chunks.",
            )
        _, keys, _ = self._queries_and_keys(features, context, state.pending)
        return memory_surprise(keys, errors.transpose(1, 2), state.memory.reference).square().sum(dim=1).sqrt()

    def _queries_and_keys(self, features: Tensor, context: Tensor, pending: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(batch, time, horizons, width)``, keys ``(batch, horizons, time, width)``, and pending keys."""
        from_features = torch.einsum("btkf,kdf->btkd", features, self.key_map) * self.key_scale
        from_context = torch.einsum("btc,kdc->btkd", context, self.context_map)
        queries = _at_most_unit(torch.cat([from_features, from_context], dim=-1))
        keys, pending = wait_for_targets(pending, queries, self.horizons, dim=1)
        return queries, keys.transpose(1, 2), pending


def largest_step_size(chunk_time_points: int) -> float:
    """Step size above which a chunk of equal keys of length 1 would overshoot, at momentum 0."""
    return _MAX_STEP / (2 * chunk_time_points)


def _at_most_unit(x: Tensor) -> Tensor:
    # Step sizes are bounded for keys of length 1. Shorter keys stay: their length is their weight.
    return x / F.relu(x.norm(dim=-1, keepdim=True) - 1).add(1)
