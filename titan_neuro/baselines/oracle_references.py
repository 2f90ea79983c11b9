"""OracleReference lines: what a forecast would be worth that knows the moment of the stimulus. No forecasts, and no
comparison models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from titan_neuro.baselines.sharing import shrunk_gain
from titan_neuro.linear.stimulus_average import StimulusAverage, average_over_subjects
from titan_neuro.runs import group_runs
from titan_neuro.typing import ForecastModel, RunData

_BLOCK_TIME_POINTS = 128


class OracleReference(Protocol):
    """A line of the table that is told what is shown and when.

    Attributes
    ----------
    name : str
        Row of the table.
    horizons : tuple of int
        Time points ahead, ascending.
    """

    name: str
    horizons: tuple[int, ...]

    def fit(self, runs: Sequence[RunData]) -> None:
        """Learn from the training runs."""
        ...

    def bind(self, run: RunData, first_time_point: int) -> ForecastModel:
        """Bind to a run, the first time point of which that will be fed is `first_time_point`."""
        ...


class IntersubjectAverageReference:
    """A baseline, plus what it leaves of the training subjects' average at the true moment of the stimulus.

    ``forecast = base(y)[t, h] + gain_hv (stimulus[m + h] - base(stimulus)[m, h])``, ``m`` being the moment of the
    stimulus at which time point ``t`` was recorded: runs of one stimulus are aligned where it begins. The gain of each
    feature is fitted on training subjects, each against the average of the others, and drawn towards 0 as far as they
    disagree. For a stimulus that no training subject saw, the forecast is the baseline's.

    Parameters
    ----------
    name : str
        Row of the table.
    base : ForecastModel
        Not yet fitted: the training mean, or autoregression.

    Attributes
    ----------
    stimuli : dict of str to StimulusAverage
        Average of the training subjects, by stimulus; there once `fit` was called.
    gain : torch.Tensor
        float32, ``(horizons, features)``.
    """

    stimuli: dict[str, StimulusAverage]
    gain: Tensor

    def __init__(self, name: str, base: ForecastModel) -> None:
        self.name, self.base, self.horizons = name, base, base.horizons

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit the baseline, average the stimuli, fit the gains.

        Raises
        ------
        ConfigError, MismatchError, TrainingError
            See the baseline's `fit`, and :func:`titan_neuro.linear.stimulus_average.average_over_subjects`.
        """
        self.base.fit(runs)
        self.stimuli = {stimulus.stimulus: stimulus for stimulus in average_over_subjects(runs)}
        self.gain = torch.zeros(len(self.horizons), runs[0].n_features)
        groups = group_runs(runs)
        cross = torch.zeros(len(groups), *self.gain.shape, dtype=torch.float64)
        power = torch.zeros_like(cross)
        for number, group in enumerate(groups):
            for own in average_over_subjects(group):
                others = _without(self.stimuli[own.stimulus], own)
                for run in (run for run in group if run.stimulus == own.stimulus):
                    for residual, beyond in self._residuals(run, others):
                        cross[number] += (residual * beyond).sum(dim=0)
                        power[number] += beyond.square().sum(dim=0)
        self.gain = shrunk_gain(cross, power).float()

    def bind(self, run: RunData, first_time_point: int) -> ForecastModel:
        """Bind to a run, the first time point of which that will be fed is `first_time_point`."""
        stimulus = self.stimuli.get(run.stimulus)
        if stimulus is None:
            return _Follower(self.name, self.base, None, self.gain, 0)
        return _Follower(self.name, self.base, stimulus.series, self.gain, first_time_point - run.stimulus_start)

    def _residuals(self, run: RunData, others: StimulusAverage) -> Iterator[tuple[Tensor, Tensor]]:
        """What the baseline leaves of a run's scored time points, and of the others' stimulus there, block by block."""
        follower = _Follower(self.name, self.base, others.series, self.gain, -run.stimulus_start)
        # A time point that nobody else saw is no example.
        covered = torch.as_tensor(run.scored).clone()
        statistics = torch.arange(run.n_time_points) + follower.moment
        inside = (statistics >= 0) & (statistics < len(others.series))
        covered &= inside & (others.n_runs[statistics.clamp(0, len(others.series) - 1)] > 0)
        reach = max(self.horizons)
        padded = torch.nn.functional.pad(covered, (0, reach))
        state = follower.init_state()
        for start in range(0, run.n_time_points, _BLOCK_TIME_POINTS):
            stop = min(start + _BLOCK_TIME_POINTS, run.n_time_points)
            series = run.read(start, min(stop + reach, run.n_time_points))
            ahead = torch.nn.functional.pad(series, (0, 0, 0, stop + reach - start - len(series)))
            forecasts, beyond, state = follower.parts(series[: stop - start], state)
            targets = torch.stack([ahead[horizon : horizon + stop - start] for horizon in self.horizons], dim=1)
            rows = torch.stack([padded[start + horizon : stop + horizon] for horizon in self.horizons], dim=1)
            yield targets - forecasts, beyond * rows[:, :, None]


