"""Files that other processes read: written under a temporary name, synced, then renamed; locked; made once; JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from titan_neuro.errors import (
    ImageError,
    InputNotFoundError,
    MetadataError,
    MismatchError,
    OutputError,
    TitanNeuroError,
)

logger = logging.getLogger(__name__)

_Content = TypeVar("_Content")

WORK_FOLDER = ".work"
"""Subfolder of an output folder for locks and unfinished work."""

_CAN_NOT_WRITE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EISDIR),
    errno.ENAMETOOLONG,
}
# Of a failing disk or network. It is seen when the content is synced; elsewhere it may come from a file that is read.
_CAN_NOT_KEEP = {errno.EIO, errno.ESTALE}
# The answers of file systems that can't sync a folder, such as some of networks: they do it themselves, or never.
_CAN_NOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.[0-9a-f]{8}\.tmp$")


@contextlib.contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, and rename it to `target` when the block succeeds.

    Works for a file and for a folder. The old content of `target` stays until the rename. When the block fails, the
    temporary file or folder is removed.

    The content is on the disk before the rename, and the rename before the block ends: after a power cut the name is
    that of the old content or of the new, never of an empty file.

    Parameters
    ----------
    target : Path
        The final path. Its parent folder is created where it is missing.

    Yields
    ------
    Path
        A path that does not exist yet, in the same folder as `target` (so that the rename is atomic).

    Raises
    ------
    OutputError
        The folder can't be written, or the disk is full.
    """
    temporary = _temporary_path(target)
    with writing_to(target):
        try:
            make_folder(target.parent)
            yield temporary
            with writing_to(target, refusals=_CAN_NOT_KEEP):
                _sync(temporary)
                _rename(temporary, target)
                _sync_entry(target.parent)
        except BaseException:
            _remove(temporary)
            raise


def _rename(temporary: Path, target: Path) -> None:
    if temporary.is_dir() and target.is_dir():
        # A folder can't be renamed over another: the old one is renamed first.
        replaced = _temporary_path(target)
        target.rename(replaced)
        temporary.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        temporary.replace(target)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, such that they outlive a power cut; one that exists is left as it is."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    folder.mkdir(parents=True, exist_ok=True)
    while folder != existing:
        folder = folder.parent
        _sync_entry(folder)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists, such that it does not return after a power cut: the record of what will change."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        _sync_entry(path.parent)


