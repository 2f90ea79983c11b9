"""How surprised a model is while it watches a run, time point by time point, in constant memory."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from titan_neuro.forecaster.forecaster import Forecaster
from titan_neuro.forecaster.recall.forecast_memory import ForecastMemory
from titan_neuro.titans.layers import NeuralMemory
from titan_neuro.typing import RunData

RECALL = "surprise of the recall's memory"
BACKBONE = "surprise of the backbone's memory"
PREDICTION = "change of the prediction"
MEASURES = (RECALL, BACKBONE, PREDICTION)
TIME_POINT = "change of the time point"
GLOBAL = "change of the global signal"

_FRAMES_AT_A_TIME = 64


@torch.inference_mode()
def watch(model: Forecaster, run: RunData) -> dict[str, np.ndarray]:
    """Let a model watch a run from its first time point to its last, and measure how surprised it is.

    The surprise of a memory is the norm of its loss's gradient, by the weights before the chunk that holds the time
    point: what the memory is written with (Behrouz et al. 2025, equations 12 and 16). Norms of several heads, layers
    and tokens of a time point are joined by the root of the sum of their squares. The change of the prediction
    (Bayesian surprise, after Kumar et al. 2023) is what a time point changes in the forecast of one later time point:
    see `prediction_pair`.

    Parameters
    ----------
    model : Forecaster
    run : RunData

    Returns
    -------
    dict of str to numpy.ndarray
        By name, of `MEASURES`, float64 ``(time,)``: causal; NaN throughout for a memory that the model hasn't, and at
        the first time points, for which nothing was forecast. The change of the prediction in standard deviations of a
        feature, root mean square over features.
    """
    model.eval()
    state, changes, step = model.init_state(), _PredictionChange(model.horizons), block_time_points(model)
    with _listening(model) as heard:
        for start in range(0, run.n_time_points, step):
            series = run.read(start, min(start + step, run.n_time_points)).to(model.linear_skip.coefficients)
            forecasts, state = model(series[None], state)
            changes.take(forecasts[0])
    found = {PREDICTION: torch.cat(changes.found).double().cpu().numpy()}
    for name, parts in heard.items():
        squares = [torch.cat(norms).double().square() for norms in parts.values() if norms]
        found[name] = sum(squares).sqrt().cpu().numpy() if squares else np.full(run.n_time_points, np.nan)
    return {name: found[name] for name in MEASURES}


def block_time_points(model: Forecaster) -> int:
    """Time points that a model may be fed at once so that no memory begins a new chunk on the way."""
    chunks = [memory.chunk_time_points for memory in model.modules() if isinstance(memory, ForecastMemory)]
    chunks += [memory.config.chunk_time_points for memory in model.modules() if isinstance(memory, NeuralMemory)]
    return math.gcd(*chunks) or _FRAMES_AT_A_TIME


def prediction_pair(horizons: tuple[int, ...]) -> tuple[int, int, int]:
    """Which two forecasts the change of the prediction compares, as places in `horizons`, and how many time points
    apart.

    Of the horizons that follow each other, the closest two, ``h`` and ``h + gap``: the forecast of time point ``t + h``
    made at ``t`` is compared with the one made at ``t - gap``. With a single horizon there are no two forecasts of one
    time point: then its forecasts at ``t`` and ``t - 1``, of time points that follow each other.
    """
    if len(horizons) == 1:
        return 0, 0, 1
    gaps = [later - sooner for sooner, later in itertools.pairwise(horizons)]
    place = gaps.index(min(gaps))
    return place, place + 1, gaps[place]


def trace_time_points(run: RunData) -> dict[str, np.ndarray]:
    """What changes in the recording itself from one time point to the next, with no model and no memory.

    Returns
    -------
    dict of str to numpy.ndarray
        `TIME_POINT`: root mean square over features of the difference; `GLOBAL`: absolute difference of the mean over
        features; ``(time,)``, in standard deviations, NaN at time point 0.
    """
    changes, means, last = [torch.full((1,), torch.nan)], list[Tensor](), None
    for start in range(0, run.n_time_points, _FRAMES_AT_A_TIME):
        series = run.read(start, min(start + _FRAMES_AT_A_TIME, run.n_time_points)).float()
        joined = series if last is None else torch.cat([last, series])
        changes.append(joined.diff(dim=0).square().mean(dim=1).sqrt())
        means.append(series.mean(dim=1))
        last = series[-1:]
    mean = torch.cat(means).double().numpy()
    return {TIME_POINT: torch.cat(changes).double().numpy(), GLOBAL: np.abs(np.diff(mean, prepend=np.nan))}


@contextlib.contextmanager
def _listening(model: Forecaster) -> Iterator[dict[str, dict[str, list[Tensor]]]]:
    """Hear what each memory is about to be written with: by kind of memory and module, time point by time point."""
    heard: dict[str, dict[str, list[Tensor]]] = {RECALL: {}, BACKBONE: {}}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, ForecastMemory | NeuralMemory):
            norms = heard[RECALL if isinstance(module, ForecastMemory) else BACKBONE].setdefault(name, [])

            def hear(module: torch.nn.Module, inputs: tuple, *, norms: list[Tensor] = norms) -> None:
                norms.append(module.surprise(*inputs)[0])

            handles.append(module.register_forward_pre_hook(hear))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


class _PredictionChange:
    """Keeps the forecasts of the last time points at one horizon, and no more."""

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self._now, self._before, self._gap = prediction_pair(horizons)
        self._kept: Tensor | None = None
        self.found: list[Tensor] = []

    def take(self, forecasts: Tensor) -> None:
        """Take the next forecasts, ``(time, horizons, features)``."""
        if self._kept is None:
            self._kept = forecasts.new_full((self._gap, forecasts.shape[-1]), torch.nan)
        before = torch.cat([self._kept, forecasts[:, self._before]])
        self.found.append((forecasts[:, self._now] - before[: len(forecasts)]).square().mean(dim=1).sqrt())
        self._kept = before[len(forecasts) :]
