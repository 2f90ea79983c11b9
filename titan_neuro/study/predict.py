"""Forecasts of held-out runs as images or tables, in the form of the recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from titan_neuro.data.bids.maps import write_surface_series
from titan_neuro.data.bids.output import write_nifti
from titan_neuro.errors import NoMatchError
from titan_neuro.evaluation.streaming import require_finite
from titan_neuro.files import write_json
from titan_neuro.tables import write_tsv

if TYPE_CHECKING:
    from titan_neuro.data.space import Space
    from titan_neuro.data.store import RunView
    from titan_neuro.forecaster import Forecaster

_BLOCK_TIME_POINTS = 64


def write_forecast(model: Forecaster, run: RunView, horizon: int, space: Space) -> Path:
    """Write the forecast of every time point of a run, made `horizon` time points before it.

    Parameters
    ----------
    model : Forecaster
    run : RunView
        ``(time, features)`` with more than `horizon` time points.
    horizon : int
        One of the model's lead times, in time points.
    space : Space

    Returns
    -------
    Path
        ``*_desc-forecastH<horizon>_bold.nii.gz``, for surfaces ``*_bold.dtseries.nii`` or ``*_bold.func.gii`` (the left
        one), ``*_timeseries.tsv`` for parcels, beside the prepared run; the first `horizon` time points are 0.

    Raises
    ------
    NoMatchError
        The run is too short.
    TitanNeuroError
        A forecast is not finite; nothing is written.
    """
    if run.n_time_points <= horizon:
        raise NoMatchError(
            f"{run.key}: expected more than {horizon} time points to forecast {horizon} ahead, found "
            f"{run.n_time_points}.",
            "Choose a shorter --horizon, or leave the run out (--run-id).",
        )
    source = Path(run.store.path)
    stem = source.name.split("_desc-prepared_")[0] + f"_desc-forecastH{horizon}"
    blocks = _forecasts(model, run, horizon)
    if space.kind == "volume":
        path = source.with_name(f"{stem}_bold.nii.gz")
        write_nifti(path, space, blocks, n_time_points=run.n_time_points, repetition_time=run.repetition_time)
    elif space.grayordinates is not None:
        series = np.concatenate(list(blocks))
        path = write_surface_series(source.with_name(stem), space.grayordinates, series, run.repetition_time)[0]
    else:
        path = source.with_name(f"{stem}_timeseries.tsv")
        write_tsv(path, pd.DataFrame(np.concatenate(list(blocks)), columns=space.parcels))
    write_json(
        source.with_name(f"{stem}_{path.name.split('.')[0].rpartition('_')[2]}.json"),
        {
            "Description": f"Forecast of each time point, made {horizon} time points before it; the first {horizon} "
            "time points are 0",
            "RepetitionTime": run.repetition_time,
            "Units": f"standard deviations ({run.store.record['normalizer']['method']})",
            "Sources": [source.name],
            "Caveats": run.store.caveats,
        },
    )
    return path


def _forecasts(model: Forecaster, run: RunView, horizon: int) -> Iterator[np.ndarray]:
    """Yield blocks ``(time, features)`` of the run's length in all: what was expected `horizon` time points before."""
    index = model.horizons.index(horizon)
    # Nothing was forecast of the first time points.
    yield np.zeros((min(horizon, run.n_time_points), run.n_features), dtype=np.float32)
    state = model.init_state()
    last = run.n_time_points - horizon
    for start in range(0, last, _BLOCK_TIME_POINTS):
        forecasts, state = model.step(run.read(start, min(start + _BLOCK_TIME_POINTS, last)), state)
        require_finite(forecasts, model.name, run.key, start)
        yield forecasts[:, index].numpy()
