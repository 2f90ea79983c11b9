"""``titan-neuro predict``: write forecasts as images or tables."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.cli import common

if TYPE_CHECKING:
    import numpy as np

    from titan_neuro.data.store import RunView
    from titan_neuro.forecaster import Forecaster

logger = logging.getLogger(__name__)


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(
        subcommands,
        "predict",
        "Write the forecasts of held-out runs by the study's model (first seed): volume t is what was expected of it.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    parser.add_argument("--horizon", type=int, default=1, metavar="FRAMES", help="time points ahead (default: 1)")
    common.add_selection(parser)
    common.add_study(parser)
    common.add_device(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Forecast every chosen run with the study's model, of the first seed and the fold that holds the run out."""
    from tqdm import tqdm

    from titan_neuro.data.bids.names import has_label
    from titan_neuro.data.store import open_runs
    from titan_neuro.errors import NoMatchError, UsageError
    from titan_neuro.training import load_forecaster

    stores = open_runs(arguments.output_dir)
    study = common.resolve_prepared(arguments, stores)
    if arguments.horizon not in study.model.horizons:
        raise UsageError(
            f"--horizon {arguments.horizon}: the model forecasts {study.model.horizons} time points ahead."
        )
    device = common.torch_device(arguments.device)
    wanted = {"subject": arguments.participant_label, "task": arguments.task_id, "run": arguments.run_id}
    count = 0
    for data in common.study_folds(stores, study):
        views = [
            view
            for view in data.part(data.fold.test)
            if all(has_label(view.store.entities, name, labels) for name, labels in wanted.items())
        ]
        if not views:
            continue
        folder, _ = common.find_model(arguments.output_dir, data, study, study.seeds[0], study.model)
        model, _ = load_forecaster(folder, device)
        with common.stage(arguments, f"predict fold-{data.fold.number}", horizon=arguments.horizon):
            for view in tqdm(views, desc="predict", unit="run", disable=None):
                path = _write(model, view, arguments.horizon, data.space)
                logger.info("%s", path)
        count += len(views)
    if not count:
        raise NoMatchError(
            f"{arguments.output_dir}: no held-out run matches.",
            f"There are: {', '.join(store.key for store in stores)}.",
        )


def _forecasts(model: Forecaster, view: RunView, horizon: int) -> Iterator[np.ndarray]:
    """Yield blocks of the run's length in all: time point t as it was expected `horizon` time points before."""
    import numpy as np

    index = model.horizons.index(horizon)
    # Nothing was forecast of the first time points.
    yield np.zeros((min(horizon, view.n_time_points), view.n_features), dtype=np.float32)
    state = model.init_state()
    last = view.n_time_points - horizon
    for start in range(0, last, 64):
        forecasts, state = model.step(view.read(start, min(start + 64, last)), state)
        yield forecasts[:, index].numpy()


def _write(model: Forecaster, view: RunView, horizon: int, space: Any) -> Path:
    import numpy as np
    import pandas as pd

    from titan_neuro.data.bids.output import write_nifti
    from titan_neuro.errors import NoMatchError
    from titan_neuro.files import atomic, write_json

    if view.n_time_points <= horizon:
        raise NoMatchError(
            f"{view.key}: expected more than {horizon} time points to forecast {horizon} ahead, found {view.n_time_points}.",
            "Choose a shorter --horizon, or leave the run out (--run-id).",
        )
    stem = view.store.path.name.split("_desc-prepared_")[0] + f"_desc-forecastH{horizon}"
    blocks = _forecasts(model, view, horizon)
    if space.kind == "volume":
        path = view.store.path.with_name(f"{stem}_bold.nii.gz")
        write_nifti(path, space, blocks, n_time_points=view.n_time_points, repetition_time=view.repetition_time)
    else:
        path = view.store.path.with_name(f"{stem}_timeseries.tsv")
        with atomic(path) as temporary:
            pd.DataFrame(np.concatenate(list(blocks)), columns=space.parcels).to_csv(temporary, sep="\t", index=False)
    write_json(
        path.with_name(path.name.split(".")[0] + ".json"),
        {
            "Description": f"Forecast of each time point made {horizon} time points before it; the first {horizon} time points are 0",
            "RepetitionTime": view.repetition_time,
            "Units": f"standard deviations ({view.store.record['normalizer']['method']})",
            "Sources": [view.store.path.name],
            "Caveats": view.store.caveats,
        },
    )
    return path
