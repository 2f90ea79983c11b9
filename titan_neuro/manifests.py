"""What a result on the disk follows from and consists of: one JSON file for each result, written last.

A result is there only as its manifest says: `ResultOf.check` compares the manifest with what the result would follow
from now, and with the content of its files. Nothing is decided by the times of files. ``docs/reliability.md`` explains
the format.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from titan_neuro import __version__
from titan_neuro.errors import MetadataError, MismatchError, TitanNeuroError, list_names
from titan_neuro.files import (
    inside,
    read_json,
    remove_file,
    remove_files,
    remove_leftovers,
    sha256_of_file,
    write_json,
    writing_to,
)
from titan_neuro.provenance import commit, digest

FOLDER = "manifests"
"""Subfolder of an output folder for the manifests."""
SCHEMA, SCHEMA_VERSION = "titan-neuro-manifest", 1

_KEYS = ("schema", "schema_version", "stage", "method", "settings", "inputs", "files", "made", "digest")
_THREADS = 4
_MAX_REASONS = 4


class State(StrEnum):
    """Whether a result is there."""

    DONE = "done"
    STALE = "stale"
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """The state of a result, and why.

    Attributes
    ----------
    state : State
        ``stale``: it is of other inputs or settings than those in force; ``damaged``: a file is missing or changed;
        ``missing``: it was never finished.
    reasons : tuple of str
        Which input, setting or file differs; empty where it is done.
    """

    state: State
    reasons: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether the result is whole, and of the inputs and settings in force."""
        return self.state is State.DONE

    def __str__(self) -> str:
        """One line: ``stale: evaluation.n_resamples was 1000, is 2000``."""
        return f"{self.state}: {self.why}" if self.reasons else str(self.state)

    @property
    def why(self) -> str:
        """The first reasons in one line, and their number where there are more; empty where it is done."""
        more = f"; ... ({len(self.reasons)} in all)" if len(self.reasons) > _MAX_REASONS else ""
        return "; ".join(self.reasons[:_MAX_REASONS]) + more


@dataclass
class Written:
    """Files that a result consists of; a folder stands for all files in it.

    Attributes
    ----------
    files : list of Path
    timed : list of Path
        Files that hold measured times, which differ when the same result is made again: damage to them is noticed, but
        they don't count in its digest.
    """

    files: list[Path] = field(default_factory=list)
    timed: list[Path] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ResultOf:
    """What a result would follow from now: the place of its manifest, and what that must say.

    Attributes
    ----------
    root : Path
        The output folder. Paths in the manifest are relative to it.
    name : str
        Of the manifest below ``root/manifests``, without ``.json``: ``train/seed-0_fold-1_titan-mac``. Its first part
        is the stage.
    method : int
        Version of the code that makes it; raised where the same inputs and settings come to another result.
    settings : mapping
        JSON: every setting that the result depends on.
    inputs : mapping of str to str
        Digest of every input, by its name.
    """

    root: Path
    name: str
    method: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The manifest."""
        return manifest_path(self.root, self.name)

    def check(self, *, contents: bool = True) -> Check:
        """Compare the manifest with what the result would follow from now, and its files with their digests.

        Parameters
        ----------
        contents : bool
            Whether all files are read. False: only whether they are there, and of their recorded size.

        Returns
        -------
        Check
        """
        return check_recorded(self.root, self.name, self._changes, contents=contents)

    def _changes(self, manifest: Mapping[str, Any]) -> Iterator[str]:
        if manifest["method"] != self.method:
            yield f"it was made by version {manifest['method']} of its method, now {self.method}"
        # What JSON makes of it: tuples are lists there.
        yield from differences(manifest["settings"], as_json(self.settings))
        before, now = manifest["inputs"], dict(self.inputs)
        changed = [name for name in now if name in before and before[name] != now[name]]
        for what, names in (
            ("changed", changed),
            ("new", [name for name in now if name not in before]),
            ("no longer there", [name for name in before if name not in now]),
        ):
            if names:
                yield f"{list_names(names)}: {what}"

    @contextlib.contextmanager
    def writing(self, **made: Any) -> Iterator[Written]:
        """Make the result in this block: an earlier one is removed first, the manifest written when the block succeeds.

        Parameters
        ----------
        **made
            JSON that is recorded beside the result and is no part of it, such as the time that it took.

        Yields
        ------
        Written
            To be filled with the files that the result consists of.

        Raises
        ------
        OutputError
            The folder can't be written.
        """
        discard(self.root, self.name)
        remove_leftovers(self.path)
        written = Written()
        yield written
        remove_leftovers(*written.files, *written.timed)
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "stage": self.name.partition("/")[0],
            "method": self.method,
            "settings": as_json(self.settings),
            "inputs": dict(self.inputs),
            "files": _describe(self.root, written),
            "made": {**_made_now(), **made},
        }
        write_json(self.path, {**content, "digest": content_digest(content)})


def manifest_path(root: Path, name: str) -> Path:
    """Return the path of a manifest by its name, which may have been made from what a file says.

    Raises
    ------
    MismatchError
        The name leads out of the folder.
    """
    return _below(root / FOLDER, f"{name}.json")


def names(root: Path, stage: str) -> list[str]:
    """List the manifests of a stage, sorted: also those that can't be read, and those of results no longer asked for.

    Parameters
    ----------
    root : Path
        The output folder.
    stage : str
        ``prepare``, ``train``, ``probe``, ``predict``.
    """
    return sorted(f"{stage}/{path.stem}" for path in (root / FOLDER / stage).glob("*.json"))


def read(root: Path, name: str) -> dict[str, Any]:
    """Read a manifest.

    Raises
    ------
    InputNotFoundError
        It is missing, or can't be read.
    MetadataError
        It is no manifest, or of another schema version.
    """
    path = manifest_path(root, name)
    hint = "Run the stage again that wrote it; manifests are not meant to be edited."
    manifest = read_json(path, keys=_KEYS, hint=hint)
    schema = manifest["schema"], manifest["schema_version"]
    if schema != (SCHEMA, SCHEMA_VERSION):
        raise MetadataError(f"{path}: expected {SCHEMA} {SCHEMA_VERSION}, found {schema[0]} {schema[1]}.", hint)
    if manifest["digest"] != content_digest(manifest):
        raise MetadataError(f"{path}: was changed since it was written.", hint)
    mappings = all(isinstance(manifest[key], dict) for key in ("settings", "inputs", "files", "made"))
    if not mappings or not all(_is_file_record(record) for record in manifest["files"].values()):
        raise MetadataError(f"{path}: settings, inputs, files and made are not what a manifest has there.", hint)
    return manifest


def content_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of all that a manifest says of its result: of everything but ``made`` and the digest."""
    return digest({key: value for key, value in manifest.items() if key not in {"made", "digest"}})


