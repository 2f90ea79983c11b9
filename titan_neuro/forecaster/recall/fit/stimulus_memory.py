"""The stimulus as the training subjects have seen it, and how its moments are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.forecaster.recall.fit.components import ComponentRun, held_out_index
from titan_neuro.forecaster.recall.recall import Recall
from titan_neuro.forecaster.recall.stimulus_position import position_probabilities

# Time points by which choices are made: more of them make choosing slower, not better.
CHOOSING_TIME_POINTS = 12_000
_DECAYS = (0.9, 0.95, 0.98, 0.99, 0.998)
# Of neighboring time points one is enough to choose by.
_EVERY = 3
_SHARPNESS = (0.125, 0.25, 0.5, 1.0)
# Shrinks the noise's covariance to its diagonal, since its small ends are estimated badly.
_SHRINKAGE = 0.1
_ROUNDING = 1e-6


@dataclass(eq=False)
class StimulusAverages:
    """All stimuli that two subjects or more have seen, one after the other.

    Attributes
    ----------
    innovations, series : torch.Tensor
        Each subject's own, ``(subjects, positions, width)``; 0 where it was not there.
    present : torch.Tensor
        bool ``(subjects, positions)``.
    stimulus : torch.Tensor
        int ``(positions,)``: which stimulus.
    """

    innovations: Tensor
    series: Tensor
    present: Tensor
    stimulus: Tensor

    @property
    def follows(self) -> Tensor:
        """1 where the moment before belongs to the same stimulus, else 0; ``(positions,)``."""
        return (self.stimulus == self.stimulus.roll(1)).float().index_fill(0, torch.tensor(0), 0.0)

    def average(self, values: Tensor, without: int | None = None) -> Tensor:
        """Mean over the subjects that were there, ``(positions, width)``, or over all but one; 0 where there is none."""
        weight = self.present.float()
        if without is not None:
            weight = weight.index_fill(0, torch.tensor(without), 0.0)
        return torch.einsum("sn,snd->nd", weight / weight.sum(0).clamp_min(1), values)


def choosing(runs: Sequence[ComponentRun]) -> list[int]:
    """Indices of the runs by which choices are made, evenly spread over subjects and over what was shown."""
    every = max(1, -(-sum(len(run.series) for run in runs) // CHOOSING_TIME_POINTS))
    shown: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        shown.setdefault(run.stimulus, []).append(index)
    # Counted through, one run of every so many could always be the same part of the stimulus.
    return sorted(index for start, which in enumerate(shown.values()) for index in which[start % every :: every])


def collect_stimuli(made: Sequence[ComponentRun], n_subjects: int, width: int) -> StimulusAverages:
    """Line up the runs of each stimulus that two subjects or more have seen, from where it begins."""
    shown: dict[str, list[ComponentRun]] = {}
    for run in made:
        shown.setdefault(run.stimulus, []).append(run)
    shared = [shown[name] for name in sorted(shown) if len({member.subject for member in shown[name]}) > 1]
    which: list[int] = []
    for number, members in enumerate(shared):
        for member in members:
            member.stimulus_offset = len(which)
        which += [number] * max(len(member.series) - member.stimulus_start for member in members)
    size = (n_subjects, len(which), width)
    stimuli = StimulusAverages(
        torch.zeros(size), torch.zeros(size), torch.zeros(size[:2], dtype=torch.bool), torch.tensor(which)
    )
    n_runs = torch.zeros(size[:2])
    for member in made:
        if member.stimulus_offset is not None:
            place = slice(member.stimulus_offset, member.stimulus_offset + len(member.series) - member.stimulus_start)
            stimuli.innovations[member.subject, place] += member.innovations[member.stimulus_start :]
            stimuli.series[member.subject, place] += member.series[member.stimulus_start :]
            n_runs[member.subject, place] += 1
    # Who saw a stimulus twice counts once.
    stimuli.innovations.div_(n_runs.clamp_min(1)[..., None])
    stimuli.series.div_(n_runs.clamp_min(1)[..., None])
    stimuli.present.copy_(n_runs > 0)
    return stimuli


def fit_stimulus_memory(
    recall: Recall, made: Sequence[ComponentRun], stimuli: StimulusAverages, directions: Tensor
) -> None:
    """Set by what, and how sharply, moments are found: by the error of what is read from them.

    Parameters
    ----------
    recall : Recall
        Gets a new stimulus memory; its reader is still 0.
    made : sequence of ComponentRun
    stimuli : StimulusAverages
    directions : torch.Tensor
        Components of the stimulus, ``(components, width)``.
    """
    recall.stimulus = stimulus = recall.init_stimulus_memory(len(stimuli.stimulus))
    if not stimulus.n_positions:
        return
    gain, noise = _signal_and_noise(made, stimuli)
    shrunk = (1 - _SHRINKAGE) * noise + _SHRINKAGE * torch.diag(noise.diagonal())
    shrunk += _ROUNDING * noise.trace().clamp_min(_ROUNDING) * torch.eye(recall.width)
    whitening = torch.linalg.cholesky(torch.linalg.inv(shrunk.double())).float()
    stimulus.whitening.copy_(whitening)
    stimulus.follows.copy_(stimuli.follows)

    def tokens(without: int | None) -> tuple[Tensor, Tensor]:
        keys = (stimuli.average(stimuli.innovations, without) * gain) @ whitening
        values = stimulus.values.new_zeros(stimulus.values.shape)
        values[:, : len(directions)] = stimuli.average(stimuli.series, without) @ directions.T
        return keys, values

    stimulus.keys, stimulus.values = tokens(None)
    keys, values = zip(*(tokens(subject) for subject in range(len(stimuli.present))), strict=True)
    stimulus.set_held_out(torch.stack(keys), torch.stack(values))

    chosen = [made[index] for index in choosing(made)]
    best = min(choice for decay in _DECAYS for choice in _errors(recall, chosen, directions, decay))
    stimulus.decay.fill_(best[1])
    stimulus.sharpness.fill_(best[2])


def _signal_and_noise(made: Sequence[ComponentRun], stimuli: StimulusAverages) -> tuple[Tensor, Tensor]:
    """How much of the others' mean innovations a subject shows, ``(width,)``, and the covariance of the rest."""
    product = spread = torch.zeros(())
    pairs = []
    for run in made:
        if run.stimulus_offset is not None:
            others = along(run, stimuli.average(stimuli.innovations, run.subject))
            pairs.append((run.innovations[run.scored], others[run.scored]))
            product = product + (pairs[-1][0] * pairs[-1][1]).sum(0)
            spread = spread + pairs[-1][1].square().sum(0)
    # An average that a subject follows with the wrong sign tells nothing.
    gain = (product / spread.clamp_min(1e-12)).clamp(0, 1)
    rest = torch.cat([own - gain * others for own, others in pairs])
    return gain, rest.T @ rest / len(rest)


