"""Values of a stream at the last few time points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def lagged_values(
    values: Float[Tensor, "B T O"], tail: Float[Tensor, "B L O"]
) -> tuple[list[Float[Tensor, "B T O"]], Float[Tensor, "B L O"]]:
    """Look back from each time point, as far as the tail reaches.

    Parameters
    ----------
    values : torch.Tensor
        ``(batch, time, components)``.
    tail : torch.Tensor
        The time points before, ``(batch, lags, components)``; zeros before a stream's first time point.

    Returns
    -------
    lagged : list of torch.Tensor
        Entry ``l``: the values ``l`` time points before each time point, ``l = 0 .. lags``.
    tail : torch.Tensor
        To be given with the next time points.
    """
    padded = torch.cat([tail, values], dim=1)
    n_time_points, n_lags = values.shape[1], tail.shape[1]
    lagged = [padded[:, n_lags - lag : n_lags - lag + n_time_points] for lag in range(n_lags + 1)]
    return lagged, padded[:, n_time_points:]
