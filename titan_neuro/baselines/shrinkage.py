"""How far a forecast that rests on other subjects is trusted: ISC weights, shrinkage weights, held-out changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.linear.stimulus_average import StimulusAverage
from titan_neuro.typing import RunData


def isc_weights(pairs: Sequence[tuple[RunData, StimulusAverage]], n_components: int) -> Tensor:
    """Weight components by their intersubject correlation (ISC), each subject against the average of the others.

    Parameters
    ----------
    pairs : sequence of (RunData, StimulusAverage)
        Runs, each with the average of the other subjects' runs of its stimulus; their first features are components.
    n_components : int

    Returns
    -------
    torch.Tensor
        ``(components,)``: the mean correlation, 0 where it is negative. Ones where there is no pair, or where no
        component correlates.
    """
    total = torch.zeros(n_components)
    for run, average in pairs:
        time_points = torch.as_tensor(run.scored).nonzero()[:, 0]
        positions = time_points - run.stimulus_start
        inside = (positions >= 0) & (positions < len(average.series))
        own = run.read(0, run.n_time_points)[time_points[inside], :n_components]
        others = average.series[positions[inside], :n_components]
        own, others = own - own.mean(0), others - others.mean(0)
        norms = (own.norm(dim=0) * others.norm(dim=0)).clamp(min=torch.finfo(own.dtype).tiny)
        total += (own * others).sum(0) / norms
    weights = (total / max(1, len(pairs))).clamp(min=0)
    return weights if bool(weights.any()) else torch.ones(n_components)


def shrinkage_weights(cross: Tensor, power: Tensor) -> Tensor:
    """Least-squares weights of a forecast, shrunk towards 0 the more subjects disagree on them.

    With ``w`` the least-squares weight over all subjects and ``SE`` its standard error between subjects, the result is
    ``max(0, w) * max(0, 1 - SE^2 / w^2)``, a positive-part James-Stein estimate: where nothing is shared, ``w`` is as
    large as its error. Negative weights have no meaning here, and become 0.

    Parameters
    ----------
    cross, power : torch.Tensor
        Of each subject, the sums of forecast times target, and of forecast squared: ``(subjects, ...)``.

    Returns
    -------
    torch.Tensor
        ``(...)``, at least 0.
    """
    n_subjects = len(cross)
    total = power.sum(0)
    positive = total > 0
    weight = torch.where(positive, cross.sum(0) / total.where(positive, torch.ones_like(total)), 0).clamp(min=0)
    if n_subjects == 1:
        return weight
    misfit = (cross - weight * power).square().sum(0) * n_subjects / (n_subjects - 1)
    scale = (weight * total).square().where(weight > 0, torch.ones_like(total))
    relative_error = torch.where(weight > 0, misfit / scale, 1)
    return weight * (1 - relative_error).clamp(min=0)


def held_out_change(cross: Tensor, power: Tensor) -> Tensor:
    """Change of each subject's squared error by a forecast whose shrinkage weights are fitted on the other subjects.

    Parameters
    ----------
    cross, power : torch.Tensor
        See :func:`shrinkage_weights`: ``(subjects, ..., features)``, at least two subjects.

    Returns
    -------
    torch.Tensor
        ``(subjects, ...)``, summed over features; below 0 where the forecast lowers the error.
    """
    changes = []
    for subject in range(len(cross)):
        others = torch.arange(len(cross)) != subject
        weight = shrinkage_weights(cross[others], power[others])
        changes.append((weight * (weight * power[subject] - 2 * cross[subject])).sum(-1))
    return torch.stack(changes)
