"""The files of a clone, and which of them are annexed; nested clones are not part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from titan_neuro.data.bids.annex import annex_key, key_bytes


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """A file of a working tree.

    Attributes
    ----------
    path : Path
        Path of the file.
    name : PurePath
        Path relative to the root of the clone.
    key : str or None
        Its annex key; None for a file in git.
    missing : bool
        Whether its content is not on this machine.
    """

    path: Path
    name: PurePath
    key: str | None
    missing: bool


def read_tree(directory: Path) -> list[TreeFile]:
    """List the files of a clone, sorted, without git's own files and those of nested clones."""
    return [
        tree_file(path, directory)
        for folder, names in _folders(directory, nested=False)
        for path in (folder / name for name in names)
    ]


def tree_file(path: Path, directory: Path) -> TreeFile:
    """Describe one file of the clone in `directory`."""
    key = annex_key(path)
    # A pointer file names a key only while its content is missing.
    missing = key is not None and not (path.is_symlink() and path.exists())
    return TreeFile(path=path, name=path.relative_to(directory), key=key, missing=missing)


def nested_clones(directory: Path) -> list[Path]:
    """List the clones within a clone, at any depth, sorted."""
    return [folder for folder, _ in _folders(directory, nested=True) if folder != directory and is_clone(folder)]


def is_clone(directory: Path) -> bool:
    """Whether a folder is the root of a clone."""
    return (directory / ".git").exists()


def total_bytes(files: Sequence[TreeFile]) -> int:
    """Return the bytes of the annexed content of `files`; equal content counts once, keys without a size count 0."""
    return sum(key_bytes(key) or 0 for key in {file.key for file in files if file.key})


def _folders(directory: Path, *, nested: bool) -> Iterator[tuple[Path, list[str]]]:
    for folder, subfolders, names in os.walk(directory):
        # Sorted, so that a plan is the same on every file system.
        subfolders[:] = sorted(
            name for name in subfolders if name != ".git" and (nested or not is_clone(Path(folder, name)))
        )
        # A subdataset's .git is a file; links to folders are listed, not followed.
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        yield Path(folder), sorted([*(name for name in names if name != ".git"), *links])
