"""The recall: memories fitted in closed form that forecast the errors of the linear skip, in spatial components."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord, require_shapes
from titan_neuro.forecaster.recall.component_autoregression import (
    ComponentAutoregression,
    ComponentAutoregressionFit,
    ComponentAutoregressionState,
)
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.forecaster.recall.delayed_responses import DelayedResponses, DelayedResponsesFit
from titan_neuro.forecaster.recall.own_past import OwnPast, OwnPastFit, OwnPastState
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemory, StimulusMemoryFit
from titan_neuro.forecaster.shallow_copy import with_parts
from titan_neuro.titans.stream_state import StreamState


class Recalled(NamedTuple):
    """What the recall forecasts at each time point, in the basis, ``(batch, time, horizons, width)`` each.

    Attributes
    ----------
    stimulus : torch.Tensor
        From what the training subjects' brains did at this moment of the stimulus.
    own : torch.Tensor
        From the stream's own past.
    """

    stimulus: Tensor
    own: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of both."""
        return self.stimulus + self.own


@dataclasses.dataclass(frozen=True, eq=False)
class RecallFit(FitRecord):
    """What is fitted of a :class:`Recall`; see its attributes."""

    innovation_directions: Tensor
    stimulus: StimulusMemoryFit
    autoregression: ComponentAutoregressionFit
    delayed_responses: DelayedResponsesFit
    own_past: OwnPastFit


@dataclasses.dataclass(frozen=True)
class RecallState(StreamState):
    """What is carried from one call to the next.

    Attributes
    ----------
    evidence : torch.Tensor
        For each position of the stimulus, ``(batch, positions)``.
    autoregression : ComponentAutoregressionState
    delayed : torch.Tensor
        Components of the innovations that delayed responses may need, ``(batch, longest lag, components)``.
    own_past : OwnPastState
    """

    evidence: Float[Tensor, "batch ..."]
    autoregression: ComponentAutoregressionState
    delayed: Float[Tensor, "batch ..."]
    own_past: OwnPastState


class Recall(nn.Module):
    """Forecast the errors of the linear skip from what training subjects share, in a few spatial components.

    1. `stimulus`: persistent memory of the intersubject average (:class:`StimulusMemory`).
    2. `autoregression`: vector autoregression on the last few time points (:class:`ComponentAutoregression`).
    3. `delayed_responses`: a linear forecast from time points at fixed lags, long ago (:class:`DelayedResponses`).
    4. `own_past`: of what these miss, what each component's own past tells (:class:`OwnPast`).

    All are fitted in closed form (:func:`titan_neuro.forecaster.fit.fit_closed_form`). Training and validation runs are
    read with what was fitted without them (`held_out_index`): their own data would leak into their forecasts.

    Parameters
    ----------
    config : RecallConfig
    horizons : tuple of int
        Lead times in time points, ascending.
    n_features : int
        Voxels or parcels.

    Attributes
    ----------
    width : int
        Spatial components of forecasts.
    innovation_directions : torch.Tensor
        ``(components, width)``: in the basis, principal directions of the innovations, in descending order.
    """

    innovation_directions: Tensor

    def __init__(self, config: RecallConfig, *, horizons: tuple[int, ...], n_features: int) -> None:
        super().__init__()
        self.config, self.horizons, self.sizes = config, horizons, config.sizes(n_features)
        self.width, n_components = self.sizes
        self.register_buffer("innovation_directions", torch.zeros(n_components, self.width))
        self.stimulus = StimulusMemory(n_components=n_components, horizons=horizons, width=self.width)
        self.autoregression = ComponentAutoregression(
            n_horizons=len(horizons), n_lags=config.autoregressive_lags, n_components=n_components, width=self.width
        )
        self.delayed_responses = DelayedResponses(
            horizons=horizons, longest_lag=config.longest_lag, n_components=n_components, width=self.width
        )
        self.own_past = OwnPast(n_horizons=len(horizons), width=self.width)

    def load(self, fit: RecallFit) -> None:
        """Load what was fitted; parameters that are drawn at random or trained stay as they are.

        Raises
        ------
        MismatchError
            The fit is of other sizes.
        """
        require_shapes(
            "Recall.load",
            "Fit with the same RecallConfig, horizons and number of features.",
            ("innovation_directions", fit.innovation_directions, self.innovation_directions),
            ("autoregression.weights", fit.autoregression.weights, self.autoregression.weights),
        )
        self.innovation_directions.copy_(fit.innovation_directions)
        self.stimulus.load(fit.stimulus)
        self.autoregression.load(fit.autoregression)
        self.delayed_responses.load(fit.delayed_responses)
        self.own_past.load(fit.own_past)

    def without_stimulus(self) -> Recall:
        """Return this recall with a stimulus memory that holds nothing: an ablation. All else is shared, not copied."""
        nothing = StimulusMemory(n_components=self.sizes[1], horizons=self.horizons, width=self.width)
        return with_parts(self, stimulus=nothing.to(self.innovation_directions))

    def init_state(self, batch_size: int) -> RecallState:
        """State before the first time point of `batch_size` streams."""
        return RecallState(
            self.stimulus.init_state(batch_size),
            self.autoregression.init_state(batch_size),
            self.delayed_responses.init_state(batch_size),
            self.own_past.init_state(batch_size),
        )

    def forward(
        self,
        series: Float[Tensor, "B T D"],
        innovations: Float[Tensor, "B T D"],
        state: RecallState,
        *,
        held_out_index: Int[Tensor, "B 2"] | None = None,
    ) -> tuple[Recalled, RecallState]:
        """Forecast the errors of the linear skip.

        Parameters
        ----------
        series, innovations : torch.Tensor
            Time points, and the errors of the linear forecasts of them at the shortest horizon, ``(batch, time,
            width)``.
        state : RecallState
        held_out_index : torch.Tensor, optional
            Subject and fold of each stream, from :meth:`titan_neuro.forecaster.Forecaster.held_out_index`.

        Returns
        -------
        forecasts : Recalled
        state : RecallState
        """
        subjects, folds = (None, None) if held_out_index is None else held_out_index.unbind(1)
        from_stimulus, evidence = self.stimulus(innovations, state.evidence, subjects, folds)
        from_series, autoregression = self.autoregression(series, innovations, state.autoregression, folds)
        components = innovations @ self.innovation_directions.T
        from_delayed, delayed = self.delayed_responses(components, state.delayed, folds)
        from_own_past, own_past = self.own_past(series, state.own_past, folds)
        recalled = Recalled(from_stimulus, from_series + from_delayed + from_own_past)
        return recalled, RecallState(evidence, autoregression, delayed, own_past)
