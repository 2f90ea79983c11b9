"""What the training subjects share: how much of each component, and how far a forecast from it is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from titan_neuro.ops.films import Film, first_scored
from titan_neuro.typing import FrameRun

Run = TypeVar("Run", bound=FrameRun)


def group_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by subject; where there is one subject, each run is a group."""
    several = len({run.subject for run in runs}) > 1
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.subject if several else run.key, []).append(run)
    return list(groups.values())


def locate(film: Film, run: FrameRun) -> int:
    """Return which frame of the film a run's frame 0 is; negative where the film begins later."""
    return int(film.scored.int().argmax()) - first_scored(run)


def isc_weights(pairs: Sequence[tuple[FrameRun, Film]], n_components: int) -> Tensor:
    """Weigh components by their inter-subject correlation, each subject against the average of the others.

    Parameters
    ----------
    pairs : sequence of (FrameRun, Film)
        Runs, each with the average of the other subjects' runs of its stimulus; their first features are components.
    n_components : int

    Returns
    -------
    torch.Tensor
        ``(components,)``: the mean correlation, 0 where it is negative; ones where nobody saw what another saw, or
        nothing correlates.
    """
    total = torch.zeros(n_components)
    for run, film in pairs:
        offset = locate(film, run)
        rows = torch.as_tensor(run.scored).nonzero()[:, 0]
        rows = rows[(rows + offset >= 0) & (rows + offset < len(film.frames))]
        own, others = run.read(0, run.n_frames)[rows, :n_components], film.frames[rows + offset, :n_components]
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
    """Change of the squared error by a forecast, the gain of each subject fitted on the others.

    Parameters
    ----------
    cross, power : torch.Tensor
        See :func:`shrunk_gain`: ``(subjects, ..., features)``.

    Returns
    -------
    torch.Tensor
        ``(...)``: summed over subjects and features; below 0 where the forecast helps. 0 with one subject.
    """
    change = torch.zeros(cross.shape[1:-1], dtype=cross.dtype)
    if len(cross) == 1:
        return change
    for subject in range(len(cross)):
        others = torch.arange(len(cross)) != subject
        gain = shrunk_gain(cross[others], power[others])
        change += (gain * (gain * power[subject] - 2 * cross[subject])).sum(-1)
    return change
