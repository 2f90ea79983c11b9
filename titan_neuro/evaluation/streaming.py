"""Forecasters read a run as it would come from the scanner, block by block, and their forecasts are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from titan_neuro.errors import ImageError, MismatchError, TitanNeuroError
from titan_neuro.linear.lead_time import scored_targets
from titan_neuro.metrics import ForecastAccumulator, ForecastStatistics
from titan_neuro.typing import ForecastModel, RunData


@dataclass(frozen=True, eq=False)
class RunStatistics:
    """Sums over the scored time points of one run.

    Attributes
    ----------
    low_motion : ForecastStatistics
        Over the time points without high motion.
    high_motion : ForecastStatistics or None
        Over those with framewise displacement above :data:`titan_neuro.typing.HIGH_MOTION_MM`; None where there is no
        such target.
    """

    low_motion: ForecastStatistics
    high_motion: ForecastStatistics | None


def score_run(
    models: Sequence[ForecastModel], run: RunData, block_time_points: int, first_time_point: int = 0
) -> RunStatistics:
    """Stream one run through the models once, and sum up their forecasts of its scored time points.

    A model is given blocks of time points in order, and never sees a time point after its block. All models are scored
    on the same targets: for each lead time ``h``, the scored time points that lie ``h`` time points into the run, or
    later. Targets with high motion are summed up separately.

    Parameters
    ----------
    models : sequence of ForecastModel
        Fitted, with the same lead times.
    run : RunData
        Run to forecast.
    block_time_points : int
        Time points in a block.
    first_time_point : int
        The run begins here for the models: earlier time points are neither read nor scored.

    Returns
    -------
    RunStatistics
        Models stand in the order of `models`.

    Raises
    ------
    ImageError
        The run has no scored time point at some lead time.
    MismatchError
        A forecast of another shape than (time, horizons, features).
    TitanNeuroError
        A forecast that is not finite.
    """
    horizons = models[0].horizons
    observed = run.read(first_time_point, run.n_time_points)
    scored = torch.as_tensor(run.scored)[first_time_point:]
    high_motion = torch.as_tensor(run.high_motion)[first_time_point:]
    masks = [scored & ~high_motion, scored & high_motion]
    _require_targets(run, masks[0], horizons, first_time_point)
    n_masks = 2 if bool(masks[1][horizons[0] :].any()) else 1
    sums = [ForecastAccumulator(len(horizons), len(models), run.n_features) for _ in range(n_masks)]
    streams = [stream_forecasts(model, observed, run.key, block_time_points, first_time_point) for model in models]
    starts = range(0, len(observed), block_time_points)
    for start in tqdm(starts, desc=run.key, unit="block", disable=None, leave=False):
        n_forecasts = min(block_time_points, len(observed) - start)
        pairs = [[*scored_targets(observed[start:], mask[start:], horizons, n_forecasts)] for mask in masks[:n_masks]]
        for total, of_mask in zip(sums, pairs, strict=True):
            for index, (_, targets) in enumerate(of_mask):
                total.add_targets(index, targets)
        # One row after another: the forecasts of all of them would be the largest tensors of a study of voxels.
        for row, stream in enumerate(streams):
            _add_forecasts(sums, row, pairs, next(stream))
    statistics = [total.finish() for total in sums]
    return RunStatistics(statistics[0], statistics[1] if n_masks == 2 else None)


def _add_forecasts(
    sums: Sequence[ForecastAccumulator], row: int, pairs: Sequence[Sequence[tuple[Tensor, Tensor]]], forecasts: Tensor
) -> None:
    """Add a row's forecasts of a block to the sums of each mask; `pairs` are from `scored_targets`, for each mask."""
    for total, of_mask in zip(sums, pairs, strict=True):
        for index, (has_target, targets) in enumerate(of_mask):
            if len(targets):
                total.add_forecasts(index, row, targets, forecasts[has_target, index])


def _require_targets(run: RunData, low_motion: Tensor, horizons: Sequence[int], first_time_point: int) -> None:
    for horizon in horizons:
        if not bool(low_motion[horizon:].any()):
            begins = f", which begins at time point {first_time_point}" if first_time_point else ""
            n_high_motion = int(run.high_motion[run.scored].sum())
            raise ImageError(
                f"{run.key}: none of its {int(run.scored.sum())} scored time points"
                + (f" ({n_high_motion} of them with high motion, scored separately)" if n_high_motion else "")
                + f" lies {horizon} time points into the run{begins}, or later; the run has {run.n_time_points} time "
                "points.",
                "Leave the run out, shorten the horizons or evaluation.max_offset_time_points, or check the events by "
                "which time points are scored.",
            )


def stream_forecasts(
    model: ForecastModel, series: Tensor, key: str, block_time_points: int, first_time_point: int = 0
) -> Iterator[Tensor]:
    """Yield a model's forecasts of one run, block by block, and check their shape and values.

    Parameters
    ----------
    model : ForecastModel
        Fitted.
    series : torch.Tensor
        The run, ``(time, features)``; the model gets a copy of each block.
    key : str
        Name of the run, for messages.
    block_time_points : int
        Time points in a block.
    first_time_point : int
        Place of the first of `series` in its run, for messages.

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
        state = model.init_state()
    for start in range(0, series.shape[0], block_time_points):
        block = series[start : start + block_time_points].clone()
        with torch.no_grad():
            forecasts, state = model.step(block, state)
        expected = (block.shape[0], len(model.horizons), block.shape[1])
        if forecasts.shape != expected:
            raise MismatchError(
                f"{key}: model {model.name} gave forecasts of shape {tuple(forecasts.shape)}, expected {expected} "
                "(time, horizons, features)."
            )
        made = [forecasts.cpu()]
        require_finite(made[0], model.name, key, first_time_point + start)
        # Handed over: a stream that waits for its next turn holds none.
        del forecasts
        yield made.pop()


def require_finite(forecasts: Tensor, model: str, key: str, first_time_point: int) -> None:
    """Refuse forecasts ``(time, ...)`` of which one is not finite; the first is of `first_time_point` of its run.

    Raises
    ------
    TitanNeuroError
        Names model, run and time point.
    """
    finite = torch.isfinite(forecasts).flatten(1).all(dim=1)
    if not bool(finite.all()):
        time_point = first_time_point + int(finite.logical_not().nonzero()[0])
        raise TitanNeuroError(
            f"{key}: model {model} gave a forecast that is not finite at time point {time_point} (counted from 0).",
            "Train again with a smaller --set training.learning_rate=..., or look at the time points before this one.",
        )
