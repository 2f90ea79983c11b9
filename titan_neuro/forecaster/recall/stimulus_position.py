"""Which time point of a known stimulus is shown? A Bayesian filter over its positions, one step a time point.

For each position ``i`` of the stimulus the filter carries the log likelihood ratio ``e_i`` of "the time points so far
showed the stimulus up to ``i``" against "they did not show this stimulus". One time point later the stimulus has
advanced by one position::

    e_i <- decay * e_(i-1) + score_i(time point)        p_i  =  exp(s e_i) / N / (1 + sum_j exp(s e_j) / N)

with ``N`` positions and sharpness ``s``. The rest, ``1 - sum_i p_i``, is the probability of "no known stimulus". It is
the forward pass of a hidden Markov model whose state advances by one at each step (Rabiner 1989), with forgetting. It
carries one number for each position, which depends on the whole stream.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Logits are bounded below, relative to the largest, by this: exp gives 1e-26. Smaller numbers soon are denormal, and
# products with these take many times as long.
_LEAST_LOGIT = -60.0


def accumulate_evidence(scores: Tensor, evidence: Tensor, continues: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Update the evidence for each position, time point by time point.

    Parameters
    ----------
    scores : torch.Tensor
        Log likelihood ratio of each time point at each position, ``(batch, time, positions)``.
    evidence : torch.Tensor
        After the time points before, ``(batch, positions)``; 0 at the start of a stream.
    continues : torch.Tensor
        ``(positions,)``: 1 where the position before belongs to the same stimulus, else 0.
    decay : float
        Fraction of the evidence that remains one time point later, 0 to 1.

    Returns
    -------
    evidence_over_time : torch.Tensor
        After each time point, ``(batch, time, positions)``.
    evidence : torch.Tensor
        After the last one, ``(batch, positions)``.
    """
    weight = decay * continues
    evidence_over_time = []
    for score in scores.unbind(1):
        evidence = evidence.roll(1, dims=-1) * weight + score
        evidence_over_time.append(evidence)
    return torch.stack(evidence_over_time, dim=1), evidence


def position_probabilities(evidence: Tensor, sharpness: float) -> Tensor:
    """Posterior probability of each position.

    Parameters
    ----------
    evidence : torch.Tensor
        ``(..., positions)``.
    sharpness : float
        Above 0. 1 if time points are independent given the position; below 1 if they repeat information.

    Returns
    -------
    torch.Tensor
        ``(..., positions)``. They sum to less than 1; the rest is the probability that no known stimulus is shown.
    """
    logits = sharpness * evidence - math.log(evidence.shape[-1])
    # The alternative has the logit 0.
    largest = logits.amax(dim=-1, keepdim=True).clamp_min(0)
    weights = torch.exp((logits - largest).clamp_min(_LEAST_LOGIT))
    return weights / (weights.sum(dim=-1, keepdim=True) + torch.exp(-largest))
