"""What the training subjects share: how much of each component, and how far a forecast from it is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.linear.stimulus_average import StimulusAverage
from titan_neuro.typing import RunData


def isc_weights(pairs: Sequence[tuple[RunData, StimulusAverage]], n_components: int) -> Tensor:
    """Weigh components by their inter-subject correlation, each subject against the average of the others.

    Parameters
    ----------
    pairs : sequence of (RunData, StimulusAverage)
        Runs, each with the average of the other subjects' runs of its stimulus; their first features are components.
    n_components : int

    Returns
    -------
    torch.Tensor
        ``(components,)``: the mean correlation, 0 where it is negative; ones where nobody saw what another saw, or
        nothing correlates.
    """
    total = torch.zeros(n_components)
    for run, stimulus in pairs:
        rows = torch.as_tensor(run.scored).nonzero()[:, 0]
        statistics = rows - run.stimulus_start
        inside = (statistics >= 0) & (statistics < len(stimulus.series))
        rows, statistics = rows[inside], statistics[inside]
        own, others = run.read(0, run.n_time_points)[rows, :n_components], stimulus.series[statistics, :n_components]
        own, others = own - own.mean(0), others - others.mean(0)
        size = (own.norm(dim=0) * others.norm(dim=0)).clamp(min=torch.finfo(own.dtype).tiny)
        total += (own * others).sum(0) / size
    weights = (total / max(1, len(pairs))).clamp(min=0)
    return weights if bool(weights.any()) else torch.ones(n_components)


def shrunk_gain(cross: Tensor, power: Tensor) -> Tensor:
    """Least-squares gains of a forecast, drawn towards 0 as far as subjects disagree on them.

    The positive-part James-Stein factor ``1 - SE^2 / gain^2``, the standard error being that between subjects: where
    nothing is shared a gain is of the size of its error. Negative gains, which have no meaning, are 0.

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
    gain = torch.where(positive, cross.sum(0) / total.where(positive, torch.ones_like(total)), 0).clamp(min=0)
    if n_subjects == 1:
        return gain
    misfit = (cross - gain * power).square().sum(0) * n_subjects / (n_subjects - 1)
    error = torch.where(gain > 0, misfit / (gain * total).square().where(gain > 0, torch.ones_like(total)), 1)
    return gain * (1 - error).clamp(min=0)


def held_out_change(cross: Tensor, power: Tensor) -> Tensor:
    """Change of each subject's squared error by a forecast, its gain fitted on the others.

    Parameters
    ----------
    cross, power : torch.Tensor
        See :func:`shrunk_gain`: ``(subjects, ..., features)``, at least two subjects.

    Returns
    -------
    torch.Tensor
        ``(subjects, ...)``, summed over features; below 0 where the forecast helps.
    """
    changes = []
    for subject in range(len(cross)):
        others = torch.arange(len(cross)) != subject
        gain = shrunk_gain(cross[others], power[others])
        changes.append((gain * (gain * power[subject] - 2 * cross[subject])).sum(-1))
    return torch.stack(changes)


def choose_option(changes: Tensor) -> int | None:
    """Choose what lowers the held-out error most, if it does so by more than one standard error.

    The best of many options lowers it somewhat where none has anything to say.

    Parameters
    ----------
    changes : torch.Tensor
        Change of the squared error of each subject by each option, ``(subjects, options)``, at least two subjects.

    Returns
    -------
    int or None
        The option; None: better none of them.
    """
    best = int(changes.sum(0).argmin())
    error = changes[:, best].std() * len(changes) ** 0.5
    return best if bool(changes[:, best].sum() + error < 0) else None