def _sync(path: Path) -> None:
    """Wait until the disk holds a file, or a folder with everything in it."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _sync_entry(Path(folder, name))
        _sync_entry(Path(folder))
    if not path.is_dir():
        _sync_entry(path)


def _sync_entry(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder; links and pipes have no content."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CAN_NOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def is_plain_name(name: object) -> bool:
    """Whether this can be the name of a file that lies in its folder, and nowhere else, on any system."""
    return isinstance(name, str) and name not in {"", ".", ".."} and not set(name) & set("/\\\0")


def inside(
    folder: Path,
    name: str,
    *,
    may_be_link: bool = False,
    hint: str = "The name was read from a file that somebody has changed or made by hand; make that file again.",
    error: type[TitanNeuroError] = MismatchError,
) -> Path:
    """Return the path in `folder` of a name that was made from what a file says: the one place where this is checked.

    Parameters
    ----------
    folder : Path
    name : str
        Of a file or folder in `folder`, or its path relative to `folder` (with ``/``, on any system).
    may_be_link : bool
        Whether links in `folder` may lead out of it: for what is only read.
    hint : str
        What to do about it, for the message.
    error : type of TitanNeuroError
        Its class.

    Raises
    ------
    MismatchError
        The name leads out of the folder, by itself or by a link that lies there. (Or `error`, where given.)
    """
    path = folder / name
    if not all(map(is_plain_name, name.split("/"))) or not (
        may_be_link or path.resolve().is_relative_to(folder.resolve())
    ):
        raise error(
            f"{folder}: expected the name of a file in this folder, found {name!r}, which leads out of it.", hint
        )
    return path


def _temporary_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextlib.contextmanager
def writing_to(target: Path, *, refusals: Collection[int] = _CAN_NOT_WRITE) -> Iterator[None]:
    """Turn an operating system's refusal to write, inside the block, into an error that names `target`.

    Parameters
    ----------
    target : Path
        The file or folder that the block writes, for the message.
    refusals : collection of int
        Numbers of the errors (``errno``) that say so.

    Raises
    ------
    OutputError
        The disk is full or read-only, or the folder belongs to another user.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in refusals:
            raise
        raise OutputError(
            f"{target}: can't be written: {error.strerror or error}.",
            "Check that the folder exists, that it is yours to write, and that the disk has room.",
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            # git-annex makes the folders of its objects read-only.
            with contextlib.suppress(OSError):
                Path(folder).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def is_leftover(path: Path, target: Path) -> bool:
    """Whether `path` has the name of a temporary file or folder of `target`."""
    match = _TEMPORARY.match(path.name)
    return match is not None and match["name"] == target.name


def remove_leftovers(*targets: Path) -> None:
    """Remove temporary files that a killed process left beside each target; call it while holding their lock."""
    # A folder may hold the files of a thousand runs: it is listed once.
    for folder in {target.parent for target in targets}:
        if folder.is_dir():
            for path in folder.glob(".*.tmp"):
                if any(is_leftover(path, target) for target in targets if target.parent == folder):
                    _remove(path)


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files that may be there: parts of a result that is made anew.

    Raises
    ------
    OutputError
        A folder can't be written.
    """
    for path in paths:
        with writing_to(path):
            path.unlink(missing_ok=True)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_with_leftovers(folder: Path, pattern: str) -> list[Path]:
    """Return the files in `folder` whose names match, and temporary files that a killed process left of such files."""
    return [*folder.glob(pattern), *folder.glob(f".{pattern}.tmp")]


@contextlib.contextmanager
def file_lock(target: Path, *more: Path, work_dir: Path) -> Iterator[None]:
    """Hold a lock on `target`: other processes that ask for the same lock wait until the block ends.

    Temporary files that killed processes left beside the targets are removed first.

    Parameters
    ----------
    target : Path
        Gives the lock its name.
    *more : Path
        Other files that are written under the same lock.
    work_dir : Path
        The lock file lies in its subfolder ``locks``.

    Raises
    ------
    OutputError
        `work_dir` can't be written.
    """
    lock = work_dir / "locks" / f"{target.name}.lock"
    with contextlib.ExitStack() as stack:
        with writing_to(work_dir):
            make_folder(lock.parent)
            stack.enter_context(FileLock(lock))
        remove_leftovers(target, *more)
        yield


def load_or_make(target: Path, *, work_dir: Path, load: Callable[[], _Content], make: Callable[[], object]) -> _Content:
    """Load `target`; where it is missing, damaged or outdated, make it first. Of several processes one makes it.

    Parameters
    ----------
    target : Path
        A file or folder that is expensive to make.
    work_dir : Path
        The lock lies there; see :func:`file_lock`.
    load : callable
        Reads `target` and checks it. It raises `MismatchError` or `ImageError` where the content is damaged, or was
        made from other inputs (another fingerprint): `target` is then made again.
    make : callable
        Writes `target`, atomically: by :func:`atomic` or :func:`write_bytes`.

    Returns
    -------
    object
        From `load`, also directly after `make`: the process that makes `target` works with the same bits as all that
        load it later.

    Raises
    ------
    OutputError
        `target` or `work_dir` can't be written.
    """
    with file_lock(target, work_dir=work_dir):
        if target.exists():
            try:
                return load()
            except (MismatchError, ImageError) as error:
                logger.warning("%s It is made again.", error.message)
        make()
        return load()


def write_bytes(target: Path, content: bytes | memoryview) -> None:
    """Write `content` to `target`, atomically.

    Use it for libraries that would write the file themselves: their messages about a full disk are obscure.
    """
    with atomic(target) as path:
        path.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` (UTF-8), atomically."""
    with atomic(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path, content: Any) -> None:
    """Write `content` to `target` as indented JSON, atomically. NaN is refused: JSON has none."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(
    path: Path,
    *,
    keys: Sequence[str] = (),
    hint: str = "Correct the file, or fetch it again.",
    error: type[TitanNeuroError] = MetadataError,
) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : Path
    keys : sequence of str
        Keys that the object must have.
    hint : str
        What to do about a file that can't be read, for the message.
    error : type of TitanNeuroError
        Class of the error for content that can't be used.

    Returns
    -------
    dict

    Raises
    ------
    InputNotFoundError
        The file is missing, or this user may not read it.
    MetadataError
        The file is not JSON, not an object, or lacks a key. (Or `error`, where given.)
    """
    if path.exists() and not path.is_file():
        # A named pipe, say: reading it would wait for ever.
        raise InputNotFoundError(f"{path}: can't be read: it is no file.", hint)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise InputNotFoundError(f"{path}: can't be read: {cause.strerror or cause}.", hint) from cause
    except RecursionError as cause:
        raise error(f"{path}: can't be read: its JSON is nested too deeply.", hint) from cause
    except ValueError as cause:
        raise error(f"{path}: is not valid JSON: {cause}.", hint) from cause
    if not isinstance(content, dict):
        raise error(f"{path}: expected a JSON object {{...}}, found {type(content).__name__}.", hint)
    missing = [key for key in keys if key not in content]
    if missing:
        raise error(f"{path}: the keys {', '.join(missing)} are missing.", hint)
    return content
