"""Rollouts: a model that reads its own forecasts instead of time points, from many origins of a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titan_neuro.evaluation.rollout_scores import RolloutScores, RolloutSums
from titan_neuro.evaluation.vocabulary import LJUNG_BOX_ALPHA, LJUNG_BOX_FEATURES, LJUNG_BOX_LAGS, REFERENCES
from titan_neuro.metrics import ljung_box
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.typing import ForecastModel, RunData

# A model without a batched path is rolled from every eighth origin: one time point at a time is slow.
SLOW_STRIDE = 8
# Values of the states and time points that are rolled side by side, and states at most.
_HELD_VALUES, _HELD_STATES = 2**24, 64
_BARS = (REFERENCES["skill_ar"], REFERENCES["r2"])


def roll_run(forecasters: Sequence[ForecastModel], run: RunData, first_time_point: int, every: int) -> RolloutScores:
    """Roll every forecaster through one run, and look at the residuals of its one-step forecasts on the way.

    From an origin, a model is fed with its own forecasts one time point ahead, up to the longest horizon; the state
    that it had at the origin is copied. Models that forecast a batch of streams at once (``forward``) are rolled from
    every origin, the others from every eighth.

    Parameters
    ----------
    forecasters : sequence of ForecastModel
        Fitted, with the same horizons, which begin with 1; one for each of the references of `skill_ar` and `r2`.
    run : RunData
    first_time_point : int
        The run begins here.
    every : int
        Time points from one origin to the next.
    """
    names, horizons = tuple(forecaster.name for forecaster in forecasters), tuple(forecasters[0].horizons)
    course = _Course.of(run, first_time_point, horizons, every)
    rolled = [_roll(forecaster, course) for forecaster in forecasters]
    direct = {name: rolled[names.index(name)].direct_error for name in _BARS}

    def stack(values: Sequence[Any]) -> Any:
        return np.stack(values, axis=-1)

    def on_targets(errors: FloatArray) -> FloatArray:
        return stack([np.where(one.targets, errors, 0.0).sum(axis=0) for one in rolled])

    whiteness = [_whiteness(one.residuals) for one in rolled]
    n_targets = stack([one.targets.sum(axis=0) for one in rolled])
    sums = RolloutSums(
        n_runs=1,
        n_targets=n_targets,
        squared_error=stack([one.squared_error for one in rolled]),
        error=stack([one.error for one in rolled]),
        n_values=n_targets * run.n_features,
        ar_error=on_targets(direct[REFERENCES["skill_ar"]]),
        mean_error=on_targets(direct[REFERENCES["r2"]]),
        spread=stack([one.spread(0) for one in rolled]),
        target_spread=stack([one.spread(1) for one in rolled]),
        autocorrelated_fraction=np.array([share for share, _ in whiteness]),
        ljung_box=np.array([median for _, median in whiteness]),
    )
    return RolloutScores(names, horizons, {run.subject: sums})


@dataclasses.dataclass(frozen=True, eq=False)
class _Course:
    """A run from where it begins, its origins, and for each of them and each horizon whether that is a target."""

    observed: Tensor
    scored: np.ndarray
    horizons: tuple[int, ...]
    origins: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, run: RunData, first_time_point: int, horizons: tuple[int, ...], every: int) -> _Course:
        scored = (run.scored & ~run.high_motion)[first_time_point:]
        origins = np.arange(every - 1, len(scored) - 1, every)
        ahead = origins[:, None] + np.array(horizons)
        targets = (ahead < len(scored)) & scored[np.minimum(ahead, len(scored) - 1)]
        return cls(run.read(first_time_point, run.n_time_points), scored, horizons, origins, targets)


class _Rolled:
    """What one forecaster did on a course."""

    def __init__(self, course: _Course, own: np.ndarray) -> None:
        n_horizons, n_features = len(course.horizons), course.observed.shape[1]
        self._course = course
        self.targets = course.targets & own[:, None]
        self.direct_error = np.zeros(course.targets.shape)
        self.squared_error, self.error = np.zeros(n_horizons), np.zeros(n_horizons)
        self.residuals = np.zeros((0, min(n_features, LJUNG_BOX_FEATURES)))
        # Of forecasts and of targets: sums and sums of squares over the run's targets.
        self._sums = torch.zeros(2, 2, n_horizons, n_features, dtype=torch.float64)

    def add(self, origins: np.ndarray, at: int, forecasts: Tensor) -> None:
        """Take in forecasts ``(origins, features)`` of one horizon; `origins` are places in the list of them."""
        hit = self.targets[origins, at]
        if not hit.any():
            return
        observed_series = torch.from_numpy(self._course.origins[origins[hit]] + self._course.horizons[at])
        values, truth = forecasts[torch.from_numpy(hit)].double(), self._course.observed[observed_series].double()
        difference = values - truth
        self.squared_error[at] += float(difference.square().sum())
        self.error[at] += float(difference.sum())
        for which, series in enumerate((values, truth)):
            self._sums[which, 0, at] += series.sum(dim=0)
            self._sums[which, 1, at] += series.square().sum(dim=0)

    def spread(self, which: int) -> FloatArray:
        """Sum over features of the sums of squares about the mean, ``(horizons,)``: 0 of rollouts, 1 of targets."""
        total, square = self._sums[which].numpy()
        n_targets = np.maximum(self.targets.sum(axis=0), 1)[:, None]
        return np.asarray(np.maximum(square - total**2 / n_targets, 0.0).sum(axis=-1))


def _roll(model: ForecastModel, course: _Course) -> _Rolled:
    batched = callable(getattr(model, "forward", None))
    own = np.arange(len(course.origins)) % (1 if batched else SLOW_STRIDE) == 0
    # The others are measured against what these say at every origin.
    stops = np.arange(len(own)) if model.name in _BARS else np.flatnonzero(own)
    rolled = _Rolled(course, own)
    chosen = torch.from_numpy(
        np.linspace(0, course.observed.shape[1] - 1, rolled.residuals.shape[1]).round().astype(int)
    )
    residuals, held = [], []
    limit = max(1, min(_HELD_STATES, _HELD_VALUES // course.observed[: 2 * len(course.horizons)].numel()))
    with torch.inference_mode():
        state, start = model.init_state(), 0
        for place in [*stops, None]:
            origin = len(course.observed) - 1 if place is None else course.origins[place]
            if origin < start:
                break
            forecasts, state = model.step(course.observed[start : origin + 1].clone(), state)
            forecasts = forecasts.cpu()
            due = torch.from_numpy(course.scored[start + 1 : origin + 2]).nonzero()[:, 0]
            residuals.append(course.observed[start + 1 + due][:, chosen] - forecasts[due, 0][:, chosen])
            start = int(origin) + 1
            if place is None:
                break
            rolled.direct_error[place] = _direct_errors(course, place, forecasts[-1])
            if own[place]:
                held.append((place, forecasts[-1, 0], copy.deepcopy(state)))
            if len(held) == (limit if batched else 1):
                _roll_on(model, held, rolled, course.horizons)
                held = []
        _roll_on(model, held, rolled, course.horizons)
    rolled.residuals = torch.cat(residuals).double().numpy()
    return rolled


def _direct_errors(course: _Course, place: int, forecasts: Tensor) -> FloatArray:
    """Squared errors of the direct forecasts from one origin, ``(horizons,)``; 0 where there is no target."""
    errors = np.zeros(len(course.horizons))
    for at in np.flatnonzero(course.targets[place]):
        truth = course.observed[course.origins[place] + course.horizons[at]]
        errors[at] = float((forecasts[at].double() - truth.double()).square().sum())
    return errors


def _roll_on(model: Any, held: Sequence[tuple[int, Tensor, Any]], rolled: _Rolled, horizons: tuple[int, ...]) -> None:
    """Feed a model its own forecasts, from one state or from several that can go on side by side."""
    for group in _groups(held):
        origins = np.array([place for place, _, _ in group])
        observed_series = torch.stack([forecast for _, forecast, _ in group])
        state = group[0][2] if len(group) == 1 else _join([state for _, _, state in group])
        for ahead in range(1, horizons[-1] + 1):
            if ahead in horizons:
                rolled.add(origins, horizons.index(ahead), observed_series)
            if ahead == horizons[-1]:
                break
            if len(group) == 1:
                forecasts, state = model.step(observed_series, state)
                observed_series = forecasts[:, 0].cpu()
            else:
                forecasts, state = model.forward(observed_series[:, None].to(next(_tensors(state)).device), state)
                observed_series = forecasts[:, 0, 0].cpu()


def _groups(held: Sequence[tuple[int, Tensor, Any]]) -> Iterator[list[tuple[int, Tensor, Any]]]:
    """Put states together that stand at the same place inside a chunk, segment or window."""
    groups: list[tuple[Any, list[tuple[int, Tensor, Any]]]] = []
    for item in held:
        time_point = _time_point(item[2])
        members = next((members for other, members in groups if other == time_point), None)
        if members is None:
            groups.append((time_point, [item]))
        else:
            members.append(item)
    for _, members in groups:
        yield members


def _time_point(value: Any) -> Any:
    """All of a state but the numbers in its tensors."""
    if isinstance(value, Tensor):
        return tuple(value.shape[1:])
    if isinstance(value, tuple) or dataclasses.is_dataclass(value):
        return [_time_point(item) for item in _parts(value)]
    return value


def _join(states: Sequence[Any]) -> Any:
    """Lay states side by side, along the first dimension of their tensors."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if isinstance(first, tuple) or dataclasses.is_dataclass(first):
        parts = [_join(items) for items in zip(*map(_parts, states), strict=True)]
        return tuple(parts) if isinstance(first, tuple) else type(first)(*parts)
    return first


def _parts(value: Any) -> list[Any]:
    """Return what a tuple holds, or the fields of a dataclass, in order."""
    if isinstance(value, tuple):
        return list(value)
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, tuple) or dataclasses.is_dataclass(state):
        for item in _parts(state):
            yield from _tensors(item)


def _whiteness(residuals: FloatArray) -> tuple[float, float]:
    """Share of features whose residuals are colored, and the median of the statistic; NaN where it can't be told."""
    if len(residuals) <= 2 * LJUNG_BOX_LAGS:
        return float("nan"), float("nan")
    statistic, p_value = ljung_box(residuals, LJUNG_BOX_LAGS)
    defined = np.isfinite(statistic)
    if not defined.any():
        return float("nan"), float("nan")
    return float((p_value[defined] < LJUNG_BOX_ALPHA).mean()), float(np.median(statistic[defined]))