def along(run: ComponentRun, values: Tensor) -> Tensor:
    """Rows of the stimuli at the time points of a run, ``(time, width)``; 0 before the stimulus's beginning."""
    since = torch.arange(len(run.series)) - run.stimulus_start
    return values[(run.stimulus_offset or 0) + since.clamp_min(0)] * (since >= 0)[:, None]


def _errors(
    recall: Recall, chosen: Sequence[ComponentRun], directions: Tensor, decay: float
) -> list[tuple[float, float, float]]:
    """For each sharpness, (error, decay, sharpness): squared error of what is read, with the best gain for each
    component, up to what is the same for all choices.
    """
    stimulus = recall.stimulus
    sums = torch.zeros(len(_SHARPNESS), 2, len(directions))
    for run in chosen:
        subject = held_out_index(run)[:, 0]
        course, _ = stimulus.weigh(run.innovations[None], stimulus.init_state(1), decay, subject)
        for choice, sharpness in enumerate(_SHARPNESS):
            probabilities = position_probabilities(course[:, ::_EVERY], sharpness)
            recalled = stimulus.show(probabilities, recall.horizons, subject)[0, :, :, : len(directions)]
            for index, horizon in enumerate(recall.horizons):
                ahead_of = run.errors[horizon:, index][::_EVERY] @ directions.T
                read = recalled[: len(ahead_of), index] * run.scored[horizon::_EVERY, None]
                sums[choice, 0] += (read * ahead_of).sum(0)
                sums[choice, 1] += read.square().sum(0)
    gained = sums[:, 0].clamp_min(0).square() / sums[:, 1].clamp_min(1e-12)
    return [(-float(gain), decay, sharpness) for gain, sharpness in zip(gained.sum(dim=1), _SHARPNESS, strict=True)]
