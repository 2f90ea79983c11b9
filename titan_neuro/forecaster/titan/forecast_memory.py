"""A memory that learns, at test time, to forecast: what all write rules share, and the exact one."""

from __future__ import annotations

import abc
import copy
import dataclasses
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord
from titan_neuro.linear.online_ridge import OnlineRidge, OnlineState
from titan_neuro.titans.stream_state import StreamState

AnyMemoryState = TypeVar("AnyMemoryState", bound=StreamState)
# Not `Self`: beartype, which checks shapes in the tests, supports it in decorated classes only.
AnyMemory = TypeVar("AnyMemory", bound="ForecastMemory[Any]")


@dataclasses.dataclass(frozen=True, eq=False)
class ForecastMemoryFit(FitRecord):
    """What is fitted of a :class:`ForecastMemory`.

    Attributes
    ----------
    key_map : torch.Tensor
        ``(horizons, key width, features)``.
    reliability : torch.Tensor
        ``(horizons, value width)``, 0 to 1.
    """

    key_map: Tensor
    reliability: Tensor


class ForecastMemory(nn.Module, abc.ABC, Generic[AnyMemoryState]):
    """Learn at test time what follows, ``h`` time points later, from the features of a time point.

    One associative memory for each horizon. As in Titans (Behrouz et al. 2025, equation 12) it reduces
    ``||M(k) - v||^2`` while the stream runs, with one difference: the key of horizon ``h`` waits ``h`` time points for
    its value, so that this loss is the error of a forecast. The query of a time point is its key: the memory returns
    what has followed such features in *this* recording so far. It holds how the subject deviates from the subjects of
    the training runs. Its cost per time point and its state do not grow.

    How a pair is written is a subclass's: :class:`ExactForecastMemory`, or one gradient step a time point,
    :class:`titan_neuro.forecaster.titan.titans_memory.TitansForecastMemory`.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points.
    n_features : int
        Key features of a time point at each horizon.
    key_width, value_width : int
        Width of keys and errors.

    Attributes
    ----------
    key_map : torch.Tensor
        ``(horizons, key width, features)``: from key features to keys; fitted, not trained.
    reliability : torch.nn.Parameter
        ``(horizons, value width)``: shrinkage weight by which the output is multiplied; 0 where nothing can be learned
        and the output is noise.
    is_empty_at_first : bool
        Whether the memory returns 0 until a pair is written.
    """

    is_empty_at_first: ClassVar[bool]
    key_map: Tensor

    def __init__(self, *, horizons: tuple[int, ...], n_features: int, key_width: int, value_width: int) -> None:
        super().__init__()
        self.horizons = horizons
        self.register_buffer("key_map", torch.zeros(len(horizons), key_width, n_features))
        self.reliability = nn.Parameter(torch.ones(len(horizons), value_width))

    def load(self, fit: ForecastMemoryFit) -> None:
        """Load what was fitted."""
        self.key_map.copy_(fit.key_map)
        with torch.no_grad():
            self.reliability.copy_(fit.reliability)

    def _keys(self, features: Tensor) -> Tensor:
        """Keys of the time points, which are their queries, too: ``(batch, horizons, time, key width)``."""
        return torch.einsum("btkf,kdf->bktd", features, self.key_map)

    def for_short_streams(self: AnyMemory, n_time_points: int) -> AnyMemory:
        """Return the memory in the form that costs least for streams of so many time points; it shares the fit."""
        return self

    @abc.abstractmethod
    def init_state(self, batch_size: int) -> AnyMemoryState:
        """State before the first time point."""

    def forward(
        self,
        features: Float[Tensor, "B T K F"],
        errors: Float[Tensor, "B T K D"],
        state: AnyMemoryState,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], AnyMemoryState]:
        """Learn from the errors at each time point, then forecast from it.

        Parameters
        ----------
        features : torch.Tensor
            Key features of each time point, ``(batch, time, horizons, features)``.
        errors : torch.Tensor
            ``(batch, time, horizons, value width)``: at each time point the errors of the other parts' forecasts of it,
            made `horizons` time points earlier.
        state : StreamState
            From the call before, or :meth:`init_state`.
        frozen : bool
            Whether to read without writing: values that arrive meanwhile are never written.

        Returns
        -------
        corrections : torch.Tensor
            Expected errors of the forecasts made at each time point, ``(batch, time, horizons, value width)``.
        state : StreamState
        """
        read, state = self.learn(features, errors, state, frozen=frozen)
        return read * self.reliability, state

    @abc.abstractmethod
    def learn(
        self,
        features: Float[Tensor, "B T K F"],
        errors: Float[Tensor, "B T K D"],
        state: AnyMemoryState,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], AnyMemoryState]:
        """Do as :meth:`forward`; return what is read before it is multiplied by the reliability."""

    @abc.abstractmethod
    def content(self, state: AnyMemoryState) -> Float[Tensor, "B K *"]:
        """Weights of the memory of each horizon, ``(batch, horizons, ...)``: all that was learned from the stream."""

    @abc.abstractmethod
    def learn_and_record(
        self, features: Float[Tensor, "B T K F"], errors: Float[Tensor, "B T K D"], state: AnyMemoryState
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B T"], AnyMemoryState]:
        """Do as :meth:`learn`, and record the surprise: the norm of the gradient of the loss at each pair that arrives.

        ``2 ||M(k) - v|| ||k||`` for each horizon, root of the sum of squares, ``M`` being what the rule takes the
        gradient at.

        Parameters
        ----------
        features, errors, state
            As for `forward`.

        Returns
        -------
        read : torch.Tensor
            As :meth:`learn` returns it.
        surprise : torch.Tensor
            ``(batch, time)``, at least 0.
        state : StreamState
        """


@dataclasses.dataclass(frozen=True)
class ExactMemoryState(StreamState):
    """What the exact memory carries from one call to the next: an :class:`OnlineState`, one group a horizon.

    Attributes
    ----------
    position : int
        Time points since the last block was merged.
    inverse : torch.Tensor
        ``(batch, horizons, key width, key width)``.
    weights : torch.Tensor
        Content of the memory but for the last time points, ``(batch, horizons, key width, value width)``.
    keys, gain, merged, errors : torch.Tensor
        Of the last time points, ``(batch, horizons, time, key width)``, ``(batch, horizons, key width, time)``,
        ``(batch, horizons, time, value width)`` and ``(batch, time, horizons, value width)``.
    """

    position: int
    inverse: Float[Tensor, "batch ..."]
    weights: Float[Tensor, "batch ..."]
    keys: Float[Tensor, "batch ..."]
    gain: Float[Tensor, "batch ..."]
    merged: Float[Tensor, "batch ..."]
    errors: Float[Tensor, "batch ..."]

    @classmethod
    def of(cls, state: OnlineState) -> ExactMemoryState:
        """Wrap the state of the regression, so that it can be moved, joined and saved as all states can."""
        fields = (state.inverse, state.weights, state.predictors, state.gain, state.merged, state.errors)
        return cls(state.position, *fields)

    @property
    def regression(self) -> OnlineState:
        """The state of the regression."""
        fields = (self.inverse, self.weights, self.keys, self.gain, self.merged, self.errors)
        return OnlineState(self.position, *fields)


class ExactForecastMemory(ForecastMemory[ExactMemoryState]):
    """A memory that holds at each time point the exact minimum over all pairs so far.

    Where Titans takes one gradient step a token, it minimizes the sum of all losses plus ``||M||^2``: recursive least
    squares, a gradient step preconditioned by the inverse covariance of the keys. Prior knowledge is in the length of
    the keys: a long part of a key is trusted after few time points. The memory starts at 0.

    Parameters
    ----------
    horizons, n_features, key_width, value_width
        As for :class:`ForecastMemory`.
    chunk_time_points : int
        Time points whose pairs are merged at once; changes the cost alone. Streams can be restarted between chunks.
    """

    is_empty_at_first = True

    def __init__(
        self, *, horizons: tuple[int, ...], n_features: int, key_width: int, value_width: int, chunk_time_points: int
    ) -> None:
        super().__init__(horizons=horizons, n_features=n_features, key_width=key_width, value_width=value_width)
        self._regression = self._regression_with(chunk_time_points)

    def _regression_with(self, block_time_points: int | None) -> OnlineRidge:
        penalties = (1.0,) * len(self.horizons)
        return OnlineRidge(
            self.horizons,
            penalties,
            block_time_points=block_time_points,
            are_predictors_shared=False,
            is_inverse_double=False,
        )

    def for_short_streams(self, n_time_points: int) -> ExactForecastMemory:
        """Return a memory that never merges its pairs, if keys have as many dimensions as streams time points, or more.

        See :meth:`ForecastMemory.for_short_streams`.
        """
        if n_time_points > self.key_map.shape[1]:
            return self
        other = copy.copy(self)
        other._regression = self._regression_with(None)
        return other

    def init_state(self, batch_size: int) -> ExactMemoryState:
        """State before the first time point."""
        sizes = self.key_map.shape[1], self.reliability.shape[1]
        state = self._regression.init_state(*sizes, batch_size, self.key_map.dtype)
        return ExactMemoryState.of(state).to(self.key_map.device)

    def learn(
        self,
        features: Float[Tensor, "B T K F"],
        errors: Float[Tensor, "B T K D"],
        state: ExactMemoryState,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], ExactMemoryState]:
        """Learn and read; see :meth:`ForecastMemory.learn`."""
        # What is written is no parameter: nothing is learned through it.
        with torch.no_grad():
            keys, before = self._keys(features), state.regression
            if frozen:
                corrections = self._regression.read(keys, before)
                keys, before = self._forget_due(keys, before)
            learned, _, after = self._regression.step(keys, errors, before)
        return (corrections if frozen else learned).to(features), ExactMemoryState.of(after)

    def content(self, state: ExactMemoryState) -> Tensor:
        """Weights of all pairs that are complete, ``(batch, horizons, key width, value width)``."""
        return self._regression.weights(state.regression)

    @torch.no_grad()
    def learn_and_record(
        self, features: Float[Tensor, "B T K F"], errors: Float[Tensor, "B T K D"], state: ExactMemoryState
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B T"], ExactMemoryState]:
        """Gradients are those at the memory before each pair; see :meth:`ForecastMemory.learn_and_record`."""
        keys = self._keys(features)
        learned, surprises, after = self._regression.step(keys, errors, state.regression)
        n_held, n_new = state.keys.shape[2], keys.shape[2]
        held = torch.cat([state.keys, keys], dim=2).norm(dim=-1)
        lengths = [
            held[:, index, n_held - horizon : n_held - horizon + n_new] for index, horizon in enumerate(self.horizons)
        ]
        norms = 2 * surprises.norm(dim=-1) * torch.stack(lengths, dim=2)
        return learned.to(features), norms.square().sum(dim=2).sqrt(), ExactMemoryState.of(after)

    def _forget_due(self, keys: Tensor, state: OnlineState) -> tuple[Tensor, OnlineState]:
        """Set those keys to 0 whose values arrive now: a pair with such a key teaches nothing."""
        n_held, n_new = state.predictors.shape[2], keys.shape[2]
        joined, gain = torch.cat([state.predictors, keys], dim=2), state.gain.clone()
        for index, horizon in enumerate(self.horizons):
            due = slice(n_held - horizon, n_held - horizon + n_new)
            joined[:, index, due] = 0
            gain[:, index, :, due] = 0
        return joined[:, :, n_held:], dataclasses.replace(state, predictors=joined[:, :, :n_held], gain=gain)
