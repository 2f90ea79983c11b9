"""Persistent memory that holds a stimulus: what it did to the brains that were trained on, moment by moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.forecaster.recall.held_out import select
from titan_neuro.forecaster.recall.stimulus_position import accumulate_evidence, position_probabilities

# Moments about the one that is forecast, in time points: what is next in the stimulus is a smooth function of them.
LEADS = (-3, -2, -1, 0, 1, 2, 3)


class StimulusMemory(nn.Module):
    """Find the moment of the stimulus from the brain's own history, and read on from there.

    Persistent tokens (Behrouz et al. 2025, equation 19) in the order of the stimulus: a key and a value for each of its
    moments, averages over the training subjects. Attention to them is the posterior of
    :mod:`titan_neuro.forecaster.recall.stimulus_position`, so that a time point is matched together with all time
    points before it. What was found is followed by what the stimulus showed `LEADS` time points about the one that is
    forecast; a linear map of that is what is recalled. Nothing is known of a time point but what it shows: a stream may
    begin anywhere in the stimulus, or show another stimulus, and then nothing is recalled.

    A training subject is part of the averages and of the map; its own forecasts must not be. While what was fitted
    without it is held (`set_held_out`), a stream can be read as one of somebody who was never there.

    Parameters
    ----------
    n_positions : int
        Moments of all stimuli together; 0 make a memory that recalls nothing.
    n_components, width : int
        Components of the stimulus that are read on from, and width of innovations and forecasts.
    horizons : tuple of int
        Time points ahead, ascending.

    Attributes
    ----------
    whitening : torch.Tensor
        ``(width, width)``: innovations times it have the noise's covariance 1.
    keys : torch.Tensor
        ``(positions, width)``: whitened innovations that are expected at each moment.
    values : torch.Tensor
        ``(positions, components)``: what the stimulus showed at each moment.
    reader : torch.Tensor
        ``(horizons, leads * components, width)``: from what the stimulus shows to forecasts.
    follows : torch.Tensor
        ``(positions,)``: 0 where a stimulus begins, else 1.
    decay, sharpness : torch.Tensor
        See :mod:`titan_neuro.forecaster.recall.stimulus_position`.
    keys_without, values_without : torch.Tensor
        ``(subjects, ...)``: averages over all subjects but one; of none in a memory that was read from a file.
    reader_without : torch.Tensor
        ``(folds, ...)``: fitted on all runs but those of one fold.
    """

    whitening: Tensor
    keys: Tensor
    values: Tensor
    reader: Tensor
    follows: Tensor
    decay: Tensor
    sharpness: Tensor
    leads: Tensor
    keys_without: Tensor
    values_without: Tensor
    reader_without: Tensor

    def __init__(self, *, n_positions: int, n_components: int, horizons: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.horizons = horizons
        # Moments that are read on to, ascending; and, for each horizon, which of them lie about it.
        self.offsets = sorted({horizon + lead for horizon in horizons for lead in LEADS})
        leads = torch.tensor([[self.offsets.index(horizon + lead) for lead in LEADS] for horizon in horizons])
        reader = (len(horizons), len(LEADS) * n_components, width)
        self.register_buffer("whitening", torch.zeros(width, width))
        self.register_buffer("keys", torch.zeros(n_positions, width))
        self.register_buffer("values", torch.zeros(n_positions, n_components))
        self.register_buffer("reader", torch.zeros(reader))
        self.register_buffer("follows", torch.zeros(n_positions))
        self.register_buffer("decay", torch.zeros(()))
        self.register_buffer("sharpness", torch.ones(()))
        self.register_buffer("leads", leads, persistent=False)
        # Buffers, so that they go where the module goes; who reads a file has no training subject to leave out.
        self.register_buffer("keys_without", torch.zeros(0, n_positions, width), persistent=False)
        self.register_buffer("values_without", torch.zeros(0, n_positions, n_components), persistent=False)
        self.register_buffer("reader_without", torch.zeros(0, *reader), persistent=False)

    @property
    def n_positions(self) -> int:
        """Moments of all stimuli together."""
        return len(self.keys)

    def set_held_out(self, keys: Float[Tensor, "S N D"], values: Float[Tensor, "S N C"]) -> None:
        """Hold what the stimulus is without each subject, so that it can be left out while training; it is not saved."""
        self.keys_without, self.values_without = keys.to(self.keys), values.to(self.values)

    def set_reader(self, reader: Float[Tensor, "K M D"], without: Float[Tensor, "G K M D"]) -> None:
        """Say how the stimulus is read on from, and how without each fold."""
        self.reader.copy_(reader)
        self.reader_without = without.to(self.reader)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # How many moments there are is known from the training runs alone: the memory takes the saved size.
        for name in ("keys", "values", "follows"):
            saved = state_dict.get(prefix + name)
            own = getattr(self, name)
            if saved is not None and saved.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def init_state(self, batch_size: int) -> Float[Tensor, "B N"]:
        """Evidence before the first time point: none."""
        return self.follows.new_zeros(batch_size, self.n_positions)

    def forward(
        self,
        innovations: Float[Tensor, "B T D"],
        evidence: Float[Tensor, "B N"],
        subjects: Int[Tensor, " B"] | None = None,
        folds: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B N"]]:
        """Recall what the stimulus showed next.

        Parameters
        ----------
        innovations : torch.Tensor
            What of each time point its own past did not predict, ``(batch, time, width)``.
        evidence : torch.Tensor
            From the call before, or `init_state`.
        subjects, folds : torch.Tensor, optional
            For each stream the index of the subject that is left out of the averages, and of the fold that is left out
            of the map; -1 for none.

        Returns
        -------
        recalled : torch.Tensor
            ``(batch, time, horizons, width)``.
        evidence : torch.Tensor
        """
        if not self.n_positions:
            return innovations.new_zeros(*innovations.shape[:2], len(self.horizons), self.reader.shape[2]), evidence
        probabilities, evidence = self.find(innovations, evidence, subjects)
        about = self.read_on(probabilities, subjects)
        reader = select(self.reader, self.reader_without, folds)
        return (about.transpose(1, 2) @ reader).transpose(1, 2), evidence

    def find(
        self, innovations: Float[Tensor, "B T D"], evidence: Float[Tensor, "B N"], subjects: Tensor | None = None
    ) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B N"]]:
        """Return the probability of each moment at each time point, and the evidence after the last one."""
        course, evidence = self.weigh(innovations, evidence, float(self.decay), subjects)
        return position_probabilities(course, float(self.sharpness)), evidence

    def weigh(
        self,
        innovations: Float[Tensor, "B T D"],
        evidence: Float[Tensor, "B N"],
        decay: float,
        subjects: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B N"]]:
        """Return the evidence of each moment after each time point, and after the last one."""
        keys = select(self.keys, self.keys_without, subjects)
        # The log likelihood ratio of two normal densities of covariance 1: about the key, and about 0.
        scores = innovations @ self.whitening @ keys.mT - 0.5 * keys.square().sum(dim=-1).unsqueeze(-2)
        return accumulate_evidence(scores, evidence, self.follows, decay)

    def read_on(
        self, probabilities: Float[Tensor, "B T N"], subjects: Tensor | None = None
    ) -> Float[Tensor, "B T K M"]:
        """Return what the stimulus shows about the time points that are forecast, averaged over what the moment may be."""
        return self.show(probabilities, self.offsets, subjects)[:, :, self.leads].flatten(3)

    def show(
        self, probabilities: Float[Tensor, "B T N"], offsets: Sequence[int], subjects: Tensor | None = None
    ) -> Float[Tensor, "B T O C"]:
        """Return what the stimulus shows so many time points after the moment, averaged over what the moment may be."""
        margin = max(abs(offset) for offset in offsets)
        # StimulusAverages lie so far apart that who reads on from one meets silence, not the next one.
        places = torch.arange(self.n_positions, device=self.follows.device)
        places += margin * (self.follows.eq(0).cumsum(0) - 1)
        length = int(places[-1]) + 1
        values = select(self.values, self.values_without, subjects)
        laid_out = values.new_zeros(*values.shape[:-2], length + 2 * margin, values.shape[-1])
        laid_out[..., margin + places, :] = values
        weights = probabilities.new_zeros(*probabilities.shape[:-1], length)
        weights[..., places] = probabilities
        shown = [weights @ laid_out[..., margin + offset : margin + offset + length, :] for offset in offsets]
        return torch.stack(shown, dim=2)
