"""Fit the keys of the memory that looks ahead, and estimate its reliability."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.components import ComponentRun, pad_rows
from titan_neuro.forecaster.fit.memory_runs import Example, choose_options, run_memory
from titan_neuro.forecaster.fit.stimulus_memory import runs_for_choices
from titan_neuro.forecaster.fit.titans_memory import fit_titans_memory
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.titan.config import LookaheadConfig
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemoryFit
from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory, LookaheadMemoryFit
from titan_neuro.linear.components import principal_components

# Mean squared length of the part of a key that each kind of feature makes: about how much of it is learned from one
# time point. Rounded from what gradients through the memory gave on four subjects of one recording (docs/log.md).
_TRUST = {
    "time point": 0.1,
    "average 5": 0.08,
    "average 15": 0.2,
    "average 40": 0.01,
    "average 100": 1.5,
    "innovation 0": 0.1,
    "innovation 1": 0.04,
    "stimulus, all lead times": 0.06,
    "stimulus": 0.15,
    "own": 0.01,
}
_TRUST_IN_EARLIER_INNOVATIONS = 0.01
# Factors from which the fit chooses, for each horizon: first that of what the person's own brain does, then that of
# what the stimulus memory forecasts.
_OWN_FACTORS = (0.01, 0.1, 0.4, 1.0, 3.0)
_STIMULUS_FACTORS = (0.2, 0.5, 2.0)
# Lower limit of a component's variance, as a fraction of the mean variance.
_MIN_VARIANCE = 1e-3
# Kinds with less than this fraction of the time points' power are left out: scaled up they were noise.
_LEAST_POWER = 1e-6
# Time points from which principal directions of the key features are computed; the cost grows with their cube.
_SAMPLED_TIME_POINTS = 1000


def fit_lookahead_memory(
    config: LookaheadConfig, runs: Sequence[ComponentRun], recalled: Sequence[Recalled], horizons: tuple[int, ...]
) -> LookaheadMemoryFit:
    """Fit the map from key features to keys, choose the length of the keys, and estimate the reliability.

    A key holds the principal directions of the key features, each kind of which has the length that `_TRUST` gives it,
    times a factor. A memory runs through each training run as through a test run, from empty. The factors are chosen,
    for each horizon, by the error that the memory then removes; its reliability follows from the same runs. The rule of
    Titans starts from these keys (:func:`titan_neuro.forecaster.fit.titans_memory.fit_titans_memory`).

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
    memory = _build(exact, directions, horizons)
    sample = [Example(memory, runs[index], recalled[index]) for index in runs_for_choices(runs)]
    every = max(1, -(-sum(int(one.run.scored.sum()) for one in sample) // _SAMPLED_TIME_POINTS))
    features = torch.cat([one.features()[one.run.scored][::every] for one in sample])

    def run_option(own: Tensor, stimulus: Tensor) -> _Option:
        """Run a memory with these factors, one for each horizon."""
        key_map = _fit_key_map(memory, features, own, stimulus)
        memory.associations.load(ForecastMemoryFit(key_map, torch.ones_like(memory.associations.reliability)))
        sums = run_memory(memory.associations, sample)
        return _Option(sums.error_removed(), own, stimulus, key_map, sums.reliability().float())

    ones = torch.ones(len(horizons))
    best = choose_options(run_option(factor * ones, ones) for factor in _OWN_FACTORS)
    if bool(best.reliability.any()) and any(bool(one.recalled.stimulus.any()) for one in sample):
        best = choose_options([best, *(run_option(best.own, factor * ones) for factor in _STIMULUS_FACTORS)])
    if config.rule == "titans":
        memory = _build(config, directions, horizons)
        examples = [one._replace(memory=memory) for one in sample]
        return LookaheadMemoryFit(directions, fit_titans_memory(best.key_map, features, examples))
    return LookaheadMemoryFit(directions, ForecastMemoryFit(best.key_map, best.reliability))


def _build(config: LookaheadConfig, directions: Tensor, horizons: tuple[int, ...]) -> LookaheadMemory:
    memory = config.build(horizons=horizons, width=directions.shape[1])
    memory.directions.copy_(directions)
    return memory


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


class _Option(NamedTuple):
    """A memory as it was run through the training runs; the first dimension of all parts is that of the horizons.

    Attributes
    ----------
    removed : torch.Tensor
        Squared error that it removed.
    own, stimulus : torch.Tensor
        Factors of the two sorts of key features.
    key_map, reliability : torch.Tensor
        See :class:`ForecastMemoryFit`.
    """

    removed: Tensor
    own: Tensor
    stimulus: Tensor
    key_map: Tensor
    reliability: Tensor


def _fit_key_map(memory: LookaheadMemory, samples: Tensor, own: Tensor, stimulus: Tensor) -> Tensor:
    """Map from key features to keys, ``(horizons, key width, features)``.

    `samples` are key features of some time points, ``(samples, horizons, features)``; `own` and `stimulus` are factors
    of `_TRUST`, for each horizon.
    """
    n_horizons = samples.shape[1]
    kinds = memory.config.feature_sizes(n_horizons=n_horizons, width=memory.width)
    key_map = torch.zeros_like(memory.associations.key_map)
    for index in range(n_horizons):
        # Mean squared length of each kind of feature.
        parts = torch.split(samples[:, index], [*kinds.values()], dim=1)
        power = torch.stack([part.square().sum(1).mean() for part in parts])
        factors = [stimulus[index] if kind.startswith("stimulus") else own[index] for kind in kinds]
        trust = torch.tensor([_TRUST.get(kind, _TRUST_IN_EARLIER_INNOVATIONS) for kind in kinds]) * torch.stack(factors)
        scale = torch.where(power > _LEAST_POWER * power[0], trust / power.clamp_min(1e-12), 0.0).sqrt()
        scales = scale.repeat_interleave(torch.tensor([*kinds.values()]))
        axes = principal_components(samples[:, index] * scales, key_map.shape[1])
        key_map[index, : len(axes)] = axes * scales
    return key_map
