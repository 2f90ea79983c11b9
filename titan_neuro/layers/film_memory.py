"""Persistent memory that holds a film: what it did to the brains that were trained on, moment by moment."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titan_neuro.ops.moment_filter import accumulate_evidence, moment_probabilities


class FilmMemory(nn.Module):
    """Find the moment of the film from the brain's own history, and read on from there.

    Persistent tokens (Behrouz et al. 2025, equation 19) in the order of the film: a key and, for each horizon, a value
    for each of its moments, averages over the training subjects. Attention to them is the posterior of
    :mod:`titan_neuro.ops.moment_filter`, so that a frame is matched together with all frames before it. Nothing is
    known of a frame but what it shows: a stream may begin anywhere in the film, or show another film, and then nothing
    is recalled.

    A training subject is part of the averages; its own forecasts must not be. While the subjects' own tokens are held
    (`remember_subjects`), a stream can be read with one of them left out.

    Parameters
    ----------
    n_moments, n_horizons, width : int
        Sizes; 0 moments make a memory that recalls nothing.

    Attributes
    ----------
    whitening : torch.Tensor
        ``(width, width)``: innovations times it have the noise's covariance 1.
    keys : torch.Tensor
        ``(moments, width)``: whitened innovations that are expected at each moment.
    values : torch.Tensor
        ``(moments, horizons, width)``: what is to be read at each moment.
    follows : torch.Tensor
        ``(moments,)``: 0 where a film begins, else 1.
    decay, sharpness : torch.Tensor
        See :mod:`titan_neuro.ops.moment_filter`.
    own_keys, own_values, present : torch.Tensor
        Of each subject, as `remember_subjects` takes them; of none in a memory that was read from a file.
    """

    whitening: Tensor
    keys: Tensor
    values: Tensor
    follows: Tensor
    decay: Tensor
    sharpness: Tensor
    own_keys: Tensor
    own_values: Tensor
    present: Tensor

    def __init__(self, *, n_moments: int, n_horizons: int, width: int) -> None:
        super().__init__()
        self.register_buffer("whitening", torch.zeros(width, width))
        self.register_buffer("keys", torch.zeros(n_moments, width))
        self.register_buffer("values", torch.zeros(n_moments, n_horizons, width))
        self.register_buffer("follows", torch.zeros(n_moments))
        self.register_buffer("decay", torch.zeros(()))
        self.register_buffer("sharpness", torch.ones(()))
        # Buffers, so that they go where the module goes.
        self.register_buffer("own_keys", torch.zeros(0, n_moments, width), persistent=False)
        self.register_buffer("own_values", torch.zeros(0, n_moments, n_horizons, width), persistent=False)
        self.register_buffer("present", torch.zeros(0, n_moments, dtype=torch.bool), persistent=False)

    @property
    def n_moments(self) -> int:
        """Moments of all films together."""
        return len(self.keys)

    def remember_subjects(self, keys: Tensor, values: Tensor, present: Tensor) -> None:
        """Hold each subject's own tokens, so that it can be left out while training; they are not saved.

        Parameters
        ----------
        keys : torch.Tensor
            ``(subjects, moments, width)``; `self.keys` is their mean over the subjects that are `present`.
        values : torch.Tensor
            ``(subjects, moments, horizons, width)``.
        present : torch.Tensor
            bool ``(subjects, moments)``: the subject saw this moment.
        """
        self.own_keys, self.own_values, self.present = keys, values, present

    def share_subjects(self, other: FilmMemory) -> None:
        """Hold the subjects' tokens that another memory of the same films holds."""
        self.remember_subjects(other.own_keys, other.own_values, other.present)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # How many moments there are is known from the training runs alone: the memory takes the saved size.
        for name in ("keys", "values", "follows"):
            saved = state_dict.get(prefix + name)
            own = getattr(self, name)
            if saved is not None and saved.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def hold_values(self, values: Tensor) -> None:
        """Put each subject's values in the place of those held."""
        self.own_values = values

    def init_state(self, batch_size: int) -> Float[Tensor, "B N"]:
        """Evidence before the first frame: none."""
        return self.follows.new_zeros(batch_size, self.n_moments)

    def forward(
        self,
        innovations: Float[Tensor, "B T D"],
        evidence: Float[Tensor, "B N"],
        left_out: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T K D"], Float[Tensor, "B N"]]:
        """Recall what the film showed next.

        Parameters
        ----------
        innovations : torch.Tensor
            What of each frame its own past did not foretell, ``(batch, time, width)``.
        evidence : torch.Tensor
            From the call before, or `init_state`.
        left_out : torch.Tensor, optional
            For each stream the index of the subject that is left out of the averages; -1 for none.

        Returns
        -------
        recalled : torch.Tensor
            ``(batch, time, horizons, width)``: values, averaged over what the moment may be.
        evidence : torch.Tensor
        """
        n_horizons, width = self.values.shape[1:]
        if not self.n_moments:
            return innovations.new_zeros(*innovations.shape[:2], n_horizons, width), evidence
        queries = innovations @ self.whitening
        if left_out is None or not len(self.present):
            return self._recall(queries, self.keys, self.values, evidence)
        parts = [
            self._recall(queries[[item]], *self.without(int(subject)), evidence[[item]])
            for item, subject in enumerate(left_out)
        ]
        return torch.cat([recalled for recalled, _ in parts]), torch.cat([after for _, after in parts])

    def _recall(self, queries: Tensor, keys: Tensor, values: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        # The log likelihood ratio of two normal densities of covariance 1: about the key, and about 0.
        scores = queries @ keys.T - 0.5 * keys.square().sum(dim=1)
        course, evidence = accumulate_evidence(scores, evidence, self.follows, float(self.decay))
        probabilities = moment_probabilities(course, float(self.sharpness))
        return (probabilities @ values.flatten(1)).view(*queries.shape[:2], *values.shape[1:]), evidence

    def without(self, subject: int) -> tuple[Tensor, Tensor]:
        """Keys and values averaged over all subjects but one; 0 where nobody else was present."""
        if subject < 0 or not len(self.present):
            return self.keys, self.values
        n_present = self.present.sum(dim=0)
        own = self.present[subject].float()
        rest = (n_present - own).clamp_min(1)
        alone = (n_present - own > 0).float()
        kept = [
            (total * _like(n_present, total) - part[subject] * _like(own, total)) * _like(alone / rest, total)
            for total, part in ((self.keys, self.own_keys), (self.values, self.own_values))
        ]
        return kept[0], kept[1]


def _like(weights: Tensor, target: Tensor) -> Tensor:
    return weights.view(-1, *[1] * (target.ndim - 1))
