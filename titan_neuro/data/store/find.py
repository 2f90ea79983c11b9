"""Stores of an output folder or URL, found by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.data.bids.names import join_entities, short_entities
from titan_neuro.errors import InputNotFoundError, MismatchError

if TYPE_CHECKING:
    from titan_neuro.data.store.read import RunStore

_NAME = "*_desc-prepared_*.zarr"


def store_name(entities: Mapping[str, str], kind: str) -> str:
    """Return the file name of a run's store: ``sub-01_task-x_run-01_desc-prepared_bold.zarr``.

    Parameters
    ----------
    entities : mapping of str to str
        Of the recording; ``desc`` and ``stat`` are left out.
    kind : {"volume", "surface", "parcels"}
    """
    labels = {name: label for name, label in short_entities(entities).items() if name not in {"desc", "stat"}}
    suffix = "timeseries" if kind == "parcels" else "bold"
    return f"{join_entities(labels)}_desc-prepared_{suffix}.zarr"


def open_runs(output_dir: Path | str, subjects: Sequence[str] | None = None) -> list[RunStore]:
    """Open all prepared runs of an output folder, sorted by name.

    Parameters
    ----------
    output_dir : Path or str
        A folder, or the URL of a folder that can be listed.
    subjects : sequence of str, optional
        Labels to select, without ``sub-``; by default all.

    Raises
    ------
    InputNotFoundError
        The folder contains no prepared run of these subjects, or the URL can't be listed.
    MismatchError
        A run was prepared twice, on two grids or with two atlases; a store has another schema version.
    """
    from titan_neuro.data.store.read import RunStore

    stores = [RunStore(path) for path in _paths(output_dir)]
    stores = [store for store in stores if not subjects or store.subject in subjects]
    if not stores:
        raise InputNotFoundError(
            f"{output_dir}: contains no prepared run"
            + (f" of {', '.join('sub-' + subject for subject in subjects)}." if subjects else "."),
            "Run `titan-neuro prepare BIDS_DIR OUTPUT_DIR` (or `titan-neuro run ... participant`) first.",
        )
    by_key: dict[str, RunStore] = {}
    for store in stores:
        other = by_key.setdefault(store.key, store)
        if other is not store:
            raise MismatchError(
                f"{output_dir}: {store.key} was prepared twice: {_name(other)} and {_name(store)}.",
                "Prepare each resolution, space or atlas into a folder of its own; remove one of the two here.",
            )
    return sorted(stores, key=lambda store: store.key)


def _name(store: RunStore) -> str:
    return str(store.path).rstrip("/").rpartition("/")[2]


def _paths(output_dir: Path | str) -> Sequence[Path | str]:
    from titan_neuro.data.store.address import is_url

    if is_url(output_dir):
        return _urls(str(output_dir))
    return sorted(Path(output_dir).glob(f"sub-*/**/func/{_NAME}"))


def _urls(root: str) -> list[str]:
    """List ``sub-X/[ses-Y/]func/`` level by level: a search of the whole tree would list every shard."""
    from titan_neuro.data.store.address import file_system

    system, path = file_system(root)
    try:
        subjects = _children(system, path, "sub-*")
        folders = [*subjects, *(session for subject in subjects for session in _children(system, subject, "ses-*"))]
        functional = [folder for parent in folders for folder in _children(system, parent, "func")]
        stores = [store for folder in functional for store in _children(system, folder, _NAME)]
    # Each driver has its own errors: NotImplementedError, those of its library, OSError.
    except Exception as error:
        raise InputNotFoundError(
            f"{root}: can't be listed: {type(error).__name__}: {error}.",
            "Check the address and your permissions. If the server lists no folders, open each run by its own address: "
            "RunStore(URL).",
        ) from error
    return sorted(system.unstrip_protocol(name) for name in stores)


def _children(system: Any, folder: str, pattern: str) -> list[str]:
    names = [name.rstrip("/") for name in system.ls(folder, detail=False)]
    return [name for name in names if fnmatch(name.rpartition("/")[2], pattern)]
