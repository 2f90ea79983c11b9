"""Fit the keys of the memory that looks ahead, and estimate its reliability."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.components import ComponentRun, pad_rows, residual_errors
from titan_neuro.forecaster.fit.key_lengths import choose_scales
from titan_neuro.forecaster.fit.memory_runs import Example, choose_options, run_memory, sum_outputs
from titan_neuro.forecaster.fit.stimulus_memory import runs_for_choices
from titan_neuro.forecaster.fit.titans_memory import fit_titans_memory
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.titan.config import LookaheadConfig
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemoryFit
from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemoryFit
from titan_neuro.forecaster.titan.own_past_memory import OwnPastMemory, OwnPastMemoryFit
from titan_neuro.linear.components import principal_components
from titan_neuro.linear.running_averages import LEAST_RUN_TIME_POINTS

# Lower limit of a component's variance, as a fraction of the mean variance.
_MIN_VARIANCE = 1e-3
# Time points from which principal directions of the key features are computed; the cost grows with their cube.
_SAMPLED_TIME_POINTS = 1000
# Of the small memories: time points after which half of what they tell is trusted.
_OWN_PENALTIES = (10.0, 30.0, 100.0, 300.0)


def fit_lookahead_memory(
    config: LookaheadConfig, runs: Sequence[ComponentRun], recalled: Sequence[Recalled], horizons: tuple[int, ...]
) -> LookaheadMemoryFit:
    """Fit the map from key features to keys, choose the length of the keys, and estimate the reliability.

    First the small memories of the components' own past are run through each training run, and what they give is added
    to the recall. A key then holds the principal directions of the key features, each kind of which has a length of its
    own (:func:`titan_neuro.forecaster.fit.key_lengths.choose_scales`). A memory with these keys runs through each
    training run as through a test run, from empty, and its reliability follows. The rule of Titans starts from these
    keys (:func:`titan_neuro.forecaster.fit.titans_memory.fit_titans_memory`).

    Parameters
    ----------
    config : LookaheadConfig
    runs : sequence of ComponentRun
    recalled : sequence of Recalled
        For each run, what the recall forecasts, ``(time, horizons, width)``.
    horizons : tuple of int
        Lead times in time points.

    Returns
    -------
    LookaheadMemoryFit
    """
    directions = _find_directions(config, runs)
    # The rule of Titans starts from the keys of the exact one.
    exact = config
    if config.rule == "titans":
        exact = dataclasses.replace(config, rule="exact", key_width=config.titans.key_width)
    chosen_runs = [(runs[index], recalled[index]) for index in runs_for_choices(runs)]
    own_past, chosen_runs = _fit_own_past(chosen_runs, horizons)

    def examples(config: LookaheadConfig) -> list[Example]:
        memory = config.build(horizons=horizons, width=directions.shape[1])
        memory.directions.copy_(directions[: len(memory.directions)])
        return [Example(memory, *one) for one in chosen_runs]

    sample = examples(exact)
    every = max(1, -(-sum(int(one.run.scored.sum()) for one in sample) // _SAMPLED_TIME_POINTS))
    features = torch.cat([one.features()[one.run.scored][::every] for one in sample])
    key_map = _fit_key_map(features, choose_scales(sample, features), sample[0].memory.associations.key_map.shape[1])
    if config.rule == "titans":
        return LookaheadMemoryFit(directions, own_past, fit_titans_memory(key_map, features, examples(config)))
    associations = sample[0].memory.associations
    associations.load(ForecastMemoryFit(key_map, torch.ones_like(associations.reliability)))
    reliability = run_memory(associations, sample).reliability().float()
    return LookaheadMemoryFit(directions, own_past, ForecastMemoryFit(key_map, reliability))


class _OwnOption(NamedTuple):
    """A penalty of the small memories; the first dimension of all parts is that of the horizons."""

    removed: Tensor
    penalties: Tensor
    reliability: Tensor


def _fit_own_past(
    runs: Sequence[tuple[ComponentRun, Recalled]], horizons: tuple[int, ...]
) -> tuple[OwnPastMemoryFit, list[tuple[ComponentRun, Recalled]]]:
    """Choose the penalty of the small memories, and return the runs with what they add to the recall.

    By runs of at least `LEAST_RUN_TIME_POINTS`; without any, the small memories give 0.
    """
    power = torch.stack([run.series[run.scored].square().mean(0) for run, _ in runs]).mean(0)
    scale = power.clamp_min(max(_MIN_VARIANCE * float(power.mean()), 1e-12)).rsqrt()
    memory = OwnPastMemory(horizons=horizons, width=len(scale))
    long_enough = [one for one in runs if len(one[0].series) >= LEAST_RUN_TIME_POINTS]
    if not long_enough:
        return OwnPastMemoryFit(scale, memory.penalties, memory.reliability), list(runs)

    def read(run: ComponentRun, recalled: Recalled) -> Tensor:
        stream = run.series[None], run.errors[None], recalled.total[None]
        return memory.learn(*stream, memory.init_state(1))[0][0]

    def run_option(penalty: float) -> _OwnOption:
        penalties = torch.full((len(horizons),), penalty)
        memory.load(OwnPastMemoryFit(scale, penalties, memory.reliability))
        outputs = ((read(*one), residual_errors(one[0], one[1].total, horizons)) for one in long_enough)
        sums = sum_outputs([run for run, _ in long_enough], horizons, outputs)
        return _OwnOption(sums.error_removed(), penalties, sums.reliability().float())

    best = choose_options(run_option(penalty) for penalty in _OWN_PENALTIES)
    fit = OwnPastMemoryFit(scale, best.penalties, best.reliability)
    memory.load(fit)
    added = [read(*one) * fit.reliability for one in runs]
    return fit, [
        (run, recalled._replace(own=recalled.own + more)) for (run, recalled), more in zip(runs, added, strict=True)
    ]


def _find_directions(config: LookaheadConfig, runs: Sequence[ComponentRun]) -> Tensor:
    """Directions in which key features are described; see :attr:`LookaheadMemory.directions`.

    Rows of zeros where the data have fewer dimensions.
    """
    series = torch.cat([run.series[run.scored] for run in runs])
    n_components = min(config.n_components, series.shape[1])
    directions = principal_components(series, n_components)
    variance = (series @ directions.T).square().mean(0)
    least = _MIN_VARIANCE * float(series.square().sum(1).mean()) / max(1, min(series.shape))
    scaled = directions / variance.clamp_min(max(least, 1e-12))[:, None] ** 0.25
    return pad_rows(scaled, n_components)


def _fit_key_map(samples: Tensor, scales: Tensor, key_width: int) -> Tensor:
    """Map from key features to keys, ``(horizons, key width, features)``.

    `samples` are key features of some time points, ``(samples, horizons, features)``; `scales` are what they are
    multiplied by, ``(horizons, features)``.
    """
    n_horizons, n_features = scales.shape
    key_map = torch.zeros(n_horizons, key_width, n_features)
    for index in range(n_horizons):
        axes = principal_components(samples[:, index] * scales[index], key_width)
        key_map[index, : len(axes)] = axes * scales[index]
    return key_map
