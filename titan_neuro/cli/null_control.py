"""``titan-neuro evaluate --null-control``: the whole way on noise, where every score must be zero."""

from __future__ import annotations

import argparse
import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from titan_neuro import __version__
from titan_neuro.cli import common, evaluate, train

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.study import StudyConfig

logger = logging.getLogger(__name__)
_NOTES = {
    "white": "NULL CONTROL: the time points are white noise of the data's shape and timing, and nothing can be forecast.",
    "phase": "NULL CONTROL: the phases of the data were drawn anew, and nothing can be forecast beyond linear AR.",
}


def execute(arguments: argparse.Namespace) -> None:
    """Prepare noise as the data were prepared, train and evaluate on it in ``OUT/null-<kind>``, and check the table."""
    from titan_neuro.data.bids.output import init_output_dir
    from titan_neuro.data.store import open_runs
    from titan_neuro.evaluation.null_control import check_null

    kind = arguments.null_control
    stores = open_runs(arguments.output_dir)
    study = common.resolve_prepared(arguments, stores)
    bids_dir = _source(arguments.output_dir)
    recordings = _recordings(arguments, bids_dir, {store.key: store.record for store in stores})
    own = _arguments_of(arguments, f"null-{kind}")
    init_output_dir(own.output_dir, bids_dir, __version__, common.work_dir(own))
    with common.stage(own, f"prepare null-{kind}", null_control=kind, seed=study.seeds[0]):
        _prepare(own, recordings, kind, study)
    train.execute(own)
    table = evaluate.score(own, [_NOTES[kind]])
    print(check_null(table, kind))  # noqa: T201


def _source(output_dir: Path) -> Path:
    """Where the dataset lies that was prepared."""
    from titan_neuro.errors import InputNotFoundError
    from titan_neuro.files import read_json

    description = output_dir / "dataset_description.json"
    url = urlparse(read_json(description)["SourceDatasets"][0]["URL"])
    path = Path(unquote(url.path))
    if not path.is_dir():
        raise InputNotFoundError(
            f"{path}: no such folder: {output_dir} was prepared from it, and the null control needs it again.",
            "Put the dataset back where it was.",
        )
    return path


def _recordings(arguments: argparse.Namespace, bids_dir: Path, records: dict[str, dict]) -> list[Recording]:
    """Find the recordings that the stores of a study were made from."""
    from titan_neuro.data.bids.annex import is_missing
    from titan_neuro.data.bids.recordings import find_recordings
    from titan_neuro.errors import NoMatchError, NotFetchedError

    found = find_recordings(bids_dir, filter_file=arguments.bids_filter_file, derivatives=arguments.derivatives)
    by_key = {recording.key: recording for recording in found}
    chosen = []
    for key, record in records.items():
        recording = by_key.get(key)
        name = record["sources"]["recording"]["name"]
        if recording is None or recording.path.name != name:
            there = "no such run" if recording is None else recording.path.name
            raise NoMatchError(
                f"{bids_dir}: {key} was prepared from {name}, found {there}.",
                "Give the --derivatives and the --bids-filter-file that `prepare` was given.",
            )
        if is_missing(recording.path):
            raise NotFetchedError(
                f"{recording.path}: its content is not on this machine, and the null control needs it again.",
                f"Get it with `titan-neuro fetch {bids_dir}`.",
            )
        chosen.append(recording)
    return chosen


def _arguments_of(arguments: argparse.Namespace, name: str) -> argparse.Namespace:
    """Return the same arguments for a study of its own inside the output folder, with the settings in force here."""
    own = copy.copy(arguments)
    resolved = arguments.output_dir / "config.resolved.yaml"
    own.config_file = arguments.config_file or (resolved if resolved.is_file() else None)
    own.output_dir = arguments.output_dir / name
    own.work_dir = None if arguments.work_dir is None else arguments.work_dir / name
    own.null_control = None
    return own


def _prepare(own: argparse.Namespace, recordings: list[Recording], kind: str, study: StudyConfig) -> None:
    from tqdm import tqdm

    from titan_neuro.data.prepare import prepare_run
    from titan_neuro.data.simulate.surrogate import write_surrogate

    work_dir = common.work_dir(own)
    for recording in tqdm(recordings, desc=f"prepare null-{kind}", unit="run", disable=None):
        noise = write_surrogate(recording, kind, work_dir / "surrogates", study.seeds[0])
        try:
            prepare_run(noise, own.output_dir, study.prepare, work_dir=work_dir)
        finally:
            noise.path.unlink(missing_ok=True)
