"""Forecasts from frames that a probe chooses: observed once, read with an empty memory as often as it likes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from titan_neuro.errors import NoMatchError
from titan_neuro.models.forecaster import Forecaster, Observation
from titan_neuro.typing import FrameRun

ENCODED_AT_A_TIME = 64
_TOKENS_AT_A_TIME = 2**15


def spread_targets(
    run: FrameRun, horizons: tuple[int, ...], *, count: int, allowed: np.ndarray | None = None
) -> Tensor:
    """Choose frames to forecast from, evenly spread over those whose targets are all scored and not moving.

    Parameters
    ----------
    run : FrameRun
    horizons : tuple of int
    count : int
        Frames wanted, at most.
    allowed : numpy.ndarray, optional
        bool ``(frames,)``: frames that may be chosen; None for all.

    Returns
    -------
    torch.Tensor
        int ``(targets,)``, ascending.

    Raises
    ------
    NoMatchError
        The run has no such frame.
    """
    scored = np.asarray(run.scored & ~run.moving)
    usable = np.logical_and.reduce([np.roll(scored, -horizon) for horizon in horizons])
    usable[run.n_frames - max(horizons) :] = False
    if allowed is not None:
        usable &= allowed
    frames = np.flatnonzero(usable)
    if not len(frames):
        raise NoMatchError(f"{run.key}: no frame has scored frames at all of {horizons} frames after it.")
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return torch.from_numpy(frames[chosen])


def observe_run(model: Forecaster, run: FrameRun, targets: Tensor) -> tuple[Tensor, Observation]:
    """Observe a run, block by block.

    Parameters
    ----------
    model : Forecaster
    run : FrameRun
    targets : torch.Tensor
        int ``(targets,)``, ascending; may be empty.

    Returns
    -------
    linear : torch.Tensor
        Linear forecasts made at the targets, on the CPU, ``(targets, horizons, features)``.
    seen : Observation
        What the memory is told of all frames, ``(1, frames, ...)``, where the model is.
    """
    state, linear, parts = model.init_state(1).linear, [], []
    for start in range(0, run.n_frames, ENCODED_AT_A_TIME):
        block = run.read(start, min(start + ENCODED_AT_A_TIME, run.n_frames)).to(model.coefficients)
        forecasts, seen, state = model.observe(block[None], state)
        wanted = targets[(targets >= start) & (targets < start + ENCODED_AT_A_TIME)] - start
        linear.append(forecasts[0, wanted].cpu())
        parts.append(seen)
    return torch.cat(linear), joined(parts)


def joined(parts: list[Observation]) -> Observation:
    """Put observations one after the other along time."""
    return Observation(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


def recall_windows(model: Forecaster, seen: Observation, places: Tensor) -> Tensor:
    """Forecast from the last frame of each window, with memories empty at its first.

    Parameters
    ----------
    model : Forecaster
    seen : Observation
        ``(1, frames, ...)``.
    places : torch.Tensor
        int ``(windows, length)``: the frames of `seen` that a window is made of, in the order they are read.

    Returns
    -------
    torch.Tensor
        What lies beyond the linear part, on the CPU, ``(windows, horizons, features)``.
    """
    at_a_time = max(1, _TOKENS_AT_A_TIME // (places.shape[1] * seen.tokens.shape[2]))
    found = []
    for some in places.split(at_a_time):
        some = some.to(seen.tokens.device)
        found.append(model.recall_last(Observation(*(part[0][some] for part in seen))).cpu())
    return torch.cat(found)
