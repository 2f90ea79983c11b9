"""Annexed files of a working tree, recognized without DataLad and without starting a process."""

from __future__ import annotations

import re
from pathlib import Path

from titan_neuro.errors import MetadataError
from titan_neuro.files import inside

_OBJECT = re.compile(r"(?:^|/)annex/objects/(?:.+/)?(?P<key>[^/]+)$")
_SIZE = re.compile(r"^[A-Z0-9_]+(?:-[a-zA-Z]\d+)*?-s(?P<size>\d+)(?:-[a-zA-Z]\d+)*--")
_DATASET_ID = re.compile(r"^\s*id\s*=\s*(?P<id>\S+)\s*$", re.MULTILINE)
_SUBDATASET = re.compile(r'^\s*path\s*=\s*"?(?P<path>[^"\n]+?)"?\s*$', re.MULTILINE)
_NO_DATA = {"sourcedata", "code"}
# git-annex itself never treats a larger file as a pointer.
_POINTER_MAX_BYTES = 32 * 1024


def annex_key(path: Path) -> str | None:
    """Return the key of an annexed file, such as ``MD5E-s227526384--1a20752ace79b263bcd8662d974e9fc8.nii.gz``.

    Parameters
    ----------
    path : Path
        A file of a working tree. Its content need not be present.

    Returns
    -------
    str or None
        The key that the annex symlink or the pointer file names; None for any other file, also for an unlocked file
        whose content is present.
    """
    if path.is_symlink():
        match = _OBJECT.search(str(path.readlink()).replace("\\", "/"))
        return match["key"] if match else None
    return _pointer_key(path)


def is_missing(path: Path) -> bool:
    """Whether `path` is annexed and its content is not on this machine: a dangling link, or a pointer file."""
    if path.is_symlink():
        return not path.exists() and annex_key(path) is not None
    return _pointer_key(path) is not None


def key_bytes(key: str) -> int | None:
    """Return the size in bytes of a key's content; None if the key does not contain it (some URL keys)."""
    match = _SIZE.match(key)
    return int(match["size"]) if match else None


def dataset_id(directory: Path) -> str | None:
    """Return the DataLad id of the dataset in `directory` (from ``.datalad/config``); None if it has none."""
    config = directory / ".datalad" / "config"
    return parse_dataset_id(config.read_text(encoding="utf-8")) if config.is_file() else None


def parse_dataset_id(config: str) -> str | None:
    """Return the DataLad id of a dataset from the text of its ``.datalad/config``; None if it has none."""
    section = re.search(r'^\s*\[datalad "dataset"\]\s*$(?P<body>[^\[]*)', config, re.MULTILINE)
    match = _DATASET_ID.search(section["body"]) if section else None
    return match["id"] if match else None


def _pointer_key(path: Path) -> str | None:
    if not path.is_file() or path.stat().st_size > _POINTER_MAX_BYTES:
        return None
    with path.open("rb") as file:
        first_line = file.readline()
    if not first_line.startswith(b"/annex/objects/"):
        return None
    return first_line.decode("utf-8", errors="replace").strip().rsplit("/", 1)[-1]


def uninstalled_subdatasets(folder: Path) -> list[Path]:
    """List the subdatasets at or below a folder that are not installed: git knows them, but their folders are empty.

    Those in its ``sourcedata`` and ``code`` are no data of the dataset, and are not listed.

    Parameters
    ----------
    folder : Path
        In a clone, at any depth. It may be missing.

    Returns
    -------
    list of Path
        Sorted; by the same way as `folder`.

    Raises
    ------
    MetadataError
        A path in ``.gitmodules`` leads out of the clone.
    """
    found = []
    below = folder.resolve()
    root = _repository(below)
    modules = root and root / ".gitmodules"
    if root is None or modules is None or not modules.is_file():
        return []
    for match in _SUBDATASET.finditer(modules.read_text(encoding="utf-8", errors="replace")):
        hint = f"Correct {modules}: git itself refuses such a path."
        path = inside(root, match["path"], may_be_link=True, hint=hint, error=MetadataError)
        if path != below and (below not in path.parents or _NO_DATA & {*path.relative_to(below).parts}):
            continue
        if (path / ".git").exists() and path != below:
            found += [folder / each.relative_to(below) for each in uninstalled_subdatasets(path)]
        elif not _has_content(path) and path.resolve().is_relative_to(root):
            found.append(folder / path.relative_to(below))
    return sorted(found)


def install_command(subdataset: Path) -> str:
    """Return the command that installs a subdataset without its content, for a message."""
    path = subdataset.resolve()
    return f"datalad get -n -d {_repository(path.parent)} {path}"


def _repository(folder: Path) -> Path | None:
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
