"""Does a model look ahead? Change the future; the past must not notice, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from titan_neuro.errors import TitanNeuroError
from titan_neuro.evaluation.streaming import stream_forecasts
from titan_neuro.typing import ForecastModel, RunData


def first_leak(model: ForecastModel, series: Tensor, last: int, block_time_points: int) -> int | None:
    """Find the first time point at or before `last` whose forecasts change when every time point after `last` is
    changed.

    Parameters
    ----------
    model : ForecastModel
        A fitted forecaster.
    series : torch.Tensor
        A run, or its beginning, ``(time, features)``.
    last : int
        Last time point that stays as it is.
    block_time_points : int
        Time points given to the model at a time. A model can look ahead inside a block only; where `last` is a block's
        last time point, all models pass.

    Returns
    -------
    int or None
        The time point, counted from 0; None where no output changes.
    """
    altered = series.clone()
    altered[last + 1 :] = 1 - altered[last + 1 :]
    forecasts = torch.cat(list(stream_forecasts(model, series, "original time points", block_time_points)))
    others = torch.cat(list(stream_forecasts(model, altered, "altered time points", block_time_points)))
    changed = (forecasts[: last + 1] != others[: last + 1]).flatten(1).any(dim=1)
    return int(changed.nonzero()[0]) if bool(changed.any()) else None


def check_causal(model: ForecastModel, run: RunData, block_time_points: int) -> None:
    """Refuse a model that looks ahead, shown on the first two blocks of a run.

    Parameters
    ----------
    model : ForecastModel
        A fitted forecaster.
    run : RunData
        Any run.
    block_time_points : int
        Time points given to the model at a time.

    Raises
    ------
    TitanNeuroError
        A forecast changed when only later time points were changed.
    """
    n_blocks = 2 if run.n_time_points >= 2 * block_time_points else 1
    series = run.read(0, min(n_blocks * block_time_points, run.n_time_points))
    # In the middle of the last block: a model that is given whole blocks can look ahead nowhere else.
    last = series.shape[0] - 1 - min(block_time_points, series.shape[0]) // 2
    leak = first_leak(model, series, last, block_time_points)
    if leak is not None:
        raise TitanNeuroError(
            f"{run.key}: model {model.name} sees the future: its forecasts from time point {leak} change when only time points "
            f"after {last} are changed.",
            "Its scores would mean nothing. Look for statistics, filters or attention that reach over the whole block.",
        )
