"""A stream's own past: running averages, which see slow waves that a few lags can't tell from noise, and lags."""

from __future__ import annotations

import torch
from torch import Tensor

# Time constants in time points.
TIME_CONSTANTS = (5, 15, 40, 100)
# Time points that describe an axis one by one, the present one included.
N_LAGS = 8
N_OWN_PREDICTORS = N_LAGS + len(TIME_CONSTANTS)
# Runs from which weights of these predictors are learned for other people. In a shorter one the slow averages tell how
# far it is from its start: what is scaled over a whole run sums to 0 there, and a stream that begins later does not.
LEAST_RUN_TIME_POINTS = 4 * max(TIME_CONSTANTS)


def running_averages(values: Tensor, averages: Tensor) -> tuple[Tensor, Tensor]:
    """Update exponential averages, time point by time point: ``a <- a + (value - a) / time constant``.

    Parameters
    ----------
    values : torch.Tensor
        ``(..., time, components)``.
    averages : torch.Tensor
        After the time points before, ``(..., time constants, components)``; zeros at the start of a stream.

    Returns
    -------
    over_time : torch.Tensor
        Times the root of the time constant, ``(..., time, time constants, components)``: averages of white noise then
        keep half of its variance, so that slow signals count as much as the present.
    averages : torch.Tensor
        After the last time point.
    """
    constants = torch.tensor(TIME_CONSTANTS, dtype=values.dtype, device=values.device)[:, None]
    over_time = []
    for value in values.unbind(-2):
        averages = averages + (value.unsqueeze(-2) - averages) / constants
        over_time.append(averages * constants.sqrt())
    return torch.stack(over_time, dim=-3), averages


def own_predictors(values: Tensor, past: Tensor, averages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Describe each axis at each time point by its own last time points and running averages.

    Parameters
    ----------
    values : torch.Tensor
        ``(..., time, axes)``.
    past : torch.Tensor
        The time points before, ``(..., N_LAGS - 1, axes)``; zeros at the start of a stream.
    averages : torch.Tensor
        See :func:`running_averages`.

    Returns
    -------
    predictors : torch.Tensor
        ``(..., axes, time, N_OWN_PREDICTORS)``: the last time points, the oldest first, then the averages.
    past, averages : torch.Tensor
        After the last time point.
    """
    padded = torch.cat([past, values], dim=-2)
    lagged = padded.unfold(-2, N_LAGS, 1).transpose(-3, -2)
    over_time, averages = running_averages(values, averages)
    predictors = torch.cat([lagged, over_time.movedim(-1, -3)], dim=-1)
    return predictors, padded[..., values.shape[-2] :, :].clone(), averages
