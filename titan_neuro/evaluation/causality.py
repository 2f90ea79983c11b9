"""Check that a model is causal: when later time points are changed, earlier forecasts stay the same, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from titan_neuro.errors import TitanNeuroError
from titan_neuro.evaluation.streaming import stream_forecasts
from titan_neuro.typing import ForecastModel, RunData


def first_leak(model: ForecastModel, series: Tensor, last: int, block_time_points: int) -> int | None:
    """Change every time point after `last`, and find the first forecast made up to `last` that changes with them.

    Parameters
    ----------
    model : ForecastModel
        Fitted.
    series : torch.Tensor
        A run, or its beginning, ``(time, features)``.
    last : int
        Last time point that is not changed.
    block_time_points : int
        Time points given to the model at once. A model can look ahead only inside a block; where `last` ends a block,
        all models pass.

    Returns
    -------
    int or None
        The time point at which that forecast was made, counted from 0; None where no forecast changes.
    """
    altered = series.clone()
    altered[last + 1 :] = 1 - altered[last + 1 :]
    original = torch.cat(list(stream_forecasts(model, series, "original time points", block_time_points)))
    after_change = torch.cat(list(stream_forecasts(model, altered, "altered time points", block_time_points)))
    changed = (original[: last + 1] != after_change[: last + 1]).flatten(1).any(dim=1)
    return int(changed.nonzero()[0]) if bool(changed.any()) else None


def check_causal(model: ForecastModel, run: RunData, block_time_points: int) -> None:
    """Refuse a model that looks ahead, tested on the first two blocks of a run.

    Parameters
    ----------
    model : ForecastModel
        Fitted.
    run : RunData
        Any run.
    block_time_points : int
        Time points given to the model at once.

    Raises
    ------
    TitanNeuroError
        A forecast changed although only later time points were changed.
    """
    n_blocks = 2 if run.n_time_points >= 2 * block_time_points else 1
    series = run.read(0, min(n_blocks * block_time_points, run.n_time_points))
    # In the middle of the last block: a model that is given whole blocks can look ahead nowhere else.
    last = series.shape[0] - 1 - min(block_time_points, series.shape[0]) // 2
    leak = first_leak(model, series, last, block_time_points)
    if leak is not None:
        raise TitanNeuroError(
            f"{run.key}: model {model.name} looks ahead: its forecasts from time point {leak} on change when only time "
            f"points after {last} are changed.",
            "Its scores would mean nothing. Look for statistics, filters or attention that cover the whole block.",
        )
