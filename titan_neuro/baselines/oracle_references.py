"""Oracle references: they are given the true stimulus position, and are neither forecasts nor comparison models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from titan_neuro.baselines.base import Baseline
from titan_neuro.baselines.mean import TrainingMean
from titan_neuro.baselines.shrinkage import shrinkage_weights
from titan_neuro.linear.lead_time import at_forecast_time
from titan_neuro.linear.stimulus_average import StimulusAverage, average_over_subjects
from titan_neuro.runs import block_slices, group_runs, read_blocks
from titan_neuro.typing import ForecastModel, RunData

# Blocks are held with the forecasts of all lead times.
_BLOCK_TIME_POINTS = 128


class OracleReference(Protocol):
    """A row of the table that is given the stimulus, and its position at every time point.

    Attributes
    ----------
    name : str
        Row of the table.
    horizons : tuple of int
        Lead times in time points, ascending.
    """

    name: str
    horizons: tuple[int, ...]

    def fit(self, runs: Sequence[RunData], stimuli: Collection[str] | None = None) -> None:
        """Fit to the training runs, for runs of these stimuli; of any, by default."""
        ...

    def bind(self, run: RunData, first_time_point: int) -> ForecastModel:
        """Return a forecaster for one run, which will be read from `first_time_point` on."""
        ...


class IntersubjectAverageReference:
    """A baseline, plus its residuals of the training subjects' average at the true stimulus position.

    ``forecast = base(y)[t, h] + weight_hv (average[p + h] - base(average)[p, h])``, where ``p`` is the position in the
    stimulus at time point ``t``: runs of one stimulus are aligned where it begins. The shrinkage weight of each feature
    is fitted on training subjects, each against the average of the others, and is smaller the more they disagree. For a
    stimulus that no training subject saw, the forecast is that of the baseline.

    Parameters
    ----------
    base : Baseline
        The training mean (``intersubject-average``), or another baseline, whose name is added to that of the row
        (``intersubject-average+ar``).

    Attributes
    ----------
    name : str
        Row of the table.
    horizons : tuple of int
        Those of `base`.
    averages : dict of str to StimulusAverage
        Average of the training subjects, by stimulus; set by `fit`.
    weights : torch.Tensor
        Shrinkage weights, float32, ``(horizons, features)``; set by `fit`.
    """

    averages: dict[str, StimulusAverage]
    weights: Tensor

    def __init__(self, base: Baseline[Any]) -> None:
        self.base, self.horizons = base, base.horizons
        self.name = "intersubject-average" + ("" if isinstance(base, TrainingMean) else f"+{base.name}")

    def fit(self, runs: Sequence[RunData], stimuli: Collection[str] | None = None) -> None:
        """Fit the baseline, average the stimuli, fit the shrinkage weights.

        Parameters
        ----------
        runs : sequence of RunData
            Training runs.
        stimuli : collection of str, optional
            Stimuli of the runs that the reference will be bound to. Where the training subjects saw none of them, the
            baseline alone is fitted: averages and weights would be read by nobody, and hold every voxel of every
            stimulus.

        Raises
        ------
        ConfigError, MismatchError, TrainingError
            See the baseline's `fit`, and :func:`titan_neuro.linear.stimulus_average.average_over_subjects`.
        """
        self.base.fit(runs)
        self.averages = {}
        self.weights = torch.zeros(len(self.horizons), runs[0].n_features)
        if stimuli is not None and not {run.stimulus for run in runs} & set(stimuli):
            return
        self.averages = {average.stimulus: average for average in average_over_subjects(runs)}
        groups = group_runs(runs)
        cross = torch.zeros(len(groups), *self.weights.shape, dtype=torch.float64)
        power = torch.zeros_like(cross)
        for number, group in enumerate(groups):
            for average in average_over_subjects(group):
                others = _without(self.averages[average.stimulus], average)
                for run in (run for run in group if run.stimulus == average.stimulus):
                    for residual, of_others in self._residuals(run, others):
                        cross[number] += (residual * of_others).sum(dim=0)
                        power[number] += of_others.square().sum(dim=0)
        self.weights = shrinkage_weights(cross, power).float()

    def bind(self, run: RunData, first_time_point: int) -> ForecastModel:
        """Return a forecaster for one run, which will be read from `first_time_point` on."""
        average = self.averages.get(run.stimulus)
        if average is None:
            return _BoundReference(self.name, self.base, None, self.weights, 0)
        position = first_time_point - run.stimulus_start
        return _BoundReference(self.name, self.base, average.series, self.weights, position)

    def _residuals(self, run: RunData, others: StimulusAverage) -> Iterator[tuple[Tensor, Tensor]]:
        """Residuals of the baseline in a run and in the others' average, block by block.

        Both are ``(time, horizons, features)``. Those of the average are 0 where the target is not scored, or where
        nobody else saw it.
        """
        bound = _BoundReference(self.name, self.base, others.series, self.weights, -run.stimulus_start)
        positions = torch.arange(run.n_time_points) + bound.position
        inside = (positions >= 0) & (positions < len(others.series))
        seen_by_others = others.n_runs[positions.clamp(0, len(others.series) - 1)] > 0
        has_target = at_forecast_time(torch.as_tensor(run.scored) & inside & seen_by_others, self.horizons)
        state = bound.init_state()
        for block, series in read_blocks(run, _BLOCK_TIME_POINTS, n_after=max(self.horizons)):
            n_time_points = block.stop - block.start
            forecasts, of_average, state = bound.forecast_parts(series[:n_time_points], state)
            targets = at_forecast_time(series, self.horizons)[:n_time_points]
            yield targets - forecasts, of_average * has_target[block, :, None]


class _BoundReference:
    """A fitted reference for one run. `average` is None where nobody saw the stimulus; `position` is that of the run's
    first time point.
    """

    def __init__(self, name: str, base: Baseline[Any], average: Tensor | None, weights: Tensor, position: int) -> None:
        self.name, self.horizons, self.position = name, base.horizons, position
        self._base, self._average, self._weights = base, average, weights

    def fit(self, runs: Sequence[RunData]) -> None:
        """Do nothing: the reference was fitted before it was bound."""

    def init_state(self) -> tuple[Any, Any, int]:
        """States of the baseline in the run and in the average, and the stimulus position."""
        average_state = self._base.init_state()
        if self._average is not None:
            # The average is read up to the position at which the run begins.
            for block in block_slices(min(self.position, len(self._average)), _BLOCK_TIME_POINTS):
                _, average_state = self._base.step(self._average[block], average_state)
        return self._base.init_state(), average_state, self.position

    def step(self, series: Tensor, state: tuple[Any, Any, int]) -> tuple[Tensor, tuple[Any, Any, int]]:
        """Forecast from each time point of ``(time, features)``: ``(time, horizons, features)``."""
        forecasts, of_average, state = self.forecast_parts(series, state)
        return forecasts + self._weights * of_average, state

    def forecast_parts(
        self, series: Tensor, state: tuple[Any, Any, int]
    ) -> tuple[Tensor, Tensor, tuple[Any, Any, int]]:
        """Forecasts of the baseline and its residuals of the average, ``(time, horizons, features)``, and the state."""
        run_state, average_state, position = state
        forecasts, run_state = self._base.step(series, run_state)
        if self._average is None:
            return forecasts, torch.zeros_like(forecasts), (run_state, average_state, position)
        n_time_points = len(series)
        # As far as the last target.
        average = _read(self._average, position, n_time_points + max(self.horizons))
        positions = torch.arange(position, position + len(average))
        inside = (positions >= 0) & (positions < len(self._average))
        expected, average_state = self._base.step(average[:n_time_points], average_state)
        residuals = at_forecast_time(average, self.horizons)[:n_time_points] - expected
        residuals = residuals * at_forecast_time(inside, self.horizons)[:n_time_points, :, None]
        return forecasts, residuals, (run_state, average_state, position + n_time_points)


def _read(average: Tensor, start: int, n_time_points: int) -> Tensor:
    """Time points of the average; zeros, the mean of z-scored data, outside of it."""
    series = torch.zeros(n_time_points, average.shape[1])
    low, high = max(start, 0), min(start + n_time_points, len(average))
    if low < high:
        series[low - start : high - start] = average[low:high]
    return series


def _without(average: StimulusAverage, part: StimulusAverage) -> StimulusAverage:
    """Remove the runs of `part` from the average; zeros, of no run, where no other run is left."""
    length = slice(len(part.series))
    total, n_runs = average.series * average.n_runs[:, None], average.n_runs.clone()
    total[length] -= part.series * part.n_runs[:, None]
    n_runs[length] -= part.n_runs
    series = torch.where(n_runs[:, None] > 0, total / n_runs.clamp(min=1)[:, None], 0)
    return StimulusAverage(average.stimulus, series, average.scored, n_runs)
