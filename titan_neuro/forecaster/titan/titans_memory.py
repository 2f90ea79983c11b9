"""The forecast memory by the write rule of Titans: one gradient step for each pair of key and error."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster.titan.config import TitansRuleConfig
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemory, ForecastMemoryFit
from titan_neuro.linear.lead_time import wait_for_targets
from titan_neuro.titans.memory import MemoryState, init_state, memory_read, memory_scan, memory_surprise
from titan_neuro.titans.memory.tokens import Tokens, cut_at_chunks
from titan_neuro.titans.stream_state import StreamState

# Hidden layers of a deep memory hold each direction of the key with both signs.
_SIGNS = 2
# Forgetting, and fractions of the bounds of momentum and step, of a memory that is not fitted.
_UNFITTED_GATES = (1e-3, 0.5, 0.5)


@dataclasses.dataclass(frozen=True, eq=False)
class TitansMemoryFit(ForecastMemoryFit):
    """What is fitted of a :class:`TitansForecastMemory`.

    Attributes
    ----------
    error_scale : torch.Tensor
        ``(horizons,)``: typical norm of an error.
    gates : torch.Tensor
        ``(3, horizons)``: forgetting, momentum and step before the sigmoid.
    initial_weights : torch.Tensor
        ``(horizons, weights)``: of all layers, one after the other.
    """

    error_scale: Tensor
    gates: Tensor
    initial_weights: Tensor


@dataclasses.dataclass(frozen=True)
class TitansMemoryState(StreamState):
    """What the layer carries from one call to the next.

    Attributes
    ----------
    memory : MemoryState
        One head a horizon.
    waiting : torch.Tensor
        Keys whose errors have not arrived, ``(batch, longest horizon, horizons, key width)``.
    """

    memory: MemoryState
    waiting: Float[Tensor, "batch ..."]


class TitansForecastMemory(ForecastMemory[TitansMemoryState]):
    """A memory that takes one gradient step for each pair, as Titans does: `memory_scan` with one head a horizon.

    At each time point the key of ``h`` time points ago meets its error; the pair is written, then the key of the time
    point is read. Gates of forgetting, momentum and step are one number each for each horizon. The step is bounded as
    in `NeuralMemory`: no chunk of ``C`` pairs can overshoot, ``theta = step (1 - eta) / (2 (1 + C ||k||^2))``. That is
    the gain of recursive least squares where the covariance of the keys is known; their map holds its inverse root (see
    :func:`titan_neuro.forecaster.fit.titans_memory.fit_titans_memory`). Errors are written in units of their typical
    norm, so that the clamp means the same in all data.

    Nothing of it is trained with the rest of the model, except for the reliability: on the few people of a study,
    training overfits keys and gates. They are meta-trained in the fit.

    Parameters
    ----------
    config : TitansRuleConfig
    horizons, n_features, value_width
        As for :class:`ForecastMemory`.
    chunk_time_points : int
        Pairs whose gradients are taken at the same weights.

    Attributes
    ----------
    error_scale, gates, initial_weights : torch.Tensor
        See :class:`TitansMemoryFit`.
    """

    # The weights that it starts with are meta-trained.
    is_empty_at_first = False
    error_scale: Tensor
    gates: Tensor
    initial_weights: Tensor

    def __init__(
        self,
        config: TitansRuleConfig,
        *,
        horizons: tuple[int, ...],
        n_features: int,
        value_width: int,
        chunk_time_points: int,
    ) -> None:
        key_width = min(config.key_width, n_features)
        super().__init__(horizons=horizons, n_features=n_features, key_width=key_width, value_width=value_width)
        self.config, self.chunk_time_points = config, chunk_time_points
        self._widths = [key_width] + [_SIGNS * key_width] * (config.depth - 1) + [value_width]
        self.register_buffer("error_scale", torch.ones(len(horizons)))
        gates = torch.logit(torch.tensor(_UNFITTED_GATES))
        self.register_buffer("gates", gates[:, None].repeat(1, len(horizons)))
        self.register_buffer("initial_weights", self._empty_weights().expand(len(horizons), -1).clone())

    def _empty_weights(self) -> Tensor:
        """Weights of a memory that returns 0, ``(weights,)``.

        The first layers pass the key on, once with each sign: of SiLUs of both, the last layer can make the key itself.
        """
        key_width = self._widths[0]
        layers = [torch.eye(d_in) for d_in in self._widths[1:-1]]
        if layers:
            layers[0] = torch.cat([torch.eye(key_width), -torch.eye(key_width)])
        return torch.cat([*(layer.flatten() for layer in layers), torch.zeros(self._widths[-2] * self._widths[-1])])

    @torch.no_grad()
    def load(self, fit: ForecastMemoryFit) -> None:
        """Load what was fitted.

        Raises
        ------
        MismatchError
            The fit is of another write rule or depth.
        """
        expected = tuple(self.initial_weights.shape)
        found = tuple(fit.initial_weights.shape) if isinstance(fit, TitansMemoryFit) else type(fit).__name__
        if found != expected:
            raise MismatchError(
                f"TitansForecastMemory.load: expected initial weights {expected}, found {found}.",
                "Fit with the same lookahead.rule and lookahead.titans.",
            )
        super().load(fit)
        for name in ("error_scale", "gates", "initial_weights"):
            getattr(self, name).copy_(getattr(fit, name))

    def fitted(self) -> TitansMemoryFit:
        """Return a copy of what :meth:`load` loads."""
        names = [field.name for field in dataclasses.fields(TitansMemoryFit)]
        return TitansMemoryFit(**{name: getattr(self, name).detach().clone() for name in names})

    def init_state(self, batch_size: int) -> TitansMemoryState:
        """State before the first time point."""
        shapes = [(d_out, d_in) for d_in, d_out in itertools.pairwise(self._widths)]
        flat = torch.split(self.initial_weights, [math.prod(shape) for shape in shapes], dim=1)
        layers = [weights.view(-1, *shape) for weights, shape in zip(flat, shapes, strict=True)]
        waiting = self.key_map.new_zeros(batch_size, max(self.horizons), len(self.horizons), self._widths[0])
        return TitansMemoryState(init_state(tuple(layers), batch_size), waiting)

    def learn(
        self,
        features: Float[Tensor, "B T K F"],
        errors: Float[Tensor, "B T K D"],
        state: TitansMemoryState,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], TitansMemoryState]:
        """Learn and read; see :meth:`ForecastMemory.learn`."""
        tokens, waiting = self._tokens(features, errors, state)
        if frozen:
            read, memory = memory_read(tokens.queries, state.memory), state.memory
        else:
            read, memory = self._scan(tokens, state.memory)
        return self._in_units(read), TitansMemoryState(memory, waiting)

    def content(self, state: TitansMemoryState) -> Tensor:
        """Weights of all layers, ``(batch, horizons, weights)``."""
        return torch.cat([layer.flatten(2) for layer in state.memory.weights], dim=2)

    def learn_and_record(
        self, features: Float[Tensor, "B T K F"], errors: Float[Tensor, "B T K D"], state: TitansMemoryState
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B T"], TitansMemoryState]:
        """Gradients are those at the weights before each chunk; see :meth:`ForecastMemory.learn_and_record`."""
        tokens, waiting = self._tokens(features, errors, state)
        memory, squares, reads = state.memory, list[Tensor](), list[Tensor]()
        chunks = cut_at_chunks(tokens.n_tokens, memory.position, self.chunk_time_points)
        for piece in tokens.split([length for n_chunks, length in chunks for _ in range(n_chunks)]):
            norms = memory_surprise(piece.keys, piece.values, memory.reference) * self.error_scale[:, None]
            squares.append(norms.square().sum(dim=1))
            read, memory = self._scan(piece, memory)
            reads.append(read)
        surprise = torch.cat(squares, dim=1).sqrt()
        return self._in_units(torch.cat(reads, dim=2)), surprise, TitansMemoryState(memory, waiting)

    def _in_units(self, read: Tensor) -> Tensor:
        """What is read, ``(batch, horizons, time, width)``, as errors ``(batch, time, horizons, width)``."""
        return read.transpose(1, 2) * self.error_scale[:, None]

    def _tokens(self, features: Tensor, errors: Tensor, state: TitansMemoryState) -> tuple[Tokens, Tensor]:
        """What is written and read at each time point, and the keys that wait afterwards."""
        queries = self._keys(features)
        due, waiting = wait_for_targets(state.waiting, queries.transpose(1, 2), self.horizons, dim=1)
        keys, values = due.transpose(1, 2), (errors / self.error_scale[:, None]).transpose(1, 2)
        alpha, eta, step = (gate[:, None].expand(keys.shape[:3]) for gate in torch.sigmoid(self.gates))
        eta = self.config.max_momentum * eta
        # Through the momentum a gradient is applied 1 / (1 - eta) times, and it is twice the error.
        chunk_length = self.chunk_time_points * keys.square().sum(dim=-1)
        theta = self.config.max_step / 2 * step * (1 - eta) / (1 + chunk_length)
        return Tokens(queries, keys, values, alpha, eta, theta), waiting

    def _scan(self, tokens: Tokens, memory: MemoryState) -> tuple[Tensor, MemoryState]:
        return memory_scan(
            *tokens,
            memory,
            chunk_size=self.chunk_time_points,
            backend=self.config.backend,
            max_delta_norm=self.config.max_delta_norm,
        )
