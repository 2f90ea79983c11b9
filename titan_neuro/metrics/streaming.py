"""A run is fed to the models as it would come from the scanner, and what they said is compared with what came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from titan_neuro.errors import ImageError, MismatchError, TitanNeuroError
from titan_neuro.metrics.moments import ForecastAccumulator, ForecastMoments
from titan_neuro.typing import ForecastModel, FrameRun


def score_run(models: Sequence[ForecastModel], run: FrameRun, block_frames: int) -> ForecastMoments:
    """Stream one run through the models once, and sum up their forecasts of its scored frames.

    A model is given blocks of frames in order; no frame after a block exists for it. All models are scored on the same
    targets: for each horizon ``h``, the scored frames that have a frame ``h`` before them.

    Parameters
    ----------
    models : sequence of ForecastModel
        Fitted, with the same horizons.
    run : FrameRun
        Run to forecast.
    block_frames : int
        Frames in a block.

    Returns
    -------
    ForecastMoments
        The sums; its models in the order of `models`.

    Raises
    ------
    ImageError
        The run has no scored frame at some horizon.
    MismatchError
        A forecast of another shape than (time, horizons, features).
    TitanNeuroError
        A forecast that is not finite.
    """
    horizons = models[0].horizons
    observed = run.read(0, run.n_frames)
    scored = torch.as_tensor(run.scored)
    for horizon in horizons:
        if not bool(scored[horizon:].any()):
            raise ImageError(
                f"{run.key}: none of its {int(scored.sum())} scored frames lies {horizon} frames into the run or "
                f"later; the run has {run.n_frames} frames.",
                "Leave the run out, shorten the horizons, or check the events that mark scored frames.",
            )
    sums = ForecastAccumulator(len(horizons), len(models), run.n_features)
    streams = [stream_forecasts(model, observed, run.key, block_frames) for model in models]
    starts = range(0, run.n_frames, block_frames)
    for start in tqdm(starts, desc=run.key, unit="block", disable=None, leave=False):
        forecasts = [next(stream) for stream in streams]
        for index, horizon in enumerate(horizons):
            rows = scored[start + horizon : start + horizon + forecasts[0].shape[0]].nonzero()[:, 0]
            targets = observed[start + horizon + rows]
            sums.add(index, targets, [forecast[rows, index] for forecast in forecasts])
    return sums.finish()


def stream_forecasts(model: ForecastModel, frames: Tensor, key: str, block_frames: int) -> Iterator[Tensor]:
    """Yield a model's forecasts of one run, block by block, checked.

    Parameters
    ----------
    model : ForecastModel
        A fitted forecaster.
    frames : torch.Tensor
        The run, ``(time, features)``; the model gets a copy of each block.
    key : str
        Name of the run, for messages.
    block_frames : int
        Frames in a block.

    Yields
    ------
    torch.Tensor
        ``(block, horizons, features)``, on the CPU.

    Raises
    ------
    MismatchError
        A forecast of another shape.
    TitanNeuroError
        A forecast that is not finite.
    """
    with torch.no_grad():
        state = model.start()
    for start in range(0, frames.shape[0], block_frames):
        block = frames[start : start + block_frames].clone()
        with torch.no_grad():
            forecasts, state = model.step(block, state)
        expected = (block.shape[0], len(model.horizons), block.shape[1])
        if forecasts.shape != expected:
            raise MismatchError(
                f"{key}: model {model.name} gave forecasts of shape {tuple(forecasts.shape)}, expected {expected} "
                "(time, horizons, features)."
            )
        forecasts = forecasts.cpu()
        finite = torch.isfinite(forecasts).flatten(1).all(dim=1)
        if not bool(finite.all()):
            frame = start + int(finite.logical_not().nonzero()[0])
            raise TitanNeuroError(
                f"{key}: model {model.name} gave a forecast that is not finite at frame {frame} (counted from 0).",
                "Train again with a smaller learning rate, or look at the frames before this one.",
            )
        yield forecasts