class _Follower:
    """A fitted reference on its way through one stimulus; `stimulus` is None where nobody saw it."""

    def __init__(self, name: str, base: ForecastModel, stimulus: Tensor | None, gain: Tensor, moment: int) -> None:
        self.name, self.horizons, self.moment = name, base.horizons, moment
        self._base, self._stimulus, self._gain = base, stimulus, gain

    def fit(self, runs: Sequence[RunData]) -> None:
        """It was fitted before it was bound."""

    def init_state(self) -> tuple[Any, Any, int]:
        """The baseline's state in the run and in the stimulus, and the moment."""
        stimulus_state = self._base.init_state()
        if self._stimulus is not None:
            for start in range(0, min(self.moment, len(self._stimulus)), _BLOCK_TIME_POINTS):
                stop = min(start + _BLOCK_TIME_POINTS, self.moment)
                _, stimulus_state = self._base.step(self._stimulus[start:stop], stimulus_state)
        return self._base.init_state(), stimulus_state, self.moment

    def step(self, series: Tensor, state: tuple[Any, Any, int]) -> tuple[Tensor, tuple[Any, Any, int]]:
        """Forecast from every time point: ``(time, horizons, features)``."""
        forecasts, beyond, state = self.parts(series, state)
        return forecasts + self._gain * beyond, state

    def parts(self, series: Tensor, state: tuple[Any, Any, int]) -> tuple[Tensor, Tensor, tuple[Any, Any, int]]:
        """Return the baseline's forecasts, what it leaves of the stimulus, and the next state."""
        run_state, stimulus_state, moment = state
        forecasts, run_state = self._base.step(series, run_state)
        if self._stimulus is None:
            return forecasts, torch.zeros_like(forecasts), (run_state, stimulus_state, moment)
        expected, stimulus_state = self._base.step(_take(self._stimulus, moment, len(series)), stimulus_state)
        beyond = torch.zeros_like(forecasts)
        for index, horizon in enumerate(self.horizons):
            ahead = torch.arange(len(series)) + moment + horizon
            inside = ((ahead >= 0) & (ahead < len(self._stimulus)))[:, None]
            beyond[:, index] = (_take(self._stimulus, moment + horizon, len(series)) - expected[:, index]) * inside
        return forecasts, beyond, (run_state, stimulus_state, moment + len(series))


def _take(stimulus: Tensor, start: int, n_time_points: int) -> Tensor:
    """Time points of the stimulus; zeros, the mean of z-scored data, outside of it."""
    taken = torch.zeros(n_time_points, stimulus.shape[1])
    low, high = max(start, 0), min(start + n_time_points, len(stimulus))
    if low < high:
        taken[low - start : high - start] = stimulus[low:high]
    return taken


def _without(stimulus: StimulusAverage, own: StimulusAverage) -> StimulusAverage:
    """Take a subject's own stimulus out of the average; zeros, of no run, where nobody else saw it."""
    some = slice(len(own.series))
    total, n_runs = stimulus.series * stimulus.n_runs[:, None], stimulus.n_runs.clone()
    total[some] -= own.series * own.n_runs[:, None]
    n_runs[some] -= own.n_runs
    series = torch.where(n_runs[:, None] > 0, total / n_runs.clamp(min=1)[:, None], 0)
    return StimulusAverage(stimulus.stimulus, series, stimulus.scored, n_runs)
