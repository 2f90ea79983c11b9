"""The files below a folder of BIDS datasets, with the parts of their names; links to folders are followed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from titan_neuro.data.bids.names import BidsFile, parse_name
from titan_neuro.errors import InputNotFoundError

DESCRIPTION = "dataset_description.json"


def read_folders(root: Path, is_searched: Callable[[Path, str], bool]) -> Iterator[tuple[Path, list[BidsFile]]]:
    """Yield the folders below a root, each with its files, sorted by name.

    Names are parsed from the root down: the folders above it may have any name. A file whose name has no subject or
    session has those of its folders ``sub-*`` and ``ses-*``. Links to folders are followed. Each folder is read
    once, by whatever way it is reached first, so that links in a circle end. Hidden files are no data.

    Parameters
    ----------
    root : Path
    is_searched : callable
        Whether a subfolder is read, from its parent and its name.

    Raises
    ------
    InputNotFoundError
        A folder can't be read.
    """
    yield from _read(root, {}, set(), is_searched)


def _read(
    folder: Path, entities: Mapping[str, str], seen: set[tuple[int, int]], is_searched: Callable[[Path, str], bool]
) -> Iterator[tuple[Path, list[BidsFile]]]:
    try:
        identity = folder.stat()
        if (identity.st_dev, identity.st_ino) in seen:
            return
        seen.add((identity.st_dev, identity.st_ino))
        with os.scandir(folder) as entries:
            # Links come last: a folder is found under its own name where it has one.
            listed = sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        raise InputNotFoundError(
            f"{folder}: can't be read: {error.strerror or error}.", "Check your permissions for the folder."
        ) from error
    subfolders = [entry.name for entry in listed if _is_folder(entry)]
    names = sorted({entry.name for entry in listed} - set(subfolders))
    if DESCRIPTION in names:
        # A dataset of its own: what lies above says nothing about it.
        entities = {}
    yield folder, [_parse(folder / name, entities) for name in names if not name.startswith(".")]
    for name in subfolders:
        if is_searched(folder, name):
            yield from _read(folder / name, _below(entities, name), seen, is_searched)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _below(entities: Mapping[str, str], name: str) -> Mapping[str, str]:
    entity, dash, label = name.partition("-")
    if entity == "sub" and dash:
        return {"sub": label}
    if entity == "ses" and dash and entities.keys() == {"sub"}:
        return {**entities, "ses": label}
    return entities


def _parse(path: Path, of_folders: Mapping[str, str]) -> BidsFile:
    file = parse_name(path)
    problem = file.problem
    for name, label in of_folders.items():
        if file.entities.get(name, label) != label:
            problem = problem or f"it says {name}-{file.entities[name]}, its folder says {name}-{label}"
    return replace(file, entities={**of_folders, **file.entities}, problem=problem)
