"""Rollouts: from many origins of a run, a model reads its own forecasts instead of observed time points."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from titan_neuro.evaluation.metrics_and_rows import REFERENCES, WHITENESS_ALPHA, WHITENESS_FEATURES, WHITENESS_LAGS
from titan_neuro.evaluation.rollout_scores import RolloutScores, RolloutSums
from titan_neuro.linear.lead_time import at_forecast_time, scored_targets
from titan_neuro.metrics import robust_portmanteau
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.titans.stream_state import StreamState
from titan_neuro.typing import ForecastModel, RunData

# A model that can't forecast a batch of streams is rolled out from every eighth origin: its steps are slow.
SLOW_STRIDE = 8
# Largest number of values, of states, and of their bytes, in a batch of rollouts: each model of a run has one waiting.
_BATCH_VALUES, _BATCH_STATES, _BATCH_BYTES = 2**24, 64, 2**28
_REFERENCES = (REFERENCES["skill_ar"], REFERENCES["r2"])


class BatchedModel(ForecastModel, Protocol):
    """A model that can forecast a batch of streams."""

    def forward(self, series: Tensor, state: Any) -> tuple[Tensor, Any]:
        """From ``(batch, time, features)`` to ``(batch, time, horizons, features)``, on the model's device."""
        ...


class RunRollouts:
    """Roll every forecaster out through one run, while something else reads the run through it.

    From each origin, a model is given its own forecasts one time point ahead, up to the longest lead time, starting
    from a copy of its state at the origin. Models that can forecast a batch of streams are rolled out from every
    origin, the others from every eighth. The residuals of the one-step forecasts are tested for autocorrelation.

    Parameters
    ----------
    forecasters : sequence of ForecastModel
        Fitted, with the same lead times, which begin with 1. The references of `skill_ar` and `r2` are among them.
    run : RunData
    first_time_point : int
        The run begins here.
    every : int
        Time points from one origin to the next.

    Attributes
    ----------
    models : list of ForecastModel
        The forecasters, in their order. Each is rolled out on the way, while one stream is read through it: the whole
        run, once, from `first_time_point`.
    """

    def __init__(self, forecasters: Sequence[ForecastModel], run: RunData, first_time_point: int, every: int) -> None:
        self._run = run
        plan = _RolloutPlan.of(run, first_time_point, tuple(forecasters[0].horizons), every)
        self.models = [_RolledModel(forecaster, plan) for forecaster in forecasters]

    def scores(self) -> RolloutScores:
        """Return the scores of the run's subject, once the run was read through all models."""
        names, horizons = tuple(model.name for model in self.models), tuple(self.models[0].horizons)
        rolled = [model.finish() for model in self.models]

        def by_model(value: Callable[[_Rollouts], NDArray[Any]]) -> NDArray[Any]:
            return np.stack([value(one) for one in rolled], axis=-1)

        def reference_error(metric: str) -> FloatArray:
            """Squared errors of the reference's direct forecasts on each model's targets, ``(horizons, models)``."""
            direct = rolled[names.index(REFERENCES[metric])].direct_error
            return by_model(lambda one: np.where(one.targets, direct, 0.0).sum(axis=0))

        whiteness = [_test_whiteness(one.residuals) for one in rolled]
        n_targets = by_model(lambda one: one.targets.sum(axis=0))
        sums = RolloutSums(
            n_runs=1,
            n_targets=n_targets,
            squared_error=by_model(lambda one: one.squared_error),
            error=by_model(lambda one: one.error),
            n_values=n_targets * self._run.n_features,
            ar_error=reference_error("skill_ar"),
            mean_error=reference_error("r2"),
            spread=by_model(lambda one: one.forecast_spread()),
            target_spread=by_model(lambda one: one.target_spread()),
            autocorrelated_fraction=np.array([fraction for fraction, _ in whiteness]),
            portmanteau=np.array([median for _, median in whiteness]),
        )
        return RolloutScores(names, horizons, {self._run.subject: sums})


@dataclasses.dataclass(frozen=True, eq=False)
class _RolloutPlan:
    """The observed run from where it begins, and the origins of its rollouts.

    `scored` are the scored time points without high motion, `targets` says for each origin and lead time whether the
    target is one of them, and `tested` are the features whose residuals are tested.
    """

    observed: Tensor
    scored: Tensor
    horizons: tuple[int, ...]
    origins: NDArray[np.int64]
    targets: NDArray[np.bool_]
    tested: Tensor

    @classmethod
    def of(cls, run: RunData, first_time_point: int, horizons: tuple[int, ...], every: int) -> _RolloutPlan:
        observed = run.read(first_time_point, run.n_time_points)
        scored = torch.as_tensor((run.scored & ~run.high_motion)[first_time_point:])
        origins = np.arange(every - 1, len(scored) - 1, every)
        n_tested = min(run.n_features, WHITENESS_FEATURES)
        tested = torch.from_numpy(np.linspace(0, run.n_features - 1, n_tested).round().astype(int))
        return cls(observed, scored, horizons, origins, at_forecast_time(scored, horizons).numpy()[origins], tested)


