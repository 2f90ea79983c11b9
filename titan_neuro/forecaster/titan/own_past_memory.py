"""A small memory for each component: how this person's own past tells the next time points, learned at test time."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord, load_buffers
from titan_neuro.forecaster.recall.own_past import OwnPastState
from titan_neuro.linear.lead_time import wait_for_targets
from titan_neuro.linear.refitted_ridge import RefittedRidge, RefittedState
from titan_neuro.linear.running_averages import N_OWN_PREDICTORS
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True, eq=False)
class OwnPastMemoryFit(FitRecord):
    """What is fitted of :class:`OwnPastMemory`; see its attributes."""

    scale: Tensor
    penalties: Tensor
    reliability: Tensor


@dataclasses.dataclass(frozen=True)
class OwnPastMemoryState(StreamState):
    """What is carried from one call to the next.

    Attributes
    ----------
    own_past : OwnPastState
    pending : torch.Tensor
        Forecasts of the last time points by the recall, ``(batch, longest horizon, horizons, width)``.
    position : int
        Time points since the last fit.
    gram, cross, weights, predictors, errors : torch.Tensor
        Of a :class:`titan_neuro.linear.refitted_ridge.RefittedState`, ``(batch, width, ...)``.
    """

    own_past: OwnPastState
    pending: Float[Tensor, "batch ..."]
    position: int
    gram: Float[Tensor, "batch ..."]
    cross: Float[Tensor, "batch ..."]
    weights: Float[Tensor, "batch ..."]
    predictors: Float[Tensor, "batch ..."]
    errors: Float[Tensor, "batch ..."]

    @classmethod
    def of(
        cls, own_past: OwnPastState, pending: Tensor, regression: RefittedState, batch_size: int
    ) -> OwnPastMemoryState:
        """Put together a state, whose tensors have the streams first."""
        fields = (regression.gram, regression.cross, regression.weights, regression.predictors, regression.errors)
        split = (field.reshape(batch_size, -1, *field.shape[1:]) for field in fields)
        return cls(own_past, pending, regression.position, *split)

    @property
    def regression(self) -> RefittedState:
        """The state of the regressions, of all components of all streams."""
        fields = (self.gram, self.cross, self.weights, self.predictors, self.errors)
        return RefittedState(self.position, *(field.flatten(0, 1) for field in fields))


class OwnPastMemory(nn.Module):
    """For each component an associative memory of its own: key, its last time points and slow averages.

    People differ in the autocorrelation of their signals. A memory of a dozen weights learns it from a minute or two,
    before the memory whose keys hold everything at once has seen enough. It learns what the recall misses; what it
    gives is added to the recall, and the other memory learns the rest. New, it gives 0.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points.
    width : int
        Components.

    Attributes
    ----------
    scale : torch.Tensor
        ``(width,)``: 1 / standard deviation of each component.
    penalties : torch.Tensor
        ``(horizons,)``: number of time points after which half of what they tell is trusted.
    reliability : torch.Tensor
        ``(horizons, width)``, 0 to 1: shrinkage weight of the output.
    """

    scale: Tensor
    penalties: Tensor
    reliability: Tensor

    def __init__(self, *, horizons: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.horizons, self.width = horizons, width
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("penalties", torch.ones(len(horizons)))
        self.register_buffer("reliability", torch.zeros(len(horizons), width))

    def load(self, fit: OwnPastMemoryFit) -> None:
        """Load what was fitted."""
        load_buffers(self, fit)

    def init_state(self, batch_size: int) -> OwnPastMemoryState:
        """State before the first time point of `batch_size` streams."""
        pending = self.scale.new_zeros(batch_size, max(self.horizons), len(self.horizons), self.width)
        regression = self._ridge().init_state(batch_size * self.width, N_OWN_PREDICTORS, 1, like=self.scale)
        own_past = OwnPastState.start(self.scale, batch_size, self.width)
        return OwnPastMemoryState.of(own_past, pending, regression, batch_size)

    def forward(
        self,
        series: Float[Tensor, "B T D"],
        errors: Float[Tensor, "B T K D"],
        recalled: Float[Tensor, "B T K D"],
        state: OwnPastMemoryState,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "B T K D"], OwnPastMemoryState]:
        """Learn from what has arrived, then forecast what the recall misses.

        Parameters
        ----------
        series, errors : torch.Tensor
            As :class:`titan_neuro.forecaster.components.Components` returns them.
        recalled : torch.Tensor
            What the recall forecasts at these time points.
        state : OwnPastMemoryState
        frozen : bool
            Whether the memory is read without being written.

        Returns
        -------
        corrections : torch.Tensor
            Expected errors of the recall, in the basis, ``(batch, time, horizons, width)``.
        state : OwnPastMemoryState
        """
        read, state = self.learn(series, errors, recalled, state, frozen=frozen)
        return read * self.reliability, state

    @torch.no_grad()
    def learn(
        self, series: Tensor, errors: Tensor, recalled: Tensor, state: OwnPastMemoryState, *, frozen: bool = False
    ) -> tuple[Float[Tensor, "B T K D"], OwnPastMemoryState]:
        """Do as :meth:`forward`; return what is read before it is multiplied by the reliability."""
        predictors, own_past = state.own_past.read(series * self.scale)
        due, pending = wait_for_targets(state.pending, recalled.detach(), self.horizons, dim=1)
        missed = ((errors - due) * self.scale).movedim(3, 1)[..., None]
        read, regression = self._ridge().step(
            predictors.flatten(0, 1), missed.flatten(0, 1), state.regression, frozen=frozen
        )
        corrections = read[..., 0].reshape(len(series), self.width, *read.shape[1:3]).movedim(1, 3) / self.scale
        return corrections, OwnPastMemoryState.of(own_past, pending, regression, len(series))

    def _ridge(self) -> RefittedRidge:
        return RefittedRidge(self.horizons, tuple(self.penalties.tolist()))
