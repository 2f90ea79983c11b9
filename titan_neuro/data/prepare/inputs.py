"""The files that a run is prepared from, and what its manifest says of them.

Which of a run's files are used is chosen in `titan_neuro.data.bids.recordings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from titan_neuro.data.bids.annex import annex_key, install_command, is_missing
from titan_neuro.data.bids.names import sidecar_path
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas_surfaces import atlas_files
from titan_neuro.data.prepare.atlas_table import names_table
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.readout_time import READOUT_KEYS
from titan_neuro.errors import InputNotFoundError, NotFetchedError
from titan_neuro.files import sha256_of_file

_CONFIG = TypeAdapter(PrepareConfig)
# Increased when the same files and settings give another result: runs are then prepared again.
_PREPARATION_VERSION = 3
# Keys of the sidecar on which the result depends.
_SIDECAR_KEYS = (
    "RepetitionTime",
    "VolumeTiming",
    "SamplingFrequency",
    "SliceTimingCorrected",
    "PhaseEncodingDirection",
    *READOUT_KEYS,
    "SliceTiming",
    "SliceEncodingDirection",
)


def input_files(recording: Recording, config: PrepareConfig) -> dict[str, Path]:
    """Return every file that the preparation of a recording reads, by its role."""
    files = dict(recording.files)
    sidecar = sidecar_path(recording.path)
    if annex_key(sidecar) is not None:
        files["sidecar"] = sidecar
    if recording.confounds is not None:
        sidecar = sidecar_path(recording.confounds)
        if sidecar.exists() or sidecar.is_symlink():
            files["confounds sidecar"] = sidecar
    if config.atlas is not None:
        files |= atlas_files(config.atlas)
        if table := names_table(config.atlas):
            files["atlas names"] = table
    return files


def missing_files(recording: Recording, config: PrepareConfig) -> dict[str, Path]:
    """Return those of the `input_files` whose content is not on this machine, and the `unread_sources`."""
    missing = {role: path for role, path in input_files(recording, config).items() if is_missing(path)}
    return {**unread_sources(recording, config), **missing}


def unread_sources(recording: Recording, config: PrepareConfig) -> dict[str, Path]:
    """Return what must be on this machine before it is known which files a recording is prepared from, by its role.

    These are sidecars that are not fetched, and subdatasets that are not installed and may hold the run's derivatives.
    A rough registration needs no derivatives.
    """
    folders = () if config.rough_registration else recording.uninstalled
    named = {"subdataset": folders, "sidecar": recording.missing_sidecars}
    return {f"{role} {number}": path for role, paths in named.items() for number, path in enumerate(paths, start=1)}


def require_content(recording: Recording, config: PrepareConfig) -> None:
    """Check that the content of all input files is on this machine.

    Raises
    ------
    NotFetchedError
        The content of a file is missing.
    """
    for role, path in missing_files(recording, config).items():
        if path in recording.uninstalled:
            raise NotFetchedError(
                f"{recording.key}: has no preprocessed image and no transforms on this machine, and {path}, which may "
                "hold them, is a subdataset that is not installed.",
                f"Install it with `{install_command(path)}`, or omit --no-datalad-get. --derivatives names others.",
            )
        raise NotFetchedError(
            f"{path}: the {role.replace('_', ' ')} is in the dataset, but its content is not on this machine.",
            f"Get it with `titan-neuro fetch {_dataset_root(path)}`, or omit --no-datalad-get.",
        )


def content_id(path: Path) -> str:
    """Return the key of an annexed file, whose content may be missing, or else the SHA-256 of its bytes.

    Raises
    ------
    InputNotFoundError
        The file does not exist, or can't be read.
    """
    key = annex_key(path)
    if key is not None:
        return key
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file.", "Check the path.")
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise InputNotFoundError(
            f"{path}: can't be read: {error.strerror}.", "Check your permissions for the file."
        ) from error


def source_contents(recording: Recording, config: PrepareConfig) -> dict[str, dict[str, str]]:
    """Return name and `content_id` of each input file, by its role."""
    files = input_files(recording, config)
    return {role: {"name": path.name, "content": content_id(path)} for role, path in files.items()}


def preparation(
    recording: Recording, sources: Mapping[str, Mapping[str, str]], config: PrepareConfig
) -> dict[str, Any]:
    """Return what a store follows from: `method`, `settings` and `inputs` of its manifest.

    Parameters
    ----------
    recording : Recording
    sources : mapping
        Its `source_contents`.
    config : PrepareConfig
    """
    return {
        "method": _PREPARATION_VERSION,
        "settings": {
            "route": recording.route,
            "prepare": recorded_settings(config),
            "sidecar": {name: recording.sidecar[name] for name in _SIDECAR_KEYS if name in recording.sidecar},
            **({} if recording.surrogate is None else {"surrogate": recording.surrogate}),
        },
        "inputs": {f"{role} {source['name']}": source["content"] for role, source in sources.items()},
    }


def source_paths(recording: Recording, config: PrepareConfig) -> dict[str, str]:
    """Return where each input file lies, by its name in `preparation`: relative to the dataset or else absolute."""
    root = _dataset_root(recording.path)
    return {
        f"{role} {path.name}": (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()
        for role, path in input_files(recording, config).items()
    }


def recorded_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return the settings as plain JSON, without the path of the atlas: its content is among the sources."""
    return {name: value for name, value in _CONFIG.dump_python(config, mode="json").items() if name != "atlas"}


def _dataset_root(path: Path) -> Path:
    # The outermost one: derivatives have a dataset_description.json of their own.
    roots = [parent for parent in path.parents if (parent / "dataset_description.json").is_file()]
    return roots[-1] if roots else path.parent
