"""What several baselines start from, made once: the autoregression, and the runs on a few axes.

VAR and analogs forecast what autoregression leaves over. Both need the training runs in a form that fits into memory
whatever the number of voxels: their scores on principal components, and the residuals of the autoregression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from titan_neuro.baselines.sharing import isc_weights
from titan_neuro.linear.autoregression import Autoregression, autoregress, fit_autoregression
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.linear.stimulus_average import StimulusAverage, average_over_subjects
from titan_neuro.runs import group_runs
from titan_neuro.typing import RunData

T = TypeVar("T")

MAX_COMPONENTS = 200
# Up to here a residual is kept feature by feature, parcels that is; beyond, on the components.
MAX_PLAIN_FEATURES = 512
_BLOCK_TIME_POINTS = 128
_PCA_NUMBERS = 2**27


@dataclass(frozen=True, eq=False)
class ResidualSpace:
    """Axes on which runs and residuals are seen.

    Attributes
    ----------
    autoregression : Autoregression
        Whose residuals these are.
    mean : torch.Tensor
        float32, ``(features,)``.
    components : torch.Tensor
        float32, ``(features, components)``: orthonormal principal axes of the training runs, largest variance first.
    variance : torch.Tensor
        float32, ``(components,)``.
    is_plain : bool
        The axes of the residuals are the features; else the components.
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
        """Principal component scores of time points: ``(..., components)``."""
        return (series - self.mean) @ self.components

    def init_state(self) -> Tensor:
        """History of the autoregression before a run: ``(order - 1, features)``."""
        _, order, n_features = self.autoregression.coefficients.shape
        return torch.zeros(order - 1, n_features)

    def autoregress(self, series: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`titan_neuro.linear.autoregression.autoregress`."""
        return autoregress(series, history, self.autoregression.coefficients, self.autoregression.intercept)

    def to_residuals(self, series: Tensor) -> Tensor:
        """From features to the axes of the residuals."""
        return series if self.is_plain else series @ self.components

    def to_features(self, residuals: Tensor) -> Tensor:
        """From the axes of the residuals to features."""
        return residuals if self.is_plain else residuals @ self.components.T


@dataclass(eq=False)
class ResidualRun:
    """A training run in a :class:`ResidualSpace`; keeps the protocol of :class:`titan_neuro.typing.RunData`.

    Attributes
    ----------
    key, subject, stimulus : str
    stimulus_start : int
    scored : numpy.ndarray
        Of the run that it was made from.
    series : torch.Tensor
        float32, ``(time, components + horizons * n_residuals)``: the scores of time point ``t``; then, for each horizon
        ``h``, time point ``t + h`` less what autoregression made of it at ``t``, or zeros where the run had ended.
    horizons : tuple of int
    n_components : int
    """

    key: str
    subject: str
    stimulus: str
    stimulus_start: int
    scored: np.ndarray
    series: Tensor
    horizons: tuple[int, ...]
    n_components: int

    def __post_init__(self) -> None:
        self.n_time_points, self.n_features = self.series.shape
        # What is learned from needs no mark: only scores take such time points apart.
        self.high_motion = np.zeros(self.n_time_points, dtype=bool)

    def read(self, start: int, stop: int) -> Tensor:
        """Time points ``start <= t < stop``."""
        return self.series[start:stop]

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
        scored = torch.as_tensor(self.scored)
        ahead = [torch.nn.functional.pad(scored[horizon:], (0, min(horizon, len(scored)))) for horizon in self.horizons]
        return torch.stack(ahead, dim=1)


@dataclass(frozen=True, eq=False)
class SharedStimuli:
    """What the training subjects saw, of all of them and of all but one.

    Attributes
    ----------
    stimuli : list of StimulusAverage
        Averages of all training runs, one for each stimulus; their time points are those of a :class:`ResidualRun`.
    groups : list of list of ResidualRun
        The runs of each subject; each run by itself, where there is one subject.
    others : list of list of StimulusAverage
        For each group, the averages without it.
    weights : torch.Tensor
        Leave-one-out inter-subject correlation of the components; see :func:`isc_weights`.
    """

    stimuli: list[StimulusAverage]
    groups: list[list[ResidualRun]]
    others: list[list[StimulusAverage]]
    weights: Tensor


@dataclass(eq=False)
class SharedFits:
    """Fits what rows of one table share, and keeps it for the training runs it was last asked about.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    """

    horizons: tuple[int, ...]
    _runs: list[RunData] = field(default_factory=list, init=False)
    _autoregression: Autoregression | None = field(default=None, init=False)
    _residuals: tuple[ResidualSpace, list[ResidualRun]] | None = field(default=None, init=False)
    _shared: SharedStimuli | None = field(default=None, init=False)
    _fitted: dict[type, object] = field(default_factory=dict, init=False)

    def autoregression(self, runs: Sequence[RunData]) -> Autoregression:
        """Fit the autoregression; see :func:`titan_neuro.linear.autoregression.fit_autoregression`."""
        self._attend_to(runs)
        if self._autoregression is None:
            self._autoregression = fit_autoregression(runs, self.horizons)
        return self._autoregression

    def residuals(self, runs: Sequence[RunData]) -> tuple[ResidualSpace, list[ResidualRun]]:
        """Find the axes, and see the training runs on them.

        Raises
        ------
        ConfigError, MismatchError, TrainingError
            See :func:`titan_neuro.linear.autoregression.fit_autoregression`.
        """
        fitted = self.autoregression(runs)
        if self._residuals is None:
            space = _find_space(runs, fitted)
            self._residuals = space, [_project(run, space) for run in runs]
        return self._residuals

    def shared(self, runs: Sequence[RunData]) -> SharedStimuli:
        """Average the projected runs, and weigh the components."""
        space, projected = self.residuals(runs)
        if self._shared is None:
            self._shared = _share(projected, space.components.shape[1])
        return self._shared

    def once(self, runs: Sequence[RunData], kind: type[T], make: Callable[[], T]) -> T:
        """Return the `kind` that `make` made of these runs; it is called if no row has asked for one before."""
        self._attend_to(runs)
        if kind not in self._fitted:
            self._fitted[kind] = make()
        fitted = self._fitted[kind]
        if not isinstance(fitted, kind):
            raise TypeError(f"Expected {kind.__name__}, found {type(fitted).__name__}.")
        return fitted

    def _attend_to(self, runs: Sequence[RunData]) -> None:
        known = len(runs) == len(self._runs) and all(a is b for a, b in zip(runs, self._runs, strict=True))
        if not known:
            self._runs = list(runs)
            self._autoregression = self._residuals = self._shared = None
            self._fitted = {}


def _find_space(runs: Sequence[RunData], autoregression: Autoregression) -> ResidualSpace:
    from sklearn.decomposition import PCA

    n_features = common_n_features(runs)
    # Evenly spread time points of all runs are enough to find the axes of 70,000 voxels.
    stride = max(1, -(-sum(run.n_time_points for run in runs) * n_features // _PCA_NUMBERS))
    sample = np.concatenate([_every(run, stride) for run in runs])
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


def _share(runs: Sequence[ResidualRun], n_components: int) -> SharedStimuli:
    groups = group_runs(runs)
    others: list[list[StimulusAverage]] = []
    pairs = []
    for group in groups if len(groups) > 1 else []:
        subject = {run.key for run in group}
        others.append(average_over_subjects([run for run in runs if run.key not in subject]))
        by_stimulus = {stimulus.stimulus: stimulus for stimulus in others[-1]}
        for run in group:
            if run.stimulus in by_stimulus:
                stimulus = by_stimulus[run.stimulus]
                pairs.append((run, stimulus))
    return SharedStimuli(average_over_subjects(runs), groups, others, isc_weights(pairs, n_components))


def _every(run: RunData, stride: int) -> np.ndarray:
    parts = []
    for start in range(0, run.n_time_points, _BLOCK_TIME_POINTS):
        series = run.read(start, min(start + _BLOCK_TIME_POINTS, run.n_time_points))
        # A copy, or the whole block stays in memory.
        parts.append(series[-start % stride :: stride].numpy().copy())
    return np.concatenate(parts)


def _project(run: RunData, space: ResidualSpace) -> ResidualRun:
    """One pass over the run. Projections are linear, so that time points and forecasts may be projected apart."""
    horizons = space.autoregression.horizons
    scores, seen, forecasts, history = [], [], [], space.init_state()
    for start in range(0, run.n_time_points, _BLOCK_TIME_POINTS):
        series = run.read(start, min(start + _BLOCK_TIME_POINTS, run.n_time_points))
        forecast, history = space.autoregress(series, history)
        scores.append(space.score(series))
        seen.append(space.to_residuals(series))
        forecasts.append(space.to_residuals(forecast))
    observed, residuals = torch.cat(seen), torch.cat(forecasts).neg()
    for index, horizon in enumerate(horizons):
        residuals[:-horizon, index] += observed[horizon:]
        residuals[-horizon:, index] = 0
    series = torch.cat([torch.cat(scores), residuals.flatten(1)], dim=1)
    told = run.key, run.subject, run.stimulus, run.stimulus_start, np.asarray(run.scored)
    return ResidualRun(*told, series, horizons, scores[0].shape[1])
