"""Spatial components of the training runs, and the runs in these components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.start import FitStart
from titan_neuro.forecaster.recall.config import RecallConfig, RecallSizes
from titan_neuro.linear.autoregression import Autoregression, autoregress, autoregress_blocks
from titan_neuro.linear.components import orthonormal_union, principal_components
from titan_neuro.linear.lead_time import at_target_time
from titan_neuro.linear.stimulus_average import average_over_subjects
from titan_neuro.runs import read_blocks
from titan_neuro.typing import RunData

# Time points from which components are computed; the cost grows with their square.
_SAMPLED_TIME_POINTS = 1500
# A block's forecasts at all horizons are in memory: fewer time points than elsewhere.
_BLOCK_TIME_POINTS = 64
_MAX_FOLDS = 4
# With this many time points a feature all components are used; with fewer, one for this many time points: with
# 1,084 voxels and 1,600 time points of a synthetic dataset 32 components served best.
_TIME_POINTS_PER_FEATURE, _TIME_POINTS_PER_COMPONENT = 10, 50


@dataclass(frozen=True, eq=False)
class SpatialComponents:
    """Directions in which runs are described.

    Attributes
    ----------
    sizes : RecallSizes
    basis : torch.Tensor
        ``(width, features)``, orthonormal rows; rows of zeros where the data have fewer dimensions.
    innovation_directions : torch.Tensor
        ``(components, width)``: principal directions of the innovations, in the basis.
    stimulus_directions : torch.Tensor
        ``(stimulus components, width)``: in the basis, principal directions of the intersubject averages, or, where
        the time points are few, of the innovations.
    """

    sizes: RecallSizes
    basis: Tensor
    innovation_directions: Tensor
    stimulus_directions: Tensor


@dataclass(frozen=True, eq=False)
class ComponentRun:
    """A training run in the basis.

    Attributes
    ----------
    subject, fold : int
        Indices of the subject, and of the cross-validation fold.
    stimulus : str
        What was shown.
    stimulus_start : int
        Time point at which the stimulus begins.
    series : torch.Tensor
        ``(time, width)``.
    errors : torch.Tensor
        Each time point less the linear forecasts of it, ``(time, horizons, width)``; 0 where there were none.
    scored : torch.Tensor
        bool ``(time,)``.
    """

    subject: int
    fold: int
    stimulus: str
    stimulus_start: int
    series: Tensor
    errors: Tensor
    scored: Tensor

    @property
    def innovations(self) -> Tensor:
        """Errors of the shortest horizon, ``(time, width)``."""
        return self.errors[:, 0]

    @property
    def subject_index(self) -> Tensor:
        """The subject, for modules that are read without it; int ``(1,)``."""
        return torch.tensor([self.subject])

    @property
    def fold_index(self) -> Tensor:
        """The fold, for modules that are read without it; int ``(1,)``."""
        return torch.tensor([self.fold])


def find_components(
    config: RecallConfig,
    runs: Sequence[RunData],
    linear: Autoregression,
    *,
    has_stimulus: bool = True,
    start: FitStart | None = None,
) -> SpatialComponents:
    """Find the basis: principal components of the intersubject averages and of the innovations together.

    Where the time points are few for the features, of the innovations alone: the averages' components are then
    directions in which the training subjects agree by chance. New subjects don't, and a training subject that is read
    without its own recording does.

    Parameters
    ----------
    config : RecallConfig
    runs : sequence of RunData
    linear : Autoregression
        Its errors at the shortest horizon are the innovations.
    has_stimulus : bool
        Whether a stimulus will be remembered. Without one all components are used, and ridge penalties suffice.
    start : FitStart, optional
        A model fitted before: its basis is taken, and only directions of the stimulus are found in it.

    Returns
    -------
    SpatialComponents
    """
    sizes = config.sizes(runs[0].n_features)
    n_time_points = sum(int(run.scored.sum()) for run in runs)
    is_short = n_time_points < _TIME_POINTS_PER_FEATURE * runs[0].n_features
    if start is not None:
        directions = start.innovation_directions
        if not is_short:
            directions = principal_components(_sample_averages(runs) @ start.basis.T, sizes.n_components)
        return SpatialComponents(sizes, start.basis, start.innovation_directions, directions)
    if has_stimulus and is_short:
        innovations = _sample_innovations(runs, linear)
        # More components than the time points can determine would hold the noise of the training subjects. Those of the
        # averages would be the directions in which these subjects agree by chance.
        n_basis = min(sizes.width, max(2, n_time_points // _TIME_POINTS_PER_COMPONENT))
        n_components = min(sizes.n_components, n_basis // 2)
        basis = pad_rows(principal_components(innovations, n_basis), sizes.width)
        directions = principal_components(innovations @ basis.T, n_components)
        return SpatialComponents(sizes, basis, pad_rows(directions, sizes.n_components), directions)
    # One sample after the other: of the voxels of a brain each takes more than a gigabyte.
    stimulus = principal_components(_sample_averages(runs), sizes.n_components)
    innovations = _sample_innovations(runs, linear)
    union = orthonormal_union(stimulus, principal_components(innovations, sizes.width))[: sizes.width]
    basis = pad_rows(union, sizes.width)
    directions = principal_components(innovations @ basis.T, sizes.n_components)
    return SpatialComponents(sizes, basis, pad_rows(directions, sizes.n_components), stimulus @ basis.T)


def principal_series_directions(runs: Sequence[ComponentRun], components: SpatialComponents) -> Tensor:
    """Principal directions of the scored time points, ``(components, width)``, for the vector autoregression."""
    series = torch.cat([run.series[run.scored] for run in runs])
    n_components = components.sizes.n_components
    return pad_rows(principal_components(series, n_components), n_components)


def pad_rows(rows: Tensor, n_rows: int) -> Tensor:
    """`rows`, ``(rows, columns)``, followed by rows of zeros: ``(n_rows, columns)``."""
    return torch.cat([rows, rows.new_zeros(n_rows - len(rows), rows.shape[1])])


def _sample_averages(runs: Sequence[RunData]) -> Tensor:
    """Scored time points of the intersubject averages, evenly sampled from all stimuli: ``(samples, features)``."""
    lengths: dict[str, int] = {}
    for run in runs:
        lengths[run.stimulus] = max(run.n_time_points, lengths.get(run.stimulus, 0))
    averages = average_over_subjects(runs, every=-(-sum(lengths.values()) // _SAMPLED_TIME_POINTS))
    return torch.cat([part.series[part.scored] for part in averages])


def _sample_innovations(runs: Sequence[RunData], linear: Autoregression) -> Tensor:
    """Errors at the shortest horizon of scored time points, evenly sampled from all runs: ``(samples, features)``."""
    every = max(1, -(-sum(int(run.scored.sum()) for run in runs) // _SAMPLED_TIME_POINTS))
    horizon = linear.horizons[0]
    n_before = linear.coefficients.shape[1] - 1 + horizon
    errors = []
    for run in runs:
        sampled = torch.as_tensor(run.scored).nonzero()[::every, 0]
        # Of the first time points, not all lags lie inside the run.
        sampled = sampled[sampled >= n_before]
        for block, series in read_blocks(run, _BLOCK_TIME_POINTS, start=n_before, n_before=n_before):
            targets = sampled[(sampled >= block.start) & (sampled < block.stop)] - block.start
            if len(targets):
                history, present = series[: n_before - horizon], series[n_before - horizon : -horizon]
                forecasts, _ = autoregress(present, history, linear.coefficients[:1], linear.intercept[:1])
                errors.append(series[n_before + targets] - forecasts[targets, 0])
    return torch.cat(errors)


def project_runs(
    runs: Sequence[RunData], basis: Tensor, linear: Autoregression, *, stimulus_is_shared: bool = True
) -> list[ComponentRun]:
    """Read each run, block by block, and describe it in the basis, ``(width, features)``."""
    subjects = sorted({run.subject for run in runs})
    folds = assign_choice_folds(runs, stimulus_is_shared=stimulus_is_shared)
    return [
        _project_run(run, subjects.index(run.subject), fold, basis, linear)
        for run, fold in zip(runs, folds, strict=True)
    ]


def _project_run(run: RunData, subject: int, fold: int, basis: Tensor, linear: Autoregression) -> ComponentRun:
    blocks = [
        (series @ basis.T, forecasts @ basis.T)
        for series, forecasts in autoregress_blocks(run, linear, _BLOCK_TIME_POINTS)
    ]
    series, forecasts = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    errors = series[:, None] - at_target_time(forecasts, linear.horizons)
    for index, horizon in enumerate(linear.horizons):
        errors[:horizon, index] = 0
    scored = torch.as_tensor(run.scored)
    return ComponentRun(subject, fold, run.stimulus, run.stimulus_start, series, errors, scored)


def assign_choice_folds(runs: Sequence[RunData], *, stimulus_is_shared: bool = True) -> list[int]:
    """Fold of each run, for choices: what is held out together is new in the test, too.

    That is a subject; or a stimulus, where the test shows another one: what the scenes of one stimulus have in common
    in all brains would pass for dynamics of the brain. Where there is one subject or stimulus, it is a run.
    """
    labels = [run.subject if stimulus_is_shared else run.stimulus for run in runs]
    if len(set(labels)) == 1:
        return [place % _MAX_FOLDS for place in range(len(runs))]
    units = list(dict.fromkeys(labels))
    return [units.index(label) % _MAX_FOLDS for label in labels]


def residual_errors(run: ComponentRun, forecasts: Tensor, horizons: Sequence[int]) -> Tensor:
    """Errors of the linear skip at each time point, less the forecasts of them: ``(time, horizons, width)``.

    Parameters
    ----------
    run : ComponentRun
    forecasts : torch.Tensor
        Of the errors, made at each time point, ``(time, horizons, width)``.
    horizons : sequence of int
        Lead times in time points.
    """
    return run.errors - at_target_time(forecasts, horizons)
