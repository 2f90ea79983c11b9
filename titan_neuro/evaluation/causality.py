"""Does a model look ahead? Change the future; the past must not notice, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from titan_neuro.errors import TitanNeuroError
from titan_neuro.metrics import stream_forecasts
from titan_neuro.typing import ForecastModel, FrameRun


def first_leak(model: ForecastModel, frames: Tensor, last: int, block_frames: int) -> int | None:
    """Find the first frame at or before `last` whose forecasts change when every frame after `last` is changed.

    Parameters
    ----------
    model : ForecastModel
        A fitted forecaster.
    frames : torch.Tensor
        A run, or its beginning, ``(time, features)``.
    last : int
        Last frame that stays as it is.
    block_frames : int
        Frames given to the model at a time. A model can look ahead inside a block only; where `last` is a block's last
        frame, all models pass.

    Returns
    -------
    int or None
        The frame, counted from 0; None where no output changes.
    """
    altered = frames.clone()
    altered[last + 1 :] = 1 - altered[last + 1 :]
    forecasts = torch.cat(list(stream_forecasts(model, frames, "original frames", block_frames)))
    others = torch.cat(list(stream_forecasts(model, altered, "altered frames", block_frames)))
    changed = (forecasts[: last + 1] != others[: last + 1]).flatten(1).any(dim=1)
    return int(changed.nonzero()[0]) if bool(changed.any()) else None


def check_causal(model: ForecastModel, run: FrameRun, block_frames: int) -> None:
    """Refuse a model that looks ahead, shown on the first two blocks of a run.

    Parameters
    ----------
    model : ForecastModel
        A fitted forecaster.
    run : FrameRun
        Any run.
    block_frames : int
        Frames given to the model at a time.

    Raises
    ------
    TitanNeuroError
        A forecast changed when only later frames were changed.
    """
    n_blocks = 2 if run.n_frames >= 2 * block_frames else 1
    frames = run.read(0, min(n_blocks * block_frames, run.n_frames))
    # In the middle of the last block: a model that is given whole blocks can look ahead nowhere else.
    last = frames.shape[0] - 1 - min(block_frames, frames.shape[0]) // 2
    leak = first_leak(model, frames, last, block_frames)
    if leak is not None:
        raise TitanNeuroError(
            f"{run.key}: model {model.name} sees the future: its forecasts from frame {leak} change when only frames "
            f"after {last} are changed.",
            "Its scores would mean nothing. Look for statistics, filters or attention that reach over the whole block.",
        )
