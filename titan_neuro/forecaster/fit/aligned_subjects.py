"""All subjects' runs of the shared stimuli, aligned where each stimulus begins."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.components import ComponentRun, SpatialComponents


@dataclass(frozen=True, eq=False)
class AlignedSubjects:
    """Runs of all stimuli that at least two subjects saw, one stimulus after the other.

    Attributes
    ----------
    innovations, series : torch.Tensor
        ``(subjects, positions, width)``; 0 where a subject has no data.
    present : torch.Tensor
        bool ``(subjects, positions)``: whether the subject has data.
    stimulus : torch.Tensor
        int ``(positions,)``: number of the stimulus.
    offsets : dict of str to int
        Position at which each stimulus begins, by its name.
    """

    innovations: Tensor
    series: Tensor
    present: Tensor
    stimulus: Tensor
    offsets: dict[str, int]

    @property
    def continues(self) -> Tensor:
        """1 where the position before belongs to the same stimulus, else 0; ``(positions,)``."""
        return (self.stimulus == self.stimulus.roll(1)).float().index_fill(0, torch.tensor(0), 0.0)

    def average(self, values: Tensor, without: Collection[int] = ()) -> Tensor:
        """Intersubject average.

        Parameters
        ----------
        values : torch.Tensor
            `innovations` or `series`.
        without : collection of int
            Indices of the subjects to leave out.

        Returns
        -------
        torch.Tensor
            ``(positions, width)``; 0 where no subject has data.
        """
        weight = self.present.float().index_fill(0, torch.tensor(sorted(without), dtype=torch.long), 0.0)
        return torch.einsum("sn,snd->nd", weight / weight.sum(0).clamp_min(1), values)

    def along_run(self, run: ComponentRun, values: Tensor) -> Tensor:
        """`values`, ``(positions, width)``, at each time point of a run: ``(time, width)``; 0 before the stimulus."""
        since_start = torch.arange(len(run.series)) - run.stimulus_start
        rows = values[self.offsets[run.stimulus] + since_start.clamp_min(0)]
        return rows * (since_start >= 0)[:, None]


def align_subjects(runs: Sequence[ComponentRun], n_subjects: int, components: SpatialComponents) -> AlignedSubjects:
    """Align the runs of each stimulus that at least two subjects saw, at the start of the stimulus."""
    by_stimulus: dict[str, list[ComponentRun]] = {}
    for run in runs:
        by_stimulus.setdefault(run.stimulus, []).append(run)
    shared = [name for name in sorted(by_stimulus) if len({run.subject for run in by_stimulus[name]}) > 1]
    numbers: list[int] = []
    offsets: dict[str, int] = {}
    for number, name in enumerate(shared):
        offsets[name] = len(numbers)
        numbers += [number] * max(len(run.series) - run.stimulus_start for run in by_stimulus[name])
    innovations = torch.zeros(n_subjects, len(numbers), components.sizes.width)
    series, n_runs = torch.zeros_like(innovations), torch.zeros(innovations.shape[:2])
    for run in runs:
        if run.stimulus in offsets:
            start, n_time_points = offsets[run.stimulus], len(run.series) - run.stimulus_start
            positions = slice(start, start + n_time_points)
            innovations[run.subject, positions] += run.innovations[run.stimulus_start :]
            series[run.subject, positions] += run.series[run.stimulus_start :]
            n_runs[run.subject, positions] += 1
    # A subject who saw a stimulus twice counts once.
    innovations /= n_runs.clamp_min(1)[..., None]
    series /= n_runs.clamp_min(1)[..., None]
    return AlignedSubjects(innovations, series, n_runs > 0, torch.tensor(numbers), offsets)
