"""Forecasts of held-out runs as images or tables, in the form of the recordings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from titan_neuro import manifests
from titan_neuro.data.bids.maps import write_surface_series
from titan_neuro.data.bids.output import write_nifti
from titan_neuro.errors import NoMatchError
from titan_neuro.evaluation.streaming import require_finite
from titan_neuro.files import write_json
from titan_neuro.manifests import ResultOf
from titan_neuro.tables import write_tsv
from titan_neuro.training import load_forecaster, run_digest

if TYPE_CHECKING:
    from titan_neuro.data.space import Space
    from titan_neuro.data.store import RunView
    from titan_neuro.forecaster import Forecaster
    from titan_neuro.study.models import PlannedModel, StudyPlan
    from titan_neuro.study.selection import Selection

logger = logging.getLogger(__name__)

_BLOCK_TIME_POINTS = 64
# Raised when the same model and run come to another forecast.
_METHOD_VERSION = 1


def forecast_result(plan: StudyPlan, model: PlannedModel, run: RunView, horizon: int) -> ResultOf:
    """Return what the forecast of a run follows from: its manifest."""
    return ResultOf(
        root=plan.output.path,
        name=f"predict/{run.key}_H{horizon}",
        method=_METHOD_VERSION,
        settings={"horizon": horizon},
        inputs={f"model {model.label}": model.digest, f"run {run.key}": run_digest(run)},
    )


def predict_runs(plan: StudyPlan, selection: Selection, horizon: int, device: str) -> list[Path]:
    """Write the forecasts of the chosen held-out runs that are not written yet; see :meth:`Study.predict`."""
    plan.require_tests()
    paths = []
    for planned in plan.main_models:
        data = planned.data
        views = [view for view in data.select(data.fold.test) if selection.matches(view.store.entities)]
        if not views:
            continue
        planned.require()
        results = [forecast_result(plan, planned, view, horizon) for view in views]
        model = None
        with plan.output.stage(f"predict fold-{data.fold.number}", horizon=horizon) as record:
            for view, result in zip(tqdm(views, desc="predict", unit="run", disable=None), results, strict=True):
                if not result.check().is_done:
                    model = model or load_forecaster(planned.folder, device)[0]
                    with result.writing() as written:
                        written.files += write_forecast(model, view, horizon, data.space)
                paths.append(_first_file(result))
                logger.info("%s", paths[-1])
            if model is None:
                record.clear()
    if not paths:
        keys = ", ".join(plan.folds[0].runs)
        raise NoMatchError(f"{plan.output.path}: no held-out run matches.", f"There are: {keys}.")
    return paths


def _first_file(result: ResultOf) -> Path:
    """Return the image or table of a forecast; of two hemispheres, the left one."""
    files: list[str] = list(manifests.read(result.root, result.name)["files"])
    return result.root / next(name for name in files if not name.endswith(".json"))


def write_forecast(model: Forecaster, run: RunView, horizon: int, space: Space) -> list[Path]:
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
    list of Path
        ``*_desc-forecastH<horizon>_bold.nii.gz``, for surfaces ``*_bold.dtseries.nii`` or ``*_bold.func.gii`` (the left
        one first), ``*_timeseries.tsv`` for parcels, beside the prepared run; the first `horizon` time points are 0.
        Last comes the sidecar.

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
        paths = [source.with_name(f"{stem}_bold.nii.gz")]
        write_nifti(paths[0], space, blocks, n_time_points=run.n_time_points, repetition_time=run.repetition_time)
    elif space.grayordinates is not None:
        series = np.concatenate(list(blocks))
        paths = write_surface_series(source.with_name(stem), space.grayordinates, series, run.repetition_time)
    else:
        paths = [source.with_name(f"{stem}_timeseries.tsv")]
        write_tsv(paths[0], pd.DataFrame(np.concatenate(list(blocks)), columns=space.parcels))
    sidecar = source.with_name(f"{stem}_{paths[0].name.split('.')[0].rpartition('_')[2]}.json")
    write_json(
        sidecar,
        {
            "Description": f"Forecast of each time point, made {horizon} time points before it; the first {horizon} "
            "time points are 0",
            "RepetitionTime": run.repetition_time,
            "Units": f"standard deviations ({run.store.record['normalizer']['method']})",
            "Sources": [source.name],
            "Caveats": run.store.caveats,
        },
    )
    return [*paths, sidecar]


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
