"""Which moment of a known stimulus is this? A Bayesian filter over its moments, one step a time point.

For each moment ``i`` of the stimulus the filter carries the log likelihood ratio ``e_i`` of "the time points so far
were the stimulus up to ``i``" against "they were not this stimulus". One time point later the stimulus has moved on by
one moment, too::

    e_i <- decay * e_(i-1) + score_i(time point)        p_i  =  exp(s e_i) / N / (1 + sum_j exp(s e_j) / N)

with ``N`` moments and sharpness ``s``. What is left, ``1 - sum_i p_i``, is the share of "no stimulus that I know". It
is the forward pass of a hidden Markov model whose state moves on by one at each step (Rabiner 1989), with forgetting:
its memory is one number a moment, and its history all of the stream.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# What is less likely than the likeliest by exp of this counts as much: 1e-26. Smaller numbers soon are denormal, and
# products with these take many times as long.
_LEAST_LOGIT = -60.0


def accumulate_evidence(scores: Tensor, evidence: Tensor, follows: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Carry the evidence through some time points.

    Parameters
    ----------
    scores : torch.Tensor
        Log likelihood ratio of each time point at each moment, ``(batch, time, positions)``.
    evidence : torch.Tensor
        What the time points before have left, ``(batch, positions)``; 0 at the start of a stream.
    follows : torch.Tensor
        ``(positions,)``, 1 where the moment before belongs to the same stimulus, else 0.
    decay : float
        Share of the evidence that is left a time point later, 0 to 1.

    Returns
    -------
    course : torch.Tensor
        The evidence after each time point, ``(batch, time, positions)``.
    evidence : torch.Tensor
        After the last one.
    """
    weight = decay * follows
    course = []
    for score in scores.unbind(1):
        evidence = evidence.roll(1, dims=-1) * weight + score
        course.append(evidence)
    return torch.stack(course, dim=1), evidence


def position_probabilities(course: Tensor, sharpness: float) -> Tensor:
    """Probability of each moment, ``(..., positions)``; what is missing to 1 is that of no known stimulus.

    Parameters
    ----------
    course : torch.Tensor
        Evidence, ``(..., positions)``.
    sharpness : float
        Above 0; 1 where time points are independent given the moment, less where they say the same thing twice.
    """
    logits = sharpness * course - math.log(course.shape[-1])
    # The alternative has the logit 0.
    largest = logits.amax(dim=-1, keepdim=True).clamp_min(0)
    weights = torch.exp((logits - largest).clamp_min(_LEAST_LOGIT))
    return weights / (weights.sum(dim=-1, keepdim=True) + torch.exp(-largest))
