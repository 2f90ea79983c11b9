"""A run is fed to the models as it would come from the scanner, and what they said is compared with what came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from titan_neuro.errors import ImageError, MismatchError, TitanNeuroError
from titan_neuro.metrics.forecast_statistics import ForecastAccumulator, ForecastStatistics
from titan_neuro.typing import ForecastModel, RunData


def score_run(
    models: Sequence[ForecastModel], run: RunData, block_time_points: int, first_time_point: int = 0
) -> tuple[ForecastStatistics, ForecastStatistics | None]:
    """Stream one run through the models once, and sum up their forecasts of its scored time points.

    A model is given blocks of time points in order; no time point after a block exists for it. All models are scored on
    the same targets: for each horizon ``h``, the scored time points that have a time point ``h`` before them. Those at
    which the head moved are summed up apart.

    Parameters
    ----------
    models : sequence of ForecastModel
        Fitted, with the same horizons.
    run : RunData
        Run to forecast.
    block_time_points : int
        Time points in a block.
    first_time_point : int
        The run begins here for the models: what lies before is neither fed nor scored.

    Returns
    -------
    still : ForecastStatistics
        The sums over the time points at which the head lay still; its models in the order of `models`.
    moving : ForecastStatistics or None
        The same over the time points at which it moved; None where there is no such target.

    Raises
    ------
    ImageError
        The run has no scored time point at some horizon.
    MismatchError
        A forecast of another shape than (time, horizons, features).
    TitanNeuroError
        A forecast that is not finite.
    """
    horizons = models[0].horizons
    observed = run.read(first_time_point, run.n_time_points)
    scored, high_motion = (
        torch.as_tensor(run.scored)[first_time_point:],
        torch.as_tensor(run.high_motion)[first_time_point:],
    )
    parts = [scored & ~high_motion, scored & high_motion]
    _require_targets(run, parts[0], horizons, first_time_point)
    n_parts = 2 if bool(parts[1][horizons[0] :].any()) else 1
    sums = [ForecastAccumulator(len(horizons), len(models), run.n_features) for _ in range(n_parts)]
    streams = [stream_forecasts(model, observed, run.key, block_time_points, first_time_point) for model in models]
    starts = range(0, len(observed), block_time_points)
    for start in tqdm(starts, desc=run.key, unit="block", disable=None, leave=False):
        forecasts = [next(stream) for stream in streams]
        for index, horizon in enumerate(horizons):
            ahead = slice(start + horizon, start + horizon + forecasts[0].shape[0])
            for part, total in zip(parts, sums, strict=False):
                rows = part[ahead].nonzero()[:, 0]
                if len(rows):
                    targets = _targets(observed, ahead.start + rows)
                    total.add(index, targets, [forecast[rows, index] for forecast in forecasts])
    finished = [total.finish() for total in sums]
    return finished[0], finished[1] if n_parts == 2 else None


def _targets(observed: Tensor, series: Tensor) -> Tensor:
    return observed[series]


def _require_targets(run: RunData, still: Tensor, horizons: Sequence[int], first_time_point: int) -> None:
    for horizon in horizons:
        if not bool(still[horizon:].any()):
            begun = f", which begins at time point {first_time_point}" if first_time_point else ""
            n_moving = int(run.high_motion[run.scored].sum())
            raise ImageError(
                f"{run.key}: none of its {int(run.scored.sum())} scored time points"
                + (f" ({n_moving} of them with head motion, scored apart)" if n_moving else "")
                + f" lies {horizon} time points into the run{begun}, or later; the run has {run.n_time_points} time points.",
                "Leave the run out, shorten the horizons or evaluation.max_offset_time_points, or check the events that "
                "mark scored time points.",
            )


def stream_forecasts(
    model: ForecastModel, series: Tensor, key: str, block_time_points: int, first_time_point: int = 0
) -> Iterator[Tensor]:
    """Yield a model's forecasts of one run, block by block, checked.

    Parameters
    ----------
    model : ForecastModel
        A fitted forecaster.
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
        forecasts = forecasts.cpu()
        finite = torch.isfinite(forecasts).flatten(1).all(dim=1)
        if not bool(finite.all()):
            time_point = first_time_point + start + int(finite.logical_not().nonzero()[0])
            raise TitanNeuroError(
                f"{key}: model {model.name} gave a forecast that is not finite at time point {time_point} (counted from 0).",
                "Train again with a smaller learning rate, or look at the time points before this one.",
            )
        yield forecasts
