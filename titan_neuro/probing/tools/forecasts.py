"""Forecasts whose memory starts empty where a probe wants it to.

A run is observed once (its linear forecasts, and what the memory reads at each time point); the observation is then
read with an empty memory, over the whole run or over windows, as often as a probe likes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from titan_neuro.errors import NoMatchError
from titan_neuro.forecaster import Forecaster, Observation
from titan_neuro.linear.lead_time import at_forecast_time
from titan_neuro.runs import block_slices, read_blocks
from titan_neuro.typing import RunData

_BLOCK_TIME_POINTS = 64
# Tokens of all windows that are read at once: the key features of each take fifty kilobytes.
_TOKENS_AT_A_TIME = 2**12


def find_origins(run: RunData, horizons: Sequence[int]) -> np.ndarray:
    """Mark the time points whose targets are scored, with the head still, at every lead time: bool ``(time,)``."""
    scored = torch.from_numpy(np.asarray(run.scored & ~run.high_motion))
    usable: np.ndarray = at_forecast_time(scored, horizons).all(dim=1).numpy()
    return usable


def evenly_spaced(allowed: np.ndarray, count: int) -> Tensor:
    """Select at most `count` indices at which `allowed` is true, evenly spaced: int ``(indices,)``, ascending."""
    indices = np.flatnonzero(allowed)
    return torch.from_numpy(indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)])


def select_origins(run: RunData, horizons: Sequence[int], *, count: int) -> Tensor:
    """Select forecast origins, evenly spaced over those whose targets are all scored.

    Parameters
    ----------
    run : RunData
    horizons : sequence of int
        Lead times, in time points.
    count : int
        Origins wanted, at most.

    Returns
    -------
    torch.Tensor
        int ``(origins,)``, ascending: the time points from which forecasts are made.

    Raises
    ------
    NoMatchError
        The run has no such time point.
    """
    usable = find_origins(run, horizons)
    if not usable.any():
        raise NoMatchError(
            f"{run.key}: no time point has scored targets at all lead times {horizons} (in time points)."
        )
    return evenly_spaced(usable, count)


def read_targets(run: RunData, origins: Tensor, horizons: Sequence[int]) -> Tensor:
    """Read the targets of forecasts, ``(origins, horizons, features)``; every target must lie in the run."""
    ahead = torch.tensor(horizons) - 1
    longest = max(horizons)
    return torch.stack([run.read(origin + 1, origin + longest + 1)[ahead] for origin in origins.tolist()])


def observe_run(model: Forecaster, run: RunData, origins: Tensor) -> tuple[Tensor, Observation]:
    """Observe a run, block by block.

    Parameters
    ----------
    model : Forecaster
    run : RunData
    origins : torch.Tensor
        int ``(origins,)``, ascending; may be empty.

    Returns
    -------
    linear : torch.Tensor
        Linear forecasts made at the origins, on the CPU, ``(origins, horizons, features)``.
    observed : Observation
        What the memory reads at every time point, ``(1, time, ...)``, on the model's device.
    """
    state, linear, parts = model.init_state(1).observation, list[Tensor](), list[Observation]()
    for block, series in read_blocks(run, _BLOCK_TIME_POINTS):
        forecasts, observed, state = model.observe(series.to(model.linear_skip.coefficients)[None], state)
        linear.append(forecasts[0, _within(origins, block)].cpu())
        parts.append(observed)
    return torch.cat(linear), concatenate(parts)


def concatenate(parts: Sequence[Observation]) -> Observation:
    """Concatenate observations along time."""
    return Observation(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


def forecast_whole_run(model: Forecaster, observed: Observation, origins: Tensor) -> Tensor:
    """Forecast the residual of the linear forecasts, with a memory that has read the run up to each origin.

    Parameters
    ----------
    model : Forecaster
    observed : Observation
        ``(1, time, ...)``.
    origins : torch.Tensor
        int ``(origins,)``, ascending.

    Returns
    -------
    torch.Tensor
        On the CPU, ``(origins, horizons, features)``.
    """
    state, forecasts = None, list[Tensor]()
    for block in block_slices(observed.tokens.shape[1], _BLOCK_TIME_POINTS):
        residual, state = model.forecast_residual(observed.at(block), state)
        forecasts.append(residual[0, _within(origins, block)].cpu())
    return torch.cat(forecasts)


def forecast_windows(
    model: Forecaster, observed: Observation, windows: Tensor, positions: Sequence[int] = (-1,)
) -> Tensor:
    """Forecast the residual of the linear forecasts, with a memory that is empty at the start of each window.

    Parameters
    ----------
    model : Forecaster
    observed : Observation
        ``(1, time, ...)``.
    windows : torch.Tensor
        int ``(windows, length)``: the time points of `observed` that the memory reads, in this order.
    positions : sequence of int
        Positions within a window from which forecasts are made.

    Returns
    -------
    torch.Tensor
        On the CPU, ``(windows, positions, horizons, features)``.
    """
    model = model.with_parts(backbone=model.backbone.for_short_streams(windows.shape[1]))
    at_a_time = max(1, _TOKENS_AT_A_TIME // (windows.shape[1] * observed.tokens.shape[2]))
    return torch.cat(
        [
            model.forecast_residual_at(Observation(*(part[0][some] for part in observed)), positions).cpu()
            for some in torch.split(windows.to(observed.tokens.device), at_a_time)
        ]
    )


def sum_of_squares(errors: Tensor) -> np.ndarray:
    """Sum squared errors over forecasts: ``(forecasts, horizons, features)`` to float64 ``(horizons, features)``."""
    summed: np.ndarray = errors.square().sum(0, dtype=torch.float64).numpy()
    return summed


def _within(time_points: Tensor, block: slice) -> Tensor:
    """Return the time points that lie in a block, counted from its start."""
    within: Tensor = time_points[(time_points >= block.start) & (time_points < block.stop)] - block.start
    return within