class _Rollouts:
    """Sums over the rollouts of one forecaster, from the origins that are marked in `is_rolled`."""

    def __init__(self, plan: _RolloutPlan, is_rolled: NDArray[np.bool_]) -> None:
        n_horizons, n_features = len(plan.horizons), plan.observed.shape[1]
        self._plan = plan
        self.targets = plan.targets & is_rolled[:, None]
        self.direct_error = np.zeros(plan.targets.shape)
        self.squared_error, self.error = np.zeros(n_horizons), np.zeros(n_horizons)
        self.residuals: FloatArray = np.zeros((0, len(plan.tested)))
        # Of forecasts and of targets: sums and sums of squares over the run's targets.
        self._sums = torch.zeros(2, 2, n_horizons, n_features, dtype=torch.float64)

    def add(self, origins: NDArray[np.int64], lead: int, forecasts: Tensor) -> None:
        """Add forecasts ``(origins, features)`` of the lead time of index `lead`, from origins given by their index."""
        is_target = self.targets[origins, lead]
        if not is_target.any():
            return
        time_points = torch.from_numpy(self._plan.origins[origins[is_target]] + self._plan.horizons[lead])
        values, targets = forecasts[torch.from_numpy(is_target)].double(), self._plan.observed[time_points].double()
        difference = values - targets
        self.squared_error[lead] += float(difference.square().sum())
        self.error[lead] += float(difference.sum())
        for which, series in enumerate((values, targets)):
            self._sums[which, 0, lead] += series.sum(dim=0)
            self._sums[which, 1, lead] += series.square().sum(dim=0)

    def add_direct(self, origin: int, forecasts: Tensor) -> None:
        """Note the squared errors of the direct forecasts, ``(horizons, features)``, from the origin of this index."""
        for lead in np.flatnonzero(self._plan.targets[origin]):
            target = self._plan.observed[self._plan.origins[origin] + self._plan.horizons[lead]]
            difference = forecasts[lead].double() - target.double()
            self.direct_error[origin, lead] = float(difference.square().sum())

    def forecast_spread(self) -> FloatArray:
        """Sums of squares of the rollouts about their mean, summed over features, ``(horizons,)``."""
        return self._spread(0)

    def target_spread(self) -> FloatArray:
        """The same of the targets."""
        return self._spread(1)

    def _spread(self, which: int) -> FloatArray:
        total, square = self._sums[which].numpy()
        n_targets = np.maximum(self.targets.sum(axis=0), 1)[:, None]
        return np.asarray(np.maximum(square - total**2 / n_targets, 0.0).sum(axis=-1))


class _Origin(NamedTuple):
    """Where a rollout begins: number of the origin, one-step forecast made there ``(features,)``, and the state."""

    number: int
    forecast: Tensor
    state: Any


def _can_batch(model: ForecastModel) -> TypeGuard[BatchedModel]:
    return callable(getattr(model, "forward", None))


