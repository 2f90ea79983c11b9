"""Spatial components, and the training runs in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from titan_neuro.forecaster.recall.recall import Recall
from titan_neuro.linear.autoregression import autoregress
from titan_neuro.linear.components import orthonormal_union, principal_components
from titan_neuro.linear.stimulus_average import average_over_subjects
from titan_neuro.typing import RunData

# Time points that components are found from; the work grows with their square.
_SAMPLED_TIME_POINTS = 1500
_BLOCK_TIME_POINTS = 64
_MAX_FOLDS = 4
# With so many time points a feature nothing has to be left out; with fewer, components have to be few: of a synthetic
# dataset with 1,084 voxels and 1,600 time points 32 served best.
_FRAMES_PER_FEATURE, _FRAMES_PER_COMPONENT = 25, 50


@dataclass(eq=False)
class ComponentRun:
    """A training run in components.

    Attributes
    ----------
    subject : int
        Index.
    stimulus : str
        What was shown.
    stimulus_start : int
        Time point at which the stimulus begins.
    series : torch.Tensor
        ``(time, width)``.
    errors : torch.Tensor
        What each time point showed beyond the linear forecasts of it, ``(time, horizons, width)``; 0 where there were
        none.
    scored : torch.Tensor
        bool ``(time,)``.
    stimulus_offset : int
        Where the run's stimulus begins among the stimuli; set by `collect_stimuli`.
    base : torch.Tensor
        Forecasts without the memory, from weights that were fitted without the run's fold, so that what is left of its
        errors is as large as it will be in a subject of the test; set by `fit_linear`.
    fold : int
        Runs of one fold are held out together.
    """

    subject: int
    stimulus: str
    stimulus_start: int
    series: Tensor
    errors: Tensor
    scored: Tensor
    stimulus_offset: int | None = None
    base: Tensor = field(default_factory=lambda: torch.empty(0))
    fold: int = 0

    @property
    def innovations(self) -> Tensor:
        """Errors of the shortest horizon, ``(time, width)``."""
        return self.errors[:, 0]


def find_components(
    recall: Recall, runs: Sequence[RunData], coefficients: Tensor, intercept: Tensor, *, has_stimulus: bool = True
) -> Tensor:
    """Set the basis, the components of the stimulus and those of single brains together.

    Where there is no stimulus to be recognized (`has_stimulus`), components need not be few: ridge penalties do.

    Returns
    -------
    torch.Tensor
        The stimulus's components in the basis, ``(components, width)``.
    """
    lengths: dict[str, int] = {}
    for run in runs:
        lengths[run.stimulus] = max(run.n_time_points, lengths.get(run.stimulus, 0))
    stimuli = average_over_subjects(runs, every=-(-sum(lengths.values()) // _SAMPLED_TIME_POINTS))
    n_time_points, most, n_own = sum(int(run.scored.sum()) for run in runs), recall.width, recall.n_own
    if has_stimulus and n_time_points < _FRAMES_PER_FEATURE * runs[0].n_features:
        # More components than the time points can tell apart would hold the noise of those who are fitted on.
        most = min(most, max(2, n_time_points // _FRAMES_PER_COMPONENT))
        n_own = min(n_own, most // 2)
    stimulus = principal_components(torch.cat([part.series[part.scored] for part in stimuli]), n_own)
    samples = _sample_errors(runs, coefficients, intercept, recall.horizons[0])
    own = principal_components(samples, most)
    basis = orthonormal_union(stimulus, own)[:most]
    _fill(recall.basis, basis)
    _fill(recall.own_directions, principal_components(samples @ recall.basis.T, n_own))
    return stimulus @ recall.basis.T


def find_present_components(recall: Recall, made: Sequence[ComponentRun]) -> None:
    """Set the components of time points that the linear forecast looks back at; ridge penalties keep their maps small."""
    series = torch.cat([run.series[run.scored] for run in made])
    _fill(recall.present_directions, principal_components(series, recall.n_own))


def _fill(rows: Tensor, found: Tensor) -> None:
    rows.zero_()
    rows[: len(found)] = found


def _sample_errors(runs: Sequence[RunData], coefficients: Tensor, intercept: Tensor, horizon: int) -> Tensor:
    """Errors of the shortest forecasts of some scored time points, evenly spread over all runs, ``(samples,
    features)``.
    """
    every = max(1, -(-sum(int(run.scored.sum()) for run in runs) // _SAMPLED_TIME_POINTS))
    before = coefficients.shape[1] - 1 + horizon
    found = []
    for run in runs:
        # Of the first time points, not all that they are forecast from lies inside the run.
        wanted = torch.as_tensor(run.scored).nonzero()[::every, 0]
        wanted = wanted[wanted >= before]
        for start in range(before, run.n_time_points, _BLOCK_TIME_POINTS):
            stop = min(start + _BLOCK_TIME_POINTS, run.n_time_points)
            targets = wanted[(wanted >= start) & (wanted < stop)] - start
            if len(targets):
                series = run.read(start - before, stop)
                history, present = series[: before - horizon], series[before - horizon : -horizon]
                forecasts, _ = autoregress(present, history, coefficients[:1], intercept[:1])
                found.append(series[before + targets] - forecasts[targets, 0])
    return torch.cat(found)


def project_run(recall: Recall, run: RunData, subject: int, coefficients: Tensor, intercept: Tensor) -> ComponentRun:
    """Read one run, block by block, and keep its components."""
    n_horizons, order, n_features = coefficients.shape
    history = torch.zeros(order - 1, n_features)
    series, forecasts = [], []
    for start in range(0, run.n_time_points, _BLOCK_TIME_POINTS):
        block = run.read(start, min(start + _BLOCK_TIME_POINTS, run.n_time_points))
        forecast, history = autoregress(block, history, coefficients, intercept)
        series.append(block @ recall.basis.T)
        forecasts.append(forecast @ recall.basis.T)
    seen, expected = torch.cat(series), torch.cat(forecasts)
    errors = torch.zeros(len(seen), n_horizons, recall.width)
    for index, horizon in enumerate(recall.horizons):
        errors[horizon:, index] = seen[horizon:] - expected[:-horizon, index]
    return ComponentRun(subject, run.stimulus, run.stimulus_start, seen, errors, torch.as_tensor(run.scored))


def group_runs(made: Sequence[ComponentRun], *, stimulus_is_shared: bool = True) -> list[int]:
    """Fold of each run: what is held out of a choice is what the test will be new in.

    Subjects; or what was shown, where the test is shown something else: what one stimulus's scenes have in common in
    all brains would pass for how brains go on. Runs, where there is one of either.
    """
    kinds: list[str | int] = [run.subject if stimulus_is_shared else run.stimulus for run in made]
    if len(set(kinds)) == 1:
        return [place % _MAX_FOLDS for place in range(len(made))]
    units = list(dict.fromkeys(kinds))
    return [units.index(kind) % _MAX_FOLDS for kind in kinds]


def held_out_index(run: ComponentRun) -> Tensor:
    """Subject and fold of a run, for the parts of a recall that are read without them; ``(1, 2)``."""
    return torch.tensor([[run.subject, run.fold]])


def residual_of(recall: Recall, run: ComponentRun, index: int) -> Tensor:
    """What is left of each time point's error, at the horizon of this index, by the forecasts so far; ``(time,
    width)``.
    """
    horizon = recall.horizons[index]
    left = torch.zeros_like(run.errors[:, index])
    left[horizon:] = run.errors[horizon:, index] - run.base[:-horizon, index]
    return left
