"""Scenes of a stimulus, by their names in events tables, and what recordings and models contain at each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from titan_neuro.data.bids.names import parse_entities
from titan_neuro.forecaster import Forecaster
from titan_neuro.runs import read_blocks
from titan_neuro.typing import RunData

_BLOCK_TIME_POINTS = 64
# Onsets are decimal fractions, and times are products: equal ones may differ in the last digit.
_ROUNDING_S = 1e-6

Patterns = dict[str, np.ndarray]
"""A pattern ``(units,)`` for each scene, by its name."""


def task_of(run: RunData) -> str:
    """Return the label of a run's task; ``""`` if its name has none."""
    return parse_entities(run.key).get("task", "")


def named_scenes(run: RunData, column: str) -> list[str]:
    """Return the names in this column of a run's events, without repeats, in the order of the table."""
    return [*dict.fromkeys(name for name in getattr(run, "event_columns", {}).get(column, ()) if name)]


def find_scenes(run: RunData, column: str, *, delay_s: float, repetition_time: float) -> dict[str, np.ndarray]:
    """Find the time points of each scene that the events of a run name.

    Parameters
    ----------
    run : RunData
    column : str
        Column of its events table with the names.
    delay_s : float
        Hemodynamic delay, in seconds, that is added to onsets.
    repetition_time : float
        Seconds.

    Returns
    -------
    dict of str to numpy.ndarray
        By name, in the order of their first onsets: time points at which the head is still, int, ascending. Scenes
        without any are left out.
    """
    names = getattr(run, "event_columns", {}).get(column, [])
    named = [(event, name) for event, name in zip(getattr(run, "events", ()), names, strict=False) if name]
    times = np.arange(run.n_time_points) * repetition_time - delay_s + _ROUNDING_S
    inside: dict[str, np.ndarray] = {}
    for (onset, duration, _), name in sorted(named, key=lambda pair: pair[0][0]):
        at = (times >= onset) & (times < onset + np.nan_to_num(duration)) & ~run.high_motion
        inside[name] = inside.get(name, np.zeros(run.n_time_points, bool)) | at
    return {name: np.flatnonzero(at) for name, at in inside.items() if at.any()}


def average_activity(run: RunData, scenes: Mapping[str, np.ndarray]) -> Patterns:
    """Average the recording over each scene, block by block: patterns of all features."""
    weights = _weights(scenes, run.n_time_points)
    total = np.zeros((len(scenes), run.n_features))
    for block, series in read_blocks(run, _BLOCK_TIME_POINTS):
        total += weights[:, block] @ series.double().cpu().numpy()
    return dict(zip(scenes, total, strict=True))


def average_readings(values: np.ndarray, time_points: np.ndarray, scenes: Mapping[str, np.ndarray]) -> Patterns:
    """Average readings of a state over each scene; each unit is first z-scored over the run, as activity patterns are.

    Parameters
    ----------
    values : numpy.ndarray
        ``(readings, units)``; a unit that is constant counts as 0.
    time_points : numpy.ndarray
        int ``(readings,)``.
    scenes : mapping of str to numpy.ndarray
        From :func:`find_scenes`. Those without a reading have no pattern.
    """
    values = values.astype(float)
    spread = values.std(axis=0)
    varies = spread > 1e-6 * np.abs(values).max(axis=0, initial=0.0)
    scaled = (values - values.mean(axis=0)) / np.where(varies, spread, np.inf)
    read_at = {name: np.isin(time_points, scene) for name, scene in scenes.items()}
    return {name: scaled[at].mean(axis=0) for name, at in read_at.items() if at.any()}


def average_over_runs(of_runs: Sequence[Patterns]) -> Patterns:
    """Join the patterns of several runs; a scene that occurs in several is averaged."""
    names = dict.fromkeys(name for patterns in of_runs for name in patterns)
    return {name: np.mean([patterns[name] for patterns in of_runs if name in patterns], axis=0) for name in names}


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneForecasts:
    """What a model forecast while it read a run.

    Attributes
    ----------
    patterns : dict of int to dict
        By lead time (time points): the mean forecast of the time points of each scene, ``(features,)``.
    skill : numpy.ndarray
        ``(time,)``: error removed beyond linear autoregression (skill_ar) at each time point as a target, the mean over
        lead times; NaN at time points that are not scored or that have no forecast.
    strength : numpy.ndarray
        ``(time,)``: what memories and decoder add to the linear forecasts made at a time point, as the root mean square
        over lead times and features, in standard deviations of a feature.
    """

    patterns: Mapping[int, Patterns]
    skill: np.ndarray
    strength: np.ndarray


@torch.inference_mode()
def forecast_scenes(model: Forecaster, run: RunData, scenes: Mapping[str, np.ndarray]) -> SceneForecasts:
    """Forecast a run from its first to its last time point, and average the forecasts of each scene.

    Patterns are kept for the shortest and the longest lead time only; one block of forecasts is in memory at a time.
    """
    horizons, state = model.horizons, model.eval().init_state()
    weights, n_time_points = _weights(scenes, run.n_time_points), run.n_time_points
    totals = {h: np.zeros((len(scenes), run.n_features)) for h in (horizons[0], horizons[-1])}
    errors = np.full((2, len(horizons), n_time_points), np.nan)
    strength = np.zeros(n_time_points)
    for block, series in read_blocks(run, _BLOCK_TIME_POINTS, n_after=horizons[-1]):
        series = series.to(model.linear_skip.coefficients)
        length = block.stop - block.start
        linear, residual, state = model.forecast_parts(series[None, :length], state)
        strength[block] = residual[0].square().mean(dim=(1, 2)).sqrt().cpu().numpy()
        for index, h in enumerate(horizons):
            count = min(length, n_time_points - block.start - h)
            if count <= 0:
                continue
            targets = slice(block.start + h, block.start + h + count)
            forecasts = linear[0, :count, index] + residual[0, :count, index]
            for row, forecast in enumerate((forecasts, linear[0, :count, index])):
                squares = (forecast - series[h : h + count]).double().square()
                errors[row, index, targets] = squares.sum(dim=1).cpu().numpy()
            if h in totals:
                totals[h] += weights[:, targets] @ forecasts.double().cpu().numpy()
    errors[:, :, ~np.asarray(run.scored)] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        skill = np.mean(1 - errors[0] / errors[1], axis=0)
    patterns = {h: dict(zip(scenes, total, strict=True)) for h, total in totals.items()}
    return SceneForecasts(patterns=patterns, skill=skill, strength=strength)


def _weights(scenes: Mapping[str, np.ndarray], n_time_points: int) -> np.ndarray:
    """Weight of each time point in the mean of each scene: ``(scenes, time)``."""
    weights = np.zeros((len(scenes), n_time_points))
    for row, time_points in zip(weights, scenes.values(), strict=True):
        row[time_points] = 1 / len(time_points)
    return weights