class _RolledModel:
    """A forecaster that forecasts as it would alone, and is rolled out from the origins that it passes.

    Rollouts wait until there is a batch of them.
    """

    def __init__(self, model: ForecastModel, plan: _RolloutPlan) -> None:
        self.name, self.horizons = model.name, tuple(model.horizons)
        self._model, self._plan, self._position = model, plan, 0
        is_rolled = np.arange(len(plan.origins)) % (1 if _can_batch(model) else SLOW_STRIDE) == 0
        self._is_rolled, self._rollouts = is_rolled, _Rollouts(plan, is_rolled)
        # A reference of the skills stops at every origin, since all others are measured against it.
        stops = range(len(is_rolled)) if model.name in _REFERENCES else np.flatnonzero(is_rolled).tolist()
        self._stops = {int(plan.origins[index]) + 1: index for index in stops}
        self._residuals: list[Tensor] = []
        self._waiting: list[_Origin] = []

    def fit(self, runs: Sequence[RunData]) -> None:
        """Do nothing: the forecaster is fitted."""

    def init_state(self) -> Any:
        """State of the forecaster before the first time point of the run."""
        return self._model.init_state()

    def step(self, series: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Forecast from the next time points, ``(time, features)``, piece by piece from one origin to the next."""
        parts, first, end = [], self._position, self._position + len(series)
        for stop in [*(stop for stop in self._stops if first < stop < end), end]:
            forecasts, state = self._model.step(series[self._position - first : stop - first], state)
            self._note(forecasts.cpu(), state, stop)
            parts.append(forecasts)
        return torch.cat(parts), state

    @torch.inference_mode()
    def finish(self) -> _Rollouts:
        """Roll out what still waits, and return the sums over all rollouts."""
        self._roll_out()
        self._rollouts.residuals = torch.cat(self._residuals).double().numpy()
        return self._rollouts

    @torch.inference_mode()
    def _note(self, forecasts: Tensor, state: Any, stop: int) -> None:
        """Note the residuals of the one-step forecasts of scored time points, and what belongs to an origin."""
        plan, start, self._position = self._plan, self._position, stop
        tested = plan.observed[start:, plan.tested]
        [(has_target, targets)] = scored_targets(tested, plan.scored[start:], (1,), stop - start)
        self._residuals.append(targets - forecasts[has_target, 0][:, plan.tested])
        if stop not in self._stops:
            return
        number = self._stops[stop]
        self._rollouts.add_direct(number, forecasts[-1])
        if self._is_rolled[number]:
            # A copy of the one forecast, or the whole block would be held as long as the origin waits.
            self._waiting.append(_Origin(number, forecasts[-1, 0].clone(), _copy(state)))
        if len(self._waiting) >= (_largest_batch(plan, state) if _can_batch(self._model) else 1):
            self._roll_out()

    def _roll_out(self) -> None:
        _roll_out(self._model, self._waiting, self._rollouts, self.horizons)
        self._waiting = []


def _largest_batch(plan: _RolloutPlan, state: Any) -> int:
    n_bytes = sum(leaf.nbytes for leaf in _leaves(state) if isinstance(leaf, Tensor))
    n_values = plan.observed[: 2 * len(plan.horizons)].numel()
    return max(1, min(_BATCH_STATES, _BATCH_VALUES // n_values, _BATCH_BYTES // max(n_bytes, 1)))


def _copy(state: Any) -> Any:
    """Copy a state that a later step may write into; none writes into a stream's state, which is frozen."""
    return state if isinstance(state, StreamState) else copy.deepcopy(state)


def _roll_out(model: ForecastModel, origins: Sequence[_Origin], rollouts: _Rollouts, horizons: tuple[int, ...]) -> None:
    """Feed a model its own forecasts up to the longest lead time; states that fit together go as one batch."""
    for group in _compatible(origins):
        indices = np.array([origin.number for origin in group])
        forecast = torch.stack([origin.forecast for origin in group])
        first, *others = (origin.state for origin in group)
        state = first.join(others) if others else first
        for ahead in range(1, horizons[-1] + 1):
            if ahead in horizons:
                rollouts.add(indices, horizons.index(ahead), forecast)
            if ahead == horizons[-1]:
                break
            if others and _can_batch(model):
                forecasts, state = model.forward(forecast[:, None].to(_device(state)), state)
                forecast = forecasts[:, 0, 0].cpu()
            else:
                forecasts, state = model.step(forecast, state)
                forecast = forecasts[:, 0].cpu()


def _compatible(origins: Sequence[_Origin]) -> list[list[_Origin]]:
    """Group origins whose states can be joined: they stand at the same place inside a chunk, segment or window."""
    groups: list[tuple[list[Any], list[_Origin]]] = []
    for origin in origins:
        structure = [tuple(leaf.shape[1:]) if isinstance(leaf, Tensor) else leaf for leaf in _leaves(origin.state)]
        members = next((members for other, members in groups if other == structure), None)
        if members is None:
            groups.append((structure, [origin]))
        else:
            members.append(origin)
    return [members for _, members in groups]


def _leaves(state: Any) -> Iterator[Any]:
    """Tensors, numbers and other values of a state, in order."""
    if isinstance(state, StreamState):
        for field in dataclasses.fields(state):
            yield from _leaves(getattr(state, field.name))
    elif isinstance(state, tuple):
        for item in state:
            yield from _leaves(item)
    else:
        yield state


def _device(state: StreamState) -> torch.device:
    return next(leaf.device for leaf in _leaves(state) if isinstance(leaf, Tensor))


def _test_whiteness(residuals: FloatArray) -> tuple[float, float]:
    """Fraction of features with autocorrelated residuals, and the median of the statistic; NaN where undefined."""
    if len(residuals) <= 2 * WHITENESS_LAGS:
        return float("nan"), float("nan")
    statistic, p_value = robust_portmanteau(residuals, WHITENESS_LAGS)
    defined = np.isfinite(statistic)
    if not defined.any():
        return float("nan"), float("nan")
    return float((p_value[defined] < WHITENESS_ALPHA).mean()), float(np.median(statistic[defined]))
