"""Writing files so that a reader never sees half of one: a temporary name beside the target, then a rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from titan_neuro.errors import OutputError

WORK_FOLDER = ".work"
"""Of an output folder: locks, and unfinished work."""

_CAN_NOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR}
_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.[0-9a-f]{8}\.tmp$")


@contextlib.contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success it becomes `target`, on failure it is removed.

    Works for a file and for a folder; what `target` held before is replaced only at the very end.

    Parameters
    ----------
    target : Path
        The final path. Its parent folder is made where it is missing.

    Yields
    ------
    Path
        A path that does not exist yet, in the same folder as `target` (so that the rename is atomic).

    Raises
    ------
    OutputError
        The folder can't be written or the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    with writing_to(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_dir() and target.is_dir():
                # A folder can't be renamed over another: the old one steps aside first.
                aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
                target.rename(aside)
                temporary.rename(target)
                shutil.rmtree(aside, ignore_errors=True)
            else:
                temporary.replace(target)
        except BaseException:
            _remove(temporary)
            raise


@contextlib.contextmanager
def writing_to(target: Path) -> Iterator[None]:
    """Say what can't be written where a ``with`` block meets a full or a read-only disk, or a folder of others.

    Parameters
    ----------
    target : Path
        What the block writes, for the message.

    Raises
    ------
    OutputError
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CAN_NOT_WRITE:
            raise
        raise OutputError(
            f"{target}: can't be written: {error.strerror or error}.",
            "Check that the folder exists, that it is yours to write, and that the disk has room.",
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            # git-annex takes the right to write away from the folders of its objects.
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
    """Remove temporary files that a killed process left beside each target (call it while holding their lock)."""
    for target in targets:
        if target.parent.is_dir():
            for path in target.parent.iterdir():
                if is_leftover(path, target):
                    _remove(path)


@contextlib.contextmanager
def file_lock(target: Path, *more: Path, work_dir: Path) -> Iterator[None]:
    """Wait until no other process is at `target`, keep it so, and remove what killed processes left beside it.

    Parameters
    ----------
    target : Path
        Its name is that of the lock.
    *more : Path
        What is written under the same lock.
    work_dir : Path
        The lock lies in its folder ``locks``.

    Raises
    ------
    OutputError
        `work_dir` can't be written.
    """
    lock = work_dir / "locks" / f"{target.name}.lock"
    with contextlib.ExitStack() as stack:
        with writing_to(work_dir):
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(lock))
        remove_leftovers(target, *more)
        yield


def write_bytes(target: Path, content: bytes | memoryview) -> None:
    """Write `content` to `target`, atomically.

    Libraries that write a file themselves say of a full disk what only they understand.
    """
    with atomic(target) as path, path.open("wb") as file:
        file.write(content)
        file.flush()
        # Before it gets its name: a power cut would leave an empty file with a good name.
        os.fsync(file.fileno())


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` (UTF-8), atomically."""
    with atomic(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path, content: Any) -> None:
    """Write `content` to `target` as indented JSON, atomically. NaN is refused: JSON has none."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
