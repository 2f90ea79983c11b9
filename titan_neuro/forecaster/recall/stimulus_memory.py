"""Persistent memory of a stimulus: the intersubject average of the training subjects, position by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.fitted import FitRecord, load_buffers, resize_buffers, select_fit, times_fit
from titan_neuro.forecaster.recall.stimulus_position import accumulate_evidence, position_probabilities

# Time points about the target whose stimulus values are regressed on: what follows is a smooth function of them.
LEADS = (-3, -2, -1, 0, 1, 2, 3)


@dataclasses.dataclass(frozen=True, eq=False)
class StimulusMemoryFit(FitRecord):
    """What is fitted of a :class:`StimulusMemory`; see its attributes for the shapes."""

    whitening: Tensor
    keys: Tensor
    values: Tensor
    continues: Tensor
    decay: Tensor
    sharpness: Tensor
    weights: Tensor
    whitening_without: Tensor
    keys_without: Tensor
    values_without: Tensor
    weights_without: Tensor

    @classmethod
    def empty(cls, *, n_components: int, n_horizons: int, width: int) -> StimulusMemoryFit:
        """The fit of a memory that holds no stimulus, and recalls nothing."""
        weights = torch.zeros(n_horizons, len(LEADS) * n_components, width)
        return cls(
            whitening=torch.zeros(width, width),
            keys=torch.zeros(0, width),
            values=torch.zeros(0, n_components),
            continues=torch.zeros(0),
            decay=torch.zeros(()),
            sharpness=torch.ones(()),
            weights=weights,
            whitening_without=torch.zeros(0, width, width),
            keys_without=torch.zeros(0, 0, width),
            values_without=torch.zeros(0, 0, n_components),
            weights_without=torch.zeros(0, *weights.shape),
        )


class StimulusMemory(nn.Module):
    """Infer the position in the stimulus from the stream itself, and forecast what followed it in other brains.

    Persistent tokens (Behrouz et al. 2025, equation 19) in the order of the stimulus: a key and a value for each of its
    positions, averages over the training subjects. Attention to them is the posterior of
    :mod:`titan_neuro.forecaster.recall.stimulus_position`, so that a time point is matched together with all time
    points before it. The stimulus's values at `LEADS` time points about the target, averaged over the posterior, enter
    a linear map to the forecast. The position is inferred from the series alone: a stream may begin anywhere in the
    stimulus, or show another stimulus, and then next to nothing is recalled.

    A training subject is part of the averages and of the linear map, but must not be part of its own forecasts. The
    leave-one-out tensors serve to read a training run as that of a new subject.

    Parameters
    ----------
    n_components, width : int
        Components of the stimulus's values, and width of innovations and forecasts.
    horizons : tuple of int
        Lead times in time points, ascending.

    Attributes
    ----------
    whitening : torch.Tensor
        ``(width, width)``: innovations times it have noise of covariance 1 in the dimensions that are compared; the
        columns of others are 0.
    keys : torch.Tensor
        ``(positions, width)``: expected whitened innovations at each position of all stimuli.
    values : torch.Tensor
        ``(positions, components)``: intersubject average of the series at each position.
    continues : torch.Tensor
        ``(positions,)``: 0 where a stimulus begins, else 1.
    decay, sharpness : torch.Tensor
        Scalars; see :mod:`titan_neuro.forecaster.recall.stimulus_position`.
    weights : torch.Tensor
        ``(horizons, leads * components, width)``: from the stimulus's values about the target to the forecast.
    whitening_without, keys_without, values_without : torch.Tensor
        ``(subjects, ...)``: without each subject; of no subject in a memory that was read from a file.
    weights_without : torch.Tensor
        ``(folds, ...)``: fitted without the runs of each fold.
    """

    whitening: Tensor
    keys: Tensor
    values: Tensor
    continues: Tensor
    decay: Tensor
    sharpness: Tensor
    weights: Tensor
    whitening_without: Tensor
    keys_without: Tensor
    values_without: Tensor
    weights_without: Tensor
    lead_index: Tensor

    def __init__(self, *, n_components: int, horizons: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.horizons = horizons
        # Time points after the position that are needed for some horizon, ascending; and, for each horizon, which.
        self.offsets = sorted({horizon + lead for horizon in horizons for lead in LEADS})
        lead_index = torch.tensor([[self.offsets.index(horizon + lead) for lead in LEADS] for horizon in horizons])
        self.register_buffer("lead_index", lead_index, persistent=False)
        empty = StimulusMemoryFit.empty(n_components=n_components, n_horizons=len(horizons), width=width)
        for field in dataclasses.fields(empty):
            # Leave-one-out tensors are buffers, so that they move with the module, but they are not saved.
            is_saved = not field.name.endswith("_without")
            self.register_buffer(field.name, getattr(empty, field.name), persistent=is_saved)

    @property
    def n_positions(self) -> int:
        """Positions (time points) of all stimuli together; 0 where nothing is remembered."""
        return len(self.keys)

    def load(self, fit: StimulusMemoryFit) -> None:
        """Load what was fitted; the number of positions becomes that of the fit."""
        load_buffers(self, fit)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        resize_buffers(self, ("keys", "values", "continues"), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def init_state(self, batch_size: int) -> Float[Tensor, "B N"]:
        """Evidence before the first time point, ``(batch, positions)``: 0."""
        return self.continues.new_zeros(batch_size, self.n_positions)

    def forward(
        self,
        innovations: Float[Tensor, "B T D"],
        evidence: Float[Tensor, "B N"],
        subjects: Int[Tensor, " B"] | None = None,
        folds: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B N"]]:
        """Forecast from every time point.

        Parameters
        ----------
        innovations : torch.Tensor
            Errors of the one-step linear forecast, ``(batch, time, width)``.
        evidence : torch.Tensor
            From the call before, or `init_state`, ``(batch, positions)``.
        subjects, folds : torch.Tensor, optional
            int ``(batch,)``: for each stream the subject that is left out of the averages, and the fold that is left
            out of the weights; -1 for none.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, width)``.
        evidence : torch.Tensor
            After the last time point.
        """
        if not self.n_positions:
            return innovations.new_zeros(*innovations.shape[:2], len(self.horizons), self.weights.shape[2]), evidence
        probabilities, evidence = self.locate(innovations, evidence, subjects)
        features = self.target_features(probabilities, subjects)
        weights = select_fit(self.weights, self.weights_without, folds)
        return times_fit(features.transpose(1, 2), weights).transpose(1, 2), evidence

    def locate(
        self, innovations: Float[Tensor, "B T D"], evidence: Float[Tensor, "B N"], subjects: Tensor | None = None
    ) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B N"]]:
        """Infer the position: its posterior at each time point, and the evidence after the last one.

        Parameters are those of :meth:`forward`; the posterior is ``(batch, time, positions)``.
        """
        evidence_over_time, evidence = self.accumulate(innovations, evidence, float(self.decay), subjects)
        return position_probabilities(evidence_over_time, float(self.sharpness)), evidence

    def accumulate(
        self,
        innovations: Float[Tensor, "B T D"],
        evidence: Float[Tensor, "B N"],
        decay: float,
        subjects: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B N"]]:
        """Evidence for each position after each time point, ``(batch, time, positions)``, and after the last one."""
        keys = select_fit(self.keys, self.keys_without, subjects)
        whitening = select_fit(self.whitening, self.whitening_without, subjects)
        # The log likelihood ratio of two normal densities of covariance 1: with the key as mean, and with mean 0.
        scores = times_fit(times_fit(innovations, whitening), keys.mT) - 0.5 * keys.square().sum(dim=-1).unsqueeze(-2)
        return accumulate_evidence(scores, evidence, self.continues, decay)

    def target_features(
        self, probabilities: Float[Tensor, "B T N"], subjects: Tensor | None = None
    ) -> Float[Tensor, "B T K M"]:
        """Expected values of the stimulus about each target, ``(batch, time, horizons, leads * components)``."""
        return self.expected_values(probabilities, self.offsets, subjects)[:, :, self.lead_index].flatten(3)

    def expected_values(
        self, probabilities: Float[Tensor, "B T N"], offsets: Sequence[int], subjects: Tensor | None = None
    ) -> Float[Tensor, "B T O C"]:
        """Expected values of the stimulus some time points after the position, under its posterior.

        Parameters
        ----------
        probabilities : torch.Tensor
            ``(batch, time, positions)``.
        offsets : sequence of int
            Time points after the position.
        subjects : torch.Tensor, optional
            See :meth:`forward`.

        Returns
        -------
        torch.Tensor
            ``(batch, time, offsets, components)``.
        """
        margin = max(abs(offset) for offset in offsets)
        # Stimuli are laid out with gaps of zeros, so that no offset leads from one into the next.
        rows = torch.arange(self.n_positions, device=self.continues.device)
        rows += margin * (self.continues.eq(0).cumsum(0) - 1)
        length = int(rows[-1]) + 1
        values = select_fit(self.values, self.values_without, subjects)
        padded = values.new_zeros(*values.shape[:-2], length + 2 * margin, values.shape[-1])
        padded[..., margin + rows, :] = values
        weights = probabilities.new_zeros(*probabilities.shape[:-1], length)
        weights[..., rows] = probabilities
        expected = [
            times_fit(weights, padded[..., margin + offset : margin + offset + length, :]) for offset in offsets
        ]
        return torch.stack(expected, dim=2)
