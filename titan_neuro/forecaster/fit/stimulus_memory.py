"""Fit the stimulus memory: keys, values, and how its positions are inferred."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from titan_neuro.forecaster.fit.aligned_subjects import AlignedSubjects
from titan_neuro.forecaster.fit.components import ComponentRun, SpatialComponents, pad_rows
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemory, StimulusMemoryFit
from titan_neuro.forecaster.recall.stimulus_position import position_probabilities

# Time points on which choices are made: more of them make choosing slower, not better.
CHOICE_TIME_POINTS = 12_000
_DECAYS = (0.9, 0.95, 0.98, 0.99, 0.998)
# Neighboring time points are redundant: every third is enough for a choice.
_EVERY = 3
_SHARPNESS = (0.125, 0.25, 0.5, 1.0, 2.0)
# Dimensions of the keys, beside all of them: few serve best in Sherlock, all in a sitcom (docs/log.md).
_DIMENSIONS = (16, 64)
# Shrinks the covariance of the noise to its diagonal: its small eigenvalues are estimated badly.
_SHRINKAGE = 0.1
_ROUNDING = 1e-6


def runs_for_choices(runs: Sequence[ComponentRun]) -> list[int]:
    """Indices of the runs on which choices are made, evenly spread over subjects and stimuli."""
    every = max(1, -(-sum(len(run.series) for run in runs) // CHOICE_TIME_POINTS))
    by_stimulus: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        by_stimulus.setdefault(run.stimulus, []).append(index)
    # Each stimulus starts with another subject: else one run of every so many could always be the same stimulus.
    return sorted(
        index for start, members in enumerate(by_stimulus.values()) for index in members[start % every :: every]
    )


@dataclasses.dataclass(frozen=True, eq=False)
class StimulusAverages:
    """Keys and values of a stimulus memory, averaged over all subjects or over some of them.

    Attributes
    ----------
    aligned : AlignedSubjects
        Runs of the shared stimuli.
    key_map : torch.Tensor
        ``(width, width)``: averaged innovations times it are keys.
    key_map_without : torch.Tensor
        ``(subjects, width, width)``: fitted without each subject.
    directions : torch.Tensor
        ``(components, width)``: of the values.
    """

    aligned: AlignedSubjects
    key_map: Tensor
    key_map_without: Tensor
    directions: Tensor

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """Keys ``(positions, width)`` and values ``(positions, components)``; both are 0 where nobody has data."""
        return self._averages((), self.key_map)

    def leave_one_out(self, without: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """Keys and values without each subject, ``(subjects, ...)``; and none of them with the subjects `without`."""
        averages = (
            self._averages({subject, *without}, key_map) for subject, key_map in enumerate(self.key_map_without)
        )
        keys, values = zip(*averages, strict=True)
        return torch.stack(keys), torch.stack(values)

    def _averages(self, without: Collection[int], key_map: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.aligned.average(self.aligned.innovations, without) @ key_map
        return keys, self.aligned.average(self.aligned.series, without) @ self.directions.T


def fit_stimulus_memory(
    runs: Sequence[ComponentRun],
    aligned: AlignedSubjects,
    components: SpatialComponents,
    horizons: tuple[int, ...],
) -> tuple[StimulusMemoryFit, StimulusAverages | None]:
    """Compute keys and values, and choose their dimensions, decay and sharpness by the error of forecasts from them.

    Each training subject is read as a new one: without it in averages, slopes and covariance of the noise. A covariance
    that holds a subject's noise finds the position of this subject, and of nobody else.

    Parameters
    ----------
    runs : sequence of ComponentRun
        All training runs.
    aligned : AlignedSubjects
        Those of shared stimuli.
    components : SpatialComponents
    horizons : tuple of int
        Lead times in time points.

    Returns
    -------
    fit : StimulusMemoryFit
        Its weights are still 0: see :func:`titan_neuro.forecaster.fit.linear_maps.fit_linear_maps`.
    averages : StimulusAverages or None
        From which keys and values without further subjects follow; None where no stimulus is shared.
    """
    width, n_components = components.sizes.width, components.sizes.n_components
    empty = StimulusMemoryFit.empty(n_components=n_components, n_horizons=len(horizons), width=width)
    if not len(aligned.stimulus):
        return empty, None
    everyone = range(len(aligned.present))
    total = _agreement(runs, aligned, ())
    # Of two subjects, nobody is left to agree with where one is left out.
    others = [_agreement(runs, aligned, {subject}) if len(everyone) > 2 else total for subject in everyone]
    variances, axes = torch.linalg.eigh(total.own.double())
    axes = axes.T.flip(0).float()
    n_spanned = max(1, int((variances > _ROUNDING * variances[-1]).sum()))
    directions = components.stimulus_directions
    sample = [runs[index] for index in runs_for_choices(runs)]

    def with_dimensions(n_dimensions: int) -> tuple[StimulusMemoryFit, StimulusAverages]:
        whitening, key_map = total.fit_maps(axes, n_dimensions)
        maps_without = zip(*(agreement.fit_maps(axes, n_dimensions) for agreement in others), strict=True)
        whitening_without, key_map_without = map(torch.stack, maps_without)
        averages = StimulusAverages(aligned, key_map, key_map_without, pad_rows(directions, n_components))
        keys, values = averages.keys_and_values()
        keys_without, values_without = averages.leave_one_out()
        fit = dataclasses.replace(
            empty,
            whitening=whitening,
            keys=keys,
            values=values,
            continues=aligned.continues,
            whitening_without=whitening_without,
            keys_without=keys_without,
            values_without=values_without,
        )
        return fit, averages

    def errors(fit: StimulusMemoryFit, decay: float) -> list[tuple[float, float, float]]:
        memory = StimulusMemory(n_components=n_components, horizons=horizons, width=width)
        memory.load(fit)
        return _errors(memory, sample, directions, decay)

    candidates = [with_dimensions(n) for n in sorted({min(n, n_spanned) for n in (*_DIMENSIONS, n_spanned)})]
    slowest = [errors(candidate, _DECAYS[-1]) for candidate, _ in candidates]
    best = slowest.index(min(slowest, key=min))
    fit, averages = candidates[best]
    _, decay, sharpness = min([*slowest[best], *(one for decay in _DECAYS[:-1] for one in errors(fit, decay))])
    return dataclasses.replace(fit, decay=torch.tensor(decay), sharpness=torch.tensor(sharpness)), averages


@dataclasses.dataclass(frozen=True, eq=False)
class _Agreement:
    """Sums of products of innovations ``x`` and the average ``a`` of the other subjects, ``(width, width)`` each.

    Attributes
    ----------
    own, cross, others : torch.Tensor
        ``x^T x``, ``x^T a`` and ``a^T a``.
    n_rows : int
        Time points.
    """

    own: Tensor
    cross: Tensor
    others: Tensor
    n_rows: int

    def fit_maps(self, axes: Tensor, n_dimensions: int) -> tuple[Tensor, Tensor]:
        """Maps to whitened dimensions, from innovations and from their average, ``(width, width)`` each.

        In the first `n_dimensions` of `axes`, ``(axes, width)``, innovations are a slope times the average, plus noise,
        whose covariance becomes 1. Columns of further dimensions are 0.
        """
        axes = axes[:n_dimensions].T
        own, cross, others = (axes.T @ product @ axes for product in (self.own, self.cross, self.others))
        # A negative slope has no meaning.
        slope = (cross.diagonal() / others.diagonal().clamp_min(1e-12)).clamp(0, 1)
        explained = cross * slope
        noise = (own - explained - explained.T + slope[:, None] * others * slope) / max(1, self.n_rows)
        shrunk = (1 - _SHRINKAGE) * noise + _SHRINKAGE * torch.diag(noise.diagonal())
        shrunk += _ROUNDING * noise.trace().clamp_min(_ROUNDING) * torch.eye(len(noise))
        whitening = torch.linalg.cholesky(torch.linalg.inv(shrunk.double())).float()
        padding = (0, len(axes) - n_dimensions)
        return F.pad(axes @ whitening, padding), F.pad((axes * slope) @ whitening, padding)


def _agreement(runs: Sequence[ComponentRun], aligned: AlignedSubjects, without: Collection[int]) -> _Agreement:
    """Sums over the scored time points of shared stimuli; nothing of them follows from the subjects `without`."""
    own, cross, others = torch.zeros(3, *[aligned.innovations.shape[2]] * 2)
    n_rows = 0
    for run in runs:
        if run.stimulus in aligned.offsets and run.subject not in without:
            average = aligned.average(aligned.innovations, {run.subject, *without})
            average = aligned.along_run(run, average)[run.scored]
            innovations = run.innovations[run.scored]
            own += innovations.T @ innovations
            cross += innovations.T @ average
            others += average.T @ average
            n_rows += len(average)
    return _Agreement(own, cross, others, n_rows)


def _errors(
    memory: StimulusMemory, runs: Sequence[ComponentRun], directions: Tensor, decay: float
) -> list[tuple[float, float, float]]:
    """For each sharpness: squared error, decay, sharpness.

    The error is that of the expected values as forecasts, each component with its best slope; less a constant that is
    the same for all choices.
    """
    sums = torch.zeros(len(_SHARPNESS), 2, len(directions))
    for run in runs:
        subject = run.subject_index
        evidence, _ = memory.accumulate(run.innovations[None], memory.init_state(1), decay, subject)
        for choice, sharpness in enumerate(_SHARPNESS):
            probabilities = position_probabilities(evidence[:, ::_EVERY], sharpness)
            expected = memory.expected_values(probabilities, memory.horizons, subject)[0, :, :, : len(directions)]
            for index, horizon in enumerate(memory.horizons):
                targets = run.errors[horizon:, index][::_EVERY] @ directions.T
                forecasts = expected[: len(targets), index] * run.scored[horizon::_EVERY, None]
                sums[choice, 0] += (forecasts * targets).sum(0)
                sums[choice, 1] += forecasts.square().sum(0)
    removed = sums[:, 0].clamp_min(0).square() / sums[:, 1].clamp_min(1e-12)
    return [(-float(error), decay, sharpness) for error, sharpness in zip(removed.sum(dim=1), _SHARPNESS, strict=True)]
