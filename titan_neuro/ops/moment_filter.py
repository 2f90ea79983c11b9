"""Which moment of a known film is this? A Bayesian filter over its moments, one step a frame.

For each moment ``i`` of the film the filter carries the log likelihood ratio ``e_i`` of "the frames so far were the
film up to ``i``" against "they were not this film". One frame later the film has moved on by one moment, too::

    e_i <- decay * e_(i-1) + score_i(frame)        p_i  =  exp(s e_i) / N / (1 + sum_j exp(s e_j) / N)

with ``N`` moments and sharpness ``s``. What is left, ``1 - sum_i p_i``, is the share of "no film that I know". It is
the forward pass of a hidden Markov model whose state moves on by one at each step (Rabiner 1989), with forgetting: its
memory is one number a moment, and its history all of the stream.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# What is less likely than the likeliest by exp of this counts as much: 1e-26. Smaller numbers soon are denormal, and
# products with these take many times as long.
_LEAST_LOGIT = -60.0


def accumulate_evidence(scores: Tensor, evidence: Tensor, follows: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Carry the evidence through some frames.

    Parameters
    ----------
    scores : torch.Tensor
        Log likelihood ratio of each frame at each moment, ``(batch, time, moments)``.
    evidence : torch.Tensor
        What the frames before have left, ``(batch, moments)``; 0 at the start of a stream.
    follows : torch.Tensor
        ``(moments,)``, 1 where the moment before belongs to the same film, else 0.
    decay : float
        Share of the evidence that is left a frame later, 0 to 1.

    Returns
    -------
    course : torch.Tensor
        The evidence after each frame, ``(batch, time, moments)``.
    evidence : torch.Tensor
        After the last one.
    """
    weight = decay * follows
    course = []
    for score in scores.unbind(1):
        evidence = evidence.roll(1, dims=-1) * weight + score
        course.append(evidence)
    return torch.stack(course, dim=1), evidence


def moment_probabilities(course: Tensor, sharpness: float) -> Tensor:
    """Probability of each moment, ``(..., moments)``; what is missing to 1 is that of no known film.

    Parameters
    ----------
    course : torch.Tensor
        Evidence, ``(..., moments)``.
    sharpness : float
        Above 0; 1 where frames are independent given the moment, less where they say the same thing twice.
    """
    logits = sharpness * course - math.log(course.shape[-1])
    # The alternative has the logit 0.
    largest = logits.amax(dim=-1, keepdim=True).clamp_min(0)
    weights = torch.exp((logits - largest).clamp_min(_LEAST_LOGIT))
    return weights / (weights.sum(dim=-1, keepdim=True) + torch.exp(-largest))
