"""The surprise of a model's memories while it reads a run, recorded at every time point, in constant memory.

The surprise of one memory is computed in :mod:`titan_neuro.titans.memory.surprise`; this module records it from all
memories of a model, and measures beside it how much the prediction and the recording itself change.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from titan_neuro.forecaster import Forecaster
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemory
from titan_neuro.runs import read_blocks
from titan_neuro.titans.layers import NeuralMemory
from titan_neuro.typing import RunData

FORECAST_MEMORY = "surprise of the forecast memory"
BLOCK_MEMORIES = "surprise of the blocks' memories"
PREDICTION = "change of the prediction"
MEASURES = (FORECAST_MEMORY, BLOCK_MEMORIES, PREDICTION)
ACTIVITY = "change of the activity pattern"
GLOBAL_SIGNAL = "change of the global signal"

_BLOCK_TIME_POINTS = 64


@torch.inference_mode()
def record_surprise(model: Forecaster, run: RunData) -> dict[str, np.ndarray]:
    """Record how surprised a model's memories are at each time point of a run, read from its first to its last.

    The surprise of a memory is the norm of the gradient of its loss, which it is written with (Behrouz et al. 2025,
    equations 12 and 16); the gradient is taken at the weights before the chunk that contains the time point. Norms over
    heads, layers and the tokens of a time point are combined by the root of their sum of squares. The change of the
    prediction (Bayesian surprise, after Kumar et al. 2023) is how much a time point changes the forecast of one later
    time point: see `prediction_pair`.

    Parameters
    ----------
    model : Forecaster
    run : RunData

    Returns
    -------
    dict of str to numpy.ndarray
        For each name of `MEASURES`, float64 ``(time,)``, causal. NaN throughout for a memory that the model does not
        have or use (:attr:`Forecaster.blocks_are_idle`), and at the first time points, of which there was no forecast.
        The change of the prediction is the root mean square over features, in standard deviations of a feature.
    """
    model.eval()
    state, change = model.init_state(), _PredictionChange(model.horizons)
    with _record_memories(model) as records:
        for _, series in read_blocks(run, block_time_points(model)):
            forecasts, state = model(series.to(model.linear_skip.coefficients)[None], state)
            change.add(forecasts[0])
    measures = {PREDICTION: torch.cat(change.values).double().cpu().numpy()}
    for name, norms_of_memories in records.items():
        squares = [torch.cat(norms).double().square() for norms in norms_of_memories.values() if norms]
        measures[name] = (
            functools.reduce(torch.add, squares).sqrt().cpu().numpy() if squares else np.full(run.n_time_points, np.nan)
        )
    return {name: measures[name] for name in MEASURES}


def block_time_points(model: Forecaster) -> int:
    """Return how many time points a model may read at once so that no memory begins a new chunk within them."""
    if model.blocks_are_idle:
        return _BLOCK_TIME_POINTS
    chunks = [memory.config.chunk_time_points for memory in model.modules() if isinstance(memory, NeuralMemory)]
    return math.gcd(*chunks) or _BLOCK_TIME_POINTS


def prediction_pair(horizons: tuple[int, ...]) -> tuple[int, int, int]:
    """Choose the two forecasts whose difference is the change of the prediction.

    Of neighboring lead times, the closest two, ``h`` and ``h + gap``: the forecast of time point ``t + h`` made at
    ``t`` is compared with the one made at ``t - gap``. With a single lead time no time point is forecast twice: then
    the forecasts made at ``t`` and ``t - 1`` are compared, which are of consecutive time points.

    Parameters
    ----------
    horizons : tuple of int
        Lead times, in time points, ascending.

    Returns
    -------
    later, earlier : int
        Indices into `horizons`: of the forecast made at ``t``, and of the one made at ``t - gap``.
    gap : int
        Time points.
    """
    if len(horizons) == 1:
        return 0, 0, 1
    gaps = [longer - shorter for shorter, longer in itertools.pairwise(horizons)]
    index = gaps.index(min(gaps))
    return index, index + 1, gaps[index]


def record_activity_change(run: RunData) -> dict[str, np.ndarray]:
    """Record how much the recording itself changes from one time point to the next, with no model and no memory.

    Returns
    -------
    dict of str to numpy.ndarray
        `ACTIVITY`: root mean square over features of the difference. `GLOBAL_SIGNAL`: absolute difference of the mean
        over features. Each ``(time,)``, in standard deviations of a feature; NaN at time point 0.
    """
    changes, means = [torch.full((1,), torch.nan)], list[Tensor]()
    for block, series in read_blocks(run, _BLOCK_TIME_POINTS, n_before=1):
        changes.append(series.float().diff(dim=0).square().mean(dim=1).sqrt())
        means.append(series[min(block.start, 1) :].float().mean(dim=1))
    mean = torch.cat(means).double().numpy()
    return {
        ACTIVITY: torch.cat(changes).double().numpy(),
        GLOBAL_SIGNAL: np.abs(np.diff(mean, prepend=np.nan)),
    }


@contextlib.contextmanager
def _record_memories(model: Forecaster) -> Iterator[dict[str, dict[str, list[Tensor]]]]:
    """Record the surprise of each memory as it is written, by kind of memory and name of the module."""
    records: dict[str, dict[str, list[Tensor]]] = {FORECAST_MEMORY: {}, BLOCK_MEMORIES: {}}
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, ForecastMemory):
                stack.enter_context(_recording(module, records[FORECAST_MEMORY].setdefault(name, [])))
            elif isinstance(module, NeuralMemory):
                hook = _surprise_hook(module, records[BLOCK_MEMORIES].setdefault(name, []))
                stack.callback(module.register_forward_pre_hook(hook).remove)
        yield records


@contextlib.contextmanager
def _recording(memory: ForecastMemory[Any], norms: list[Tensor]) -> Iterator[None]:
    """Append the surprise of a memory to `norms`, ``(time,)``, at each call, which learns and records in one step."""

    def learn(features: Tensor, errors: Tensor, state: Any, *, frozen: bool = False) -> tuple[Tensor, Any]:
        read, surprise, state = memory.learn_and_record(features, errors, state)
        norms.append(surprise[0])
        return read, state

    # Instead of the method: `forward` is to find it. Nobody freezes a memory whose surprise is recorded.
    vars(memory)["learn"] = learn
    try:
        yield
    finally:
        del vars(memory)["learn"]


def _surprise_hook(memory: NeuralMemory, norms: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Make a hook that appends the surprise of a memory to `norms`, ``(time,)`` for each call of the memory."""

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        norms.append(memory.surprise(*inputs)[0])

    return record


class _PredictionChange:
    """Differences between two forecasts of one time point; keeps the last `gap` forecasts at one lead time.

    Attributes
    ----------
    values : list of torch.Tensor
        ``(time,)`` of each block: root mean square over features; NaN where there is no earlier forecast.
    """

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self._later, self._earlier, self._gap = prediction_pair(horizons)
        self._pending: Tensor | None = None
        self.values: list[Tensor] = []

    def add(self, forecasts: Tensor) -> None:
        """Add the forecasts of the next time points, ``(time, horizons, features)``."""
        if self._pending is None:
            self._pending = forecasts.new_full((self._gap, forecasts.shape[-1]), torch.nan)
        earlier = torch.cat([self._pending, forecasts[:, self._earlier]])
        difference = forecasts[:, self._later] - earlier[: len(forecasts)]
        self.values.append(difference.square().mean(dim=1).sqrt())
        self._pending = earlier[len(forecasts) :]
