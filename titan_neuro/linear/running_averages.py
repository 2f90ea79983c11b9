"""Running averages of a stream: they see slow waves that a few lags can't tell from noise."""

from __future__ import annotations

import torch
from torch import Tensor

# Time constants in time points.
TIME_CONSTANTS = (5, 15, 40, 100)


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
