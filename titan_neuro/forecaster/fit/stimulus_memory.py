"""Fit the stimulus memory: keys, values, and how its positions are inferred."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import torch
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
_SHARPNESS = (0.125, 0.25, 0.5, 1.0)
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
    slope : torch.Tensor
        ``(width,)``: of a subject's innovations on the average of the others.
    whitening : torch.Tensor
        ``(width, width)``: innovations times it have noise of covariance 1.
    directions : torch.Tensor
        ``(components, width)``: of the values.
    """

    aligned: AlignedSubjects
    slope: Tensor
    whitening: Tensor
    directions: Tensor

    def keys_and_values(self, without: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """Keys ``(positions, width)`` and values ``(positions, components)`` without some subjects, by their indices.

        Both are 0 where no other subject has data.
        """
        keys = (self.aligned.average(self.aligned.innovations, without) * self.slope) @ self.whitening
        return keys, self.aligned.average(self.aligned.series, without) @ self.directions.T

    def leave_one_out(self, without: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """Keys and values without each subject, ``(subjects, ...)``; and none of them with the subjects `without`."""
        averages = (self.keys_and_values({subject, *without}) for subject in range(len(self.aligned.present)))
        keys, values = zip(*averages, strict=True)
        return torch.stack(keys), torch.stack(values)


def fit_stimulus_memory(
    runs: Sequence[ComponentRun],
    aligned: AlignedSubjects,
    components: SpatialComponents,
    horizons: tuple[int, ...],
) -> tuple[StimulusMemoryFit, StimulusAverages | None]:
    """Compute keys and values, and choose decay and sharpness by the error of forecasts from the values.

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
    slope, noise = _signal_and_noise(runs, aligned)
    shrunk = (1 - _SHRINKAGE) * noise + _SHRINKAGE * torch.diag(noise.diagonal())
    shrunk += _ROUNDING * noise.trace().clamp_min(_ROUNDING) * torch.eye(width)
    whitening = torch.linalg.cholesky(torch.linalg.inv(shrunk.double())).float()
    directions = components.stimulus_directions
    averages = StimulusAverages(aligned, slope, whitening, pad_rows(directions, n_components))
    keys, values = averages.keys_and_values()
    keys_without, values_without = averages.leave_one_out()
    fit = dataclasses.replace(
        empty,
        whitening=whitening,
        keys=keys,
        values=values,
        continues=aligned.continues,
        keys_without=keys_without,
        values_without=values_without,
    )
    memory = StimulusMemory(n_components=n_components, horizons=horizons, width=width)
    memory.load(fit)
    sample = [runs[index] for index in runs_for_choices(runs)]
    _, decay, sharpness = min(choice for decay in _DECAYS for choice in _errors(memory, sample, directions, decay))
    return dataclasses.replace(fit, decay=torch.tensor(decay), sharpness=torch.tensor(sharpness)), averages


def _signal_and_noise(runs: Sequence[ComponentRun], aligned: AlignedSubjects) -> tuple[Tensor, Tensor]:
    """Slope of a subject's innovations on the average of the others, ``(width,)``, and covariance of the residual."""
    product = power = torch.zeros(())
    pairs = []
    for run in runs:
        if run.stimulus in aligned.offsets:
            average = aligned.along_run(run, aligned.average(aligned.innovations, {run.subject}))
            pairs.append((run.innovations[run.scored], average[run.scored]))
            product = product + (pairs[-1][0] * pairs[-1][1]).sum(0)
            power = power + pairs[-1][1].square().sum(0)
    # A negative slope has no meaning.
    slope = (product / power.clamp_min(1e-12)).clamp(0, 1)
    residual = torch.cat([innovations - slope * average for innovations, average in pairs])
    return slope, residual.T @ residual / len(residual)


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
