"""Fits that several baselines have in common, made once: the autoregression, and the training runs on a few axes.

VAR and analogs forecast the residuals of the autoregression. Both need the training runs in a form that fits into
memory whatever the number of voxels: their scores on principal components, and the residuals of the autoregression.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from titan_neuro.baselines.shrinkage import isc_weights
from titan_neuro.linear.autoregression import Autoregression, autoregress, autoregress_blocks, fit_autoregression
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.linear.lead_time import at_forecast_time
from titan_neuro.linear.stimulus_average import StimulusAverage, average_over_subjects
from titan_neuro.runs import InMemoryRun, group_runs, read_blocks
from titan_neuro.typing import RunData

Fit = TypeVar("Fit")

MAX_COMPONENTS = 200
# Up to so many features (parcels, that is) residuals are stored feature by feature; beyond, on the components.
MAX_PLAIN_FEATURES = 512
# Blocks are held with the forecasts of all lead times.
_BLOCK_TIME_POINTS = 128
# Most numbers in the sample from which the components are computed.
_PCA_NUMBERS = 2**27


@dataclass(frozen=True, eq=False)
class ResidualSpace:
    """Axes on which runs and residuals are represented.

    Attributes
    ----------
    autoregression : Autoregression
        The autoregression whose residuals these are.
    mean : torch.Tensor
        float32, ``(features,)``.
    components : torch.Tensor
        float32, ``(features, components)``: orthonormal principal axes of the training runs, largest variance first.
    variance : torch.Tensor
        float32, ``(components,)``.
    is_plain : bool
        Whether the axes of the residuals are the features; else they are the components.
    """

    autoregression: Autoregression
    mean: Tensor
    components: Tensor
    variance: Tensor
    is_plain: bool

    @property
    def n_residuals(self) -> int:
        """Number of axes of a residual."""
        return self.components.shape[0 if self.is_plain else 1]

    def score(self, series: Tensor) -> Tensor:
        """Principal component scores of time points: from ``(..., features)`` to ``(..., components)``."""
        return (series - self.mean) @ self.components

    def init_state(self) -> Tensor:
        """History of the autoregression before a run: zeros, ``(order - 1, features)``."""
        _, order, n_features = self.autoregression.coefficients.shape
        return torch.zeros(order - 1, n_features)

    def autoregress(self, series: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Forecasts ``(time, horizons, features)`` and history; see `titan_neuro.linear.autoregression.autoregress`."""
        return autoregress(series, history, self.autoregression.coefficients, self.autoregression.intercept)

    def to_residuals(self, series: Tensor) -> Tensor:
        """From features to the axes of the residuals: from ``(..., features)`` to ``(..., n_residuals)``."""
        return series if self.is_plain else series @ self.components

    def to_features(self, residuals: Tensor) -> Tensor:
        """From the axes of the residuals to features: from ``(..., n_residuals)`` to ``(..., features)``."""
        return residuals if self.is_plain else residuals @ self.components.T


@dataclass(eq=False, kw_only=True)
class ResidualRun(InMemoryRun):
    """A training run in a :class:`ResidualSpace`.

    Its `series`, float32 ``(time, components + horizons * n_residuals)``, holds the scores of time point ``t``; then,
    for each lead time ``h``, time point ``t + h`` minus its forecast by the autoregression at ``t``, or zeros after the
    end of the run. High motion is not marked, since it matters to scores alone.

    Attributes
    ----------
    horizons : tuple of int
        Lead times, in time points.
    n_components : int
    """

    horizons: tuple[int, ...]
    n_components: int

    @property
    def scores(self) -> Tensor:
        """``(time, components)``."""
        return self.series[:, : self.n_components]

    @property
    def residuals(self) -> Tensor:
        """``(time, horizons, n_residuals)``."""
        return self.series[:, self.n_components :].reshape(self.n_time_points, len(self.horizons), -1)

    @property
    def targets(self) -> Tensor:
        """Whether time point ``t + h`` is scored: bool, ``(time, horizons)``."""
        return at_forecast_time(torch.as_tensor(self.scored), self.horizons)


@dataclass(frozen=True, eq=False)
class SharedStimuli:
    """Average responses to each stimulus, over all training subjects and over all but one.

    Attributes
    ----------
    stimuli : list of StimulusAverage
        Averages of all training runs, one for each stimulus, with the features of a :class:`ResidualRun`.
    groups : list of list of ResidualRun
        The runs of each subject; where there is one subject, each run is a group.
    without_group : list of list of StimulusAverage
        For each group, the averages of all other groups.
    isc_weights : torch.Tensor
        ``(components,)``: leave-one-out intersubject correlation; see
        :func:`titan_neuro.baselines.shrinkage.isc_weights`.
    """

    stimuli: list[StimulusAverage]
    groups: list[list[ResidualRun]]
    without_group: list[list[StimulusAverage]]
    isc_weights: Tensor


