"""The null control: the whole way on noise, preparation and training included, where no model may score anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlparse

from titan_neuro import __version__
from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.output import init_output_dir
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare import prepare_run
from titan_neuro.data.simulate.surrogate import write_surrogate
from titan_neuro.errors import InputNotFoundError, NoMatchError, NotFetchedError
from titan_neuro.files import read_json
from titan_neuro.progress import Progress

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.output import OutputFolder
    from titan_neuro.study.selection import Selection

NullKind = Literal["white", "phase"]
NOTES: dict[str, str] = {
    "white": "NULL CONTROL: the time points are white noise of the data's shape and timing; nothing can be forecast.",
    "phase": "NULL CONTROL: the phases of the data were drawn anew for each feature and run; only spectra are left.",
}


def prepare_null(
    kind: NullKind,
    bids_dir: Path,
    records: Mapping[str, Mapping[str, Any]],
    selection: Selection,
    output: OutputFolder,
    config: StudyConfig,
) -> None:
    """Prepare noise in the shape of the recordings that a study was made from, with the study's settings.

    Parameters
    ----------
    kind : {"white", "phase"}
        White noise, or the data with phases drawn anew for each subject.
    bids_dir : Path
        The dataset that the study was prepared from; see :func:`source_of`.
    records : mapping
        The record of each prepared run of the study, by its key.
    selection : Selection
        The filter file and the derivatives that `prepare` was given.
    output : OutputFolder
        Of the null study.
    config : StudyConfig

    Raises
    ------
    NoMatchError, NotFetchedError
        A recording is not what the study was prepared from, or its content is not on this machine.
    """
    recordings = _recordings_of(records, bids_dir, selection, config.prepare.resolution_mm)
    init_output_dir(output.path, bids_dir, __version__, output.work_dir)
    with (
        output.stage(f"prepare null-{kind}", null_control=kind, seed=config.seeds[0]),
        Progress(len(recordings), f"Null control {kind}") as progress,
    ):
        for recording in recordings:
            noise = write_surrogate(recording, kind, output.work_dir / "surrogates", config.seeds[0])
            try:
                prepare_run(noise, output.path, config.prepare, work_dir=output.work_dir)
            finally:
                for path in {noise.path, *noise.hemispheres.values()}:
                    path.unlink(missing_ok=True)
            progress.step(f"{recording.key} is prepared")


def source_of(output_dir: Path) -> Path:
    """Return the folder of the dataset that an output folder was prepared from.

    Raises
    ------
    InputNotFoundError
        It is not where it was.
    """
    description = output_dir / "dataset_description.json"
    url = urlparse(read_json(description)["SourceDatasets"][0]["URL"])
    path = Path(unquote(url.path))
    if not path.is_dir():
        raise InputNotFoundError(
            f"{path}: no such folder: {output_dir} was prepared from it, and its recordings are needed again.",
            f"If the dataset has moved, say where it is: `titan-neuro prepare BIDS_DIR {output_dir}`, which prepares "
            "nothing again.",
        )
    return path


def _recordings_of(
    records: Mapping[str, Mapping[str, Any]], bids_dir: Path, selection: Selection, resolution_mm: float | None
) -> Sequence[Recording]:
    """Find the recordings that the stores of a study were made from."""
    # The runs of the study are a part of the dataset: whether each is found is checked below.
    found = find_recordings(
        bids_dir,
        filter_file=selection.filter_file,
        derivatives=selection.derivatives,
        resolution_mm=resolution_mm,
        allow_missing=True,
    )
    by_key = {recording.key: recording for recording in found}
    chosen = []
    for key, record in records.items():
        recording = by_key.get(key)
        name = record["sources"]["recording"]["name"]
        if recording is None or recording.path.name != name:
            instead = "no such run" if recording is None else recording.path.name
            raise NoMatchError(
                f"{bids_dir}: {key} was prepared from {name}, found {instead}.",
                "Give the --derivatives and the --bids-filter-file that `prepare` was given.",
            )
        if is_missing(recording.path):
            raise NotFetchedError(
                f"{recording.path}: its content is not on this machine, and the null control needs it again.",
                f"Get it with `titan-neuro fetch {bids_dir}`.",
            )
        chosen.append(recording)
    return chosen