def result_digest(root: Path, name: str) -> str | None:
    """Return the digest of a result as its manifest describes it, for what is made from it; None where it is missing.

    When it was made is no part of it, nor is how long that took.
    """
    manifest = _read_or_reason(root, name)
    if isinstance(manifest, Check):
        return None
    files = {path: record["sha256"] for path, record in manifest["files"].items() if not record.get("timed")}
    return digest([files, *(manifest[key] for key in ("method", "settings", "inputs"))])


def discard(root: Path, name: str) -> None:
    """Remove a result: its manifest first, then the files that this lists, and folders that they leave empty.

    Raises
    ------
    OutputError
        The folder can't be written.
    """
    path, manifest = manifest_path(root, name), _read_or_reason(root, name)
    with writing_to(path):
        remove_file(path)
    if isinstance(manifest, Check):
        return
    files = [_below(root, listed) for listed in manifest["files"]]
    remove_files(files)
    for file in files:
        for folder in file.parents:
            if folder == root or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()


def _check_files(root: Path, manifest: Mapping[str, Any], *, contents: bool) -> Check:
    """Compare the files of a result with their sizes and, where all are to be read, with their digests."""
    reasons = []
    for name, record in manifest["files"].items():
        try:
            path = _below(root, name)
            size = path.stat().st_size if path.is_file() else -1
            if size < 0:
                reasons.append(f"{name} is missing")
            elif size != record["bytes"] or (contents and sha256_of_file(path) != record["sha256"]):
                reasons.append(f"{name} was changed")
        except (OSError, MismatchError) as error:
            reasons.append(f"{name} can't be read: {error}")
    return Check(State.DAMAGED, tuple(reasons)) if reasons else Check(State.DONE)


def check_recorded(
    root: Path,
    name: str,
    changes: Callable[[Mapping[str, Any]], Iterable[str]] = lambda _: (),
    *,
    contents: bool = True,
) -> Check:
    """Say whether a result is whole, and of what it would follow from now.

    Parameters
    ----------
    root : Path
    name : str
        Of its manifest.
    changes : callable
        Says, given the manifest, what has changed since; by default nothing has.
    contents : bool
        Whether all files are read.
    """
    manifest = _read_or_reason(root, name)
    if isinstance(manifest, Check):
        return manifest
    files = _check_files(root, manifest, contents=contents)
    # What is stale can be shown as such; what is damaged can't.
    changed = tuple(changes(manifest)) if files.is_done else ()
    return Check(State.STALE, changed) if changed else files


def check_all(results: Sequence[ResultOf], *, contents: bool = True) -> list[Check]:
    """Check several results side by side; see :meth:`ResultOf.check`."""
    if not results:
        return []
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(functools.partial(ResultOf.check, contents=contents), results))


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Say which of two sets of settings (JSON) differ: ``training.max_epochs was 2, is 3``.

    Parameters
    ----------
    before, now : mapping, or a single value
    name : str
        Of the setting.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name} was {_shown(before)}, is {_shown(now)}"


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_or_reason(root: Path, name: str) -> dict[str, Any] | Check:
    path = manifest_path(root, name)
    if not path.exists():
        return Check(State.MISSING)
    try:
        return read(root, name)
    except TitanNeuroError as error:
        return Check(State.DAMAGED, (error.message,))


def _describe(root: Path, written: Written) -> dict[str, dict[str, Any]]:
    records = {}
    for paths, marks in ((written.files, {}), (written.timed, {"timed": True})):
        for path in (each for given in paths for each in (given.rglob("*") if given.is_dir() else [given])):
            if path.is_file():
                record = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path), **marks}
                records[path.relative_to(root).as_posix()] = record
    return dict(sorted(records.items()))


def _is_file_record(record: object) -> bool:
    return isinstance(record, dict) and isinstance(record.get("bytes"), int) and isinstance(record.get("sha256"), str)


def _below(folder: Path, name: str) -> Path:
    """Return the path below `folder` of a relative name with ``/`` in it; it may not lead out of the folder."""
    hint = "Manifests are not meant to be edited: run the stage again that wrote it."
    return inside(folder, name, may_be_link=True, hint=hint)


def as_json(value: Any) -> Any:
    """Return what JSON makes of settings: tuples become lists, keys and paths text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@functools.cache
def _code() -> dict[str, str | None]:
    return {"version": __version__, "commit": commit()}


def _made_now() -> dict[str, Any]:
    return {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **_code()}
