"""Forecasts from time points that a probe chooses: observed once, read with an empty memory as often as it likes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from titan_neuro.errors import NoMatchError
from titan_neuro.forecaster import Forecaster, Observation
from titan_neuro.typing import RunData

ENCODED_AT_A_TIME = 64
_TOKENS_AT_A_TIME = 2**15


def usable_targets(run: RunData, horizons: tuple[int, ...]) -> np.ndarray:
    """Time points whose targets, at all horizons, are scored and not moving: bool ``(series,)``."""
    scored = np.asarray(run.scored & ~run.high_motion)
    usable: np.ndarray = np.logical_and.reduce([np.roll(scored, -horizon) for horizon in horizons])
    usable[max(0, run.n_time_points - max(horizons)) :] = False
    return usable


def spread(allowed: np.ndarray, count: int) -> Tensor:
    """Choose `count` places at most, evenly spread over those where `allowed` is true: int ``(places,)``, ascending."""
    places = np.flatnonzero(allowed)
    return torch.from_numpy(places[np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)])


def spread_targets(run: RunData, horizons: tuple[int, ...], *, count: int) -> Tensor:
    """Choose time points to forecast from, evenly spread over the usable ones.

    Parameters
    ----------
    run : RunData
    horizons : tuple of int
    count : int
        Time points wanted, at most.

    Returns
    -------
    torch.Tensor
        int ``(targets,)``, ascending.

    Raises
    ------
    NoMatchError
        The run has no such time point.
    """
    usable = usable_targets(run, horizons)
    if not usable.any():
        raise NoMatchError(
            f"{run.key}: no time point has scored time points at all of {horizons} time points after it."
        )
    return spread(usable, count)


def observe_run(model: Forecaster, run: RunData, targets: Tensor) -> tuple[Tensor, Observation]:
    """Observe a run, block by block.

    Parameters
    ----------
    model : Forecaster
    run : RunData
    targets : torch.Tensor
        int ``(targets,)``, ascending; may be empty.

    Returns
    -------
    linear : torch.Tensor
        Linear forecasts made at the targets, on the CPU, ``(targets, horizons, features)``.
    seen : Observation
        What the memory is told of all time points, ``(1, series, ...)``, where the model is.
    """
    state, linear, parts = model.init_state(1).observation, [], []
    for start in range(0, run.n_time_points, ENCODED_AT_A_TIME):
        block = run.read(start, min(start + ENCODED_AT_A_TIME, run.n_time_points)).to(model.linear_skip.coefficients)
        forecasts, seen, state = model.observe(block[None], state)
        wanted = targets[(targets >= start) & (targets < start + ENCODED_AT_A_TIME)] - start
        linear.append(forecasts[0, wanted].cpu())
        parts.append(seen)
    return torch.cat(linear), joined(parts)


def joined(parts: list[Observation]) -> Observation:
    """Put observations one after the other along time."""
    return Observation(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


def recall_windows(model: Forecaster, seen: Observation, windows: Tensor, at: Sequence[int] = (-1,)) -> Tensor:
    """Forecast from some time points of each window, with memories empty at its first.

    Parameters
    ----------
    model : Forecaster
    seen : Observation
        ``(1, series, ...)``.
    windows : torch.Tensor
        int ``(windows, length)``: the time points of `seen` that a window is made of, in the order they are read.
    at : sequence of int
        Places in the window that are forecast from.

    Returns
    -------
    torch.Tensor
        What lies beyond the linear part, on the CPU, ``(windows, places, horizons, features)``.
    """
    at_a_time = max(1, _TOKENS_AT_A_TIME // (windows.shape[1] * seen.tokens.shape[2]))
    return torch.cat(
        [
            model.forecast_residual_at(Observation(*(part[0][some] for part in seen)), at).cpu()
            for some in torch.split(windows.to(seen.tokens.device), at_a_time)
        ]
    )
