"""Forecasts and their targets: what is forecast at time point ``t`` with lead time ``h`` is time point ``t + h``.

This is the one place where the two are paired. Arrays in, arrays out. Lead times are in time points, each at least 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def scored_targets(
    observed: Tensor, scored: Tensor, horizons: Sequence[int], n_forecasts: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each lead time, mark the forecasts whose target is scored, and select these targets.

    Parameters
    ----------
    observed : torch.Tensor
        ``(..., time, features)``; the first forecast was made at its first time point.
    scored : torch.Tensor
        bool, ``(..., time)``: the time points that may be a target.
    horizons : sequence of int
        Lead times.
    n_forecasts : int
        Forecasts were made at the time points ``0 .. n_forecasts - 1``.

    Yields
    ------
    has_target : torch.Tensor
        bool, ``(..., n_forecasts)``; False where `observed` ends before the target.
    targets : torch.Tensor
        ``(number of True in has_target, features)``: the targets of ``forecasts[has_target]``, in this order.
    """
    for horizon in horizons:
        window = slice(horizon, horizon + n_forecasts)
        is_target = scored[..., window]
        yield pad(is_target, (0, n_forecasts - is_target.shape[-1])), observed[..., window, :][is_target]


def at_forecast_time(values: Tensor, horizons: Sequence[int]) -> Tensor:
    """Place each time point's value at the time points whose forecasts have it as their target.

    Parameters
    ----------
    values : torch.Tensor
        ``(time, ...)``, numbers or bool.
    horizons : sequence of int
        Lead times.

    Returns
    -------
    torch.Tensor
        ``(time, horizons, ...)``: entry ``[t, k]`` is ``values[t + horizons[k]]``; 0 or False after the end.
    """
    ahead = values.new_zeros(len(values), len(horizons), *values.shape[1:])
    for index, horizon in enumerate(horizons):
        n_targets = max(0, len(values) - horizon)
        ahead[:n_targets, index] = values[horizon:]
    return ahead


def wait_for_targets(
    pending: Tensor, forecasts: Tensor, horizons: Sequence[int], *, dim: int = 0
) -> tuple[Tensor, Tensor]:
    """Move forecasts from the time point at which they were made to their target, in a stream that comes in blocks.

    Parameters
    ----------
    pending : torch.Tensor
        The last forecasts before this block, ``(..., waiting, horizons, ...)``; ``waiting`` is at least
        ``max(horizons)``. Zeros before a stream's first block.
    forecasts : torch.Tensor
        Made at the time points of this block, ``(..., time, horizons, ...)``.
    horizons : sequence of int
        Lead times.
    dim : int
        The dimension of time; that of the lead times follows it.

    Returns
    -------
    due : torch.Tensor
        Shaped like `forecasts`: entry ``[t, k]`` was made at ``t - horizons[k]``, for time point ``t``.
    pending : torch.Tensor
        To be given with the next block.
    """
    n_waiting, n_time_points = pending.shape[dim], forecasts.shape[dim]
    made = torch.cat([pending, forecasts], dim=dim)
    due = [
        made.select(dim + 1, index).narrow(dim, n_waiting - horizon, n_time_points)
        for index, horizon in enumerate(horizons)
    ]
    return torch.stack(due, dim=dim + 1), made.narrow(dim, n_time_points, n_waiting)


def at_target_time(forecasts: Tensor, horizons: Sequence[int], *, dim: int = 0) -> Tensor:
    """Move the forecasts of a whole run from the time point at which they were made to their target.

    Parameters
    ----------
    forecasts : torch.Tensor
        ``(..., time, horizons, ...)``.
    horizons : sequence of int
        Lead times.
    dim : int
        The dimension of time; that of the lead times follows it.

    Returns
    -------
    torch.Tensor
        Shaped like `forecasts`: entry ``[t, k]`` was made at ``t - horizons[k]``; 0 where that is before the run.
    """
    before_the_run = forecasts.new_zeros(*forecasts.shape[:dim], max(horizons), *forecasts.shape[dim + 1 :])
    return wait_for_targets(before_the_run, forecasts, horizons, dim=dim)[0]