@dataclass(eq=False)
class SharedFits:
    """Makes what several rows of one table need, and stores it until it is asked for other training runs.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points, ascending.
    fit_linear : callable, optional
        Returns the autoregression of some training runs, where it was fitted before; by default it is fitted here.
    """

    horizons: tuple[int, ...]
    fit_linear: Callable[[Sequence[RunData]], Autoregression] | None = None
    _runs: list[RunData] = field(default_factory=list, init=False)
    _fits: dict[type, object] = field(default_factory=dict, init=False)

    def autoregression(self, runs: Sequence[RunData]) -> Autoregression:
        """Fit the autoregression; raises what :func:`titan_neuro.linear.autoregression.fit_autoregression` does."""
        fit = self.fit_linear or functools.partial(fit_autoregression, horizons=self.horizons)
        return self.once(runs, Autoregression, lambda: fit(runs))

    def residuals(self, runs: Sequence[RunData]) -> tuple[ResidualSpace, list[ResidualRun]]:
        """Find the axes, and represent the training runs on them.

        Raises
        ------
        ConfigError, MismatchError, TrainingError
            See :func:`titan_neuro.linear.autoregression.fit_autoregression`.
        """
        fitted = self.autoregression(runs)
        made = self.once(runs, _ProjectedRuns, lambda: _project_runs(runs, fitted))
        return made.space, made.runs

    def stimuli(self, runs: Sequence[RunData]) -> SharedStimuli:
        """Average the training runs of each stimulus, and weight the components; raises what `residuals` does."""
        space, projected = self.residuals(runs)
        return self.once(runs, SharedStimuli, lambda: _average_stimuli(projected, space.components.shape[1]))

    def once(self, runs: Sequence[RunData], kind: type[Fit], make: Callable[[], Fit]) -> Fit:
        """Return the fit of class `kind` to these runs; `make` is called the first time it is asked for.

        Raises
        ------
        TypeError
            `make` returned an object of another class.
        """
        if len(runs) != len(self._runs) or any(a is not b for a, b in zip(runs, self._runs, strict=True)):
            self._runs, self._fits = list(runs), {}
        if kind not in self._fits:
            self._fits[kind] = make()
        fit = self._fits[kind]
        if not isinstance(fit, kind):
            raise TypeError(f"Expected {kind.__name__}, found {type(fit).__name__}.")
        return fit


@dataclass(frozen=True, eq=False)
class _ProjectedRuns:
    space: ResidualSpace
    runs: list[ResidualRun]


def _project_runs(runs: Sequence[RunData], autoregression: Autoregression) -> _ProjectedRuns:
    space = _find_space(runs, autoregression)
    return _ProjectedRuns(space, [_project(run, space) for run in runs])


def _find_space(runs: Sequence[RunData], autoregression: Autoregression) -> ResidualSpace:
    from sklearn.decomposition import PCA

    n_features = common_n_features(runs)
    # Evenly spread time points of all runs suffice to find the axes of 70,000 voxels.
    stride = max(1, -(-sum(run.n_time_points for run in runs) * n_features // _PCA_NUMBERS))
    sample = np.concatenate([_sample(run, stride) for run in runs])
    n_components = min(MAX_COMPONENTS, n_features, max(1, len(sample) // 2))
    solver = "covariance_eigh" if n_features <= len(sample) and n_features <= 2 * MAX_COMPONENTS else "randomized"
    pca = PCA(n_components, svd_solver=solver, random_state=0).fit(sample)
    return ResidualSpace(
        autoregression,
        torch.as_tensor(pca.mean_).float(),
        torch.as_tensor(pca.components_.T.copy()).float(),
        torch.as_tensor(pca.explained_variance_.copy()).float(),
        n_features <= MAX_PLAIN_FEATURES,
    )


def _average_stimuli(runs: Sequence[ResidualRun], n_components: int) -> SharedStimuli:
    groups = group_runs(runs)
    without_group: list[list[StimulusAverage]] = []
    pairs = []
    for group in groups if len(groups) > 1 else []:
        keys = {run.key for run in group}
        without_group.append(average_over_subjects([run for run in runs if run.key not in keys]))
        by_stimulus = {average.stimulus: average for average in without_group[-1]}
        pairs += [(run, by_stimulus[run.stimulus]) for run in group if run.stimulus in by_stimulus]
    return SharedStimuli(average_over_subjects(runs), groups, without_group, isc_weights(pairs, n_components))


def _sample(run: RunData, stride: int) -> np.ndarray:
    """Every `stride`-th time point of a run."""
    # Copies, or the whole blocks would stay in memory.
    return np.concatenate([series[::stride].numpy().copy() for _, series in read_blocks(run, every=stride)])


def _project(run: RunData, space: ResidualSpace) -> ResidualRun:
    """One pass over the run. Projections are linear, so that time points and forecasts can be projected separately."""
    horizons = space.autoregression.horizons
    scores, observed, forecasts = [], [], []
    for series, forecast in autoregress_blocks(run, space.autoregression, _BLOCK_TIME_POINTS):
        scores.append(space.score(series))
        observed.append(space.to_residuals(series))
        forecasts.append(space.to_residuals(forecast))
    residuals = at_forecast_time(torch.cat(observed), horizons) - torch.cat(forecasts)
    has_target = at_forecast_time(torch.ones(run.n_time_points, dtype=torch.bool), horizons)
    residuals[~has_target] = 0
    return ResidualRun(
        torch.cat([torch.cat(scores), residuals.flatten(1)], dim=1),
        np.asarray(run.scored),
        run.key,
        run.subject,
        run.stimulus,
        stimulus_start=run.stimulus_start,
        horizons=horizons,
        n_components=scores[0].shape[1],
    )
