"""Sessions of DataLad's Python API: with git-annex on PATH, with a git identity, and without output of its own."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from titan_neuro.errors import FetchError, OutputError
from titan_neuro.files import atomic, make_folder, remove_leftovers

_log = logging.getLogger(__name__)
_IDENTITY = {"name": "Titan-Neuro", "email": "titan-neuro@localhost"}


class _Forward(logging.Handler):
    """Log DataLad's own messages at debug level; its progress records are no messages."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "dlm_progress"):
            _log.debug("%s: %s", record.name, record.getMessage())


@contextlib.contextmanager
def datalad_session() -> Iterator[ModuleType]:
    """Provide `datalad.api` in a ``with`` block: silent, and with git-annex on ``PATH``.

    Environment variables, log handlers and DataLad's user interface are restored at the end.

    Yields
    ------
    module
        `datalad.api`.

    Raises
    ------
    FetchError
        git or git-annex is not installed.
    """
    with _environment(), warnings.catch_warnings():
        # DataLad leaves the pipes of its processes to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        import datalad.api
        from datalad.ui import ui

        logger = logging.getLogger("datalad")
        before = (logger.handlers[:], logger.level, logger.propagate, ui.backend)
        # DataLad reports progress, which `fetch` displays, at level INFO.
        logger.handlers, logger.propagate = [_Forward()], False
        logger.setLevel(logging.INFO)
        # The backend for a terminal would ask for passwords and draw its own bars.
        ui.set_backend("no-progress")
        try:
            yield datalad.api
        finally:
            logger.handlers, level, logger.propagate, backend = before
            logger.setLevel(level)
            ui.set_backend(backend)
            gc.collect()


def make_dataset_once(directory: Path, *, exists: Callable[[], bool], make: Callable[[Path], None]) -> None:
    """Make a dataset in `directory`, unless it exists; of several processes one makes it, the others wait.

    Parameters
    ----------
    directory : Path
        Root of the dataset.
    exists : callable
        Whether `directory` holds the dataset. It raises an error where the folder holds something else.
    make : callable
        Writes the dataset to a temporary folder, which is then renamed.

    Raises
    ------
    OutputError
        The folder above `directory` can't be written.
    """
    if exists():
        return
    with _dataset_lock(directory):
        # Another process may have made it while this one waited for the lock.
        if not exists():
            remove_leftovers(directory)
            with atomic(directory) as temporary:
                make(temporary)


@contextlib.contextmanager
def _dataset_lock(directory: Path) -> Iterator[None]:
    lock = FileLock(directory.with_name(f".{directory.name}.lock"))
    try:
        make_folder(directory.parent)
        lock.acquire()
    except OSError as error:
        raise OutputError(
            f"{directory.parent}: can't be written: {error.strerror or error}.", "Choose another folder."
        ) from error
    try:
        yield
    finally:
        # While it is held: who waits for it sees that the file is gone, and makes another.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def failure_reason(error: Exception) -> str:
    """Return why a DataLad command failed, in one line: git's fatal errors, else the first message."""
    failed = getattr(error, "failed", None) or ()
    text = next((text for text in map(_message, failed) if text), str(error))
    fatal = dict.fromkeys(line.strip(" '") for line in re.findall(r"fatal: ([^\n\]]+)", text))
    return _one_line("; ".join(fatal) or text)


def result_reason(result: dict[str, Any]) -> str:
    """Return DataLad's message about one result and git-annex's error messages, in one line."""
    return _one_line(_message(result))


def _message(result: dict[str, Any]) -> str:
    message = result.get("message") or ""
    if isinstance(message, tuple):
        message = message[0] % message[1:]
    reported = (message, result.get("error_message"), *result.get("error-messages", ()))
    return "\n".join(str(part) for part in reported if part)


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    changed = {"GIT_TERMINAL_PROMPT": "0", "PATH": _path_with_git_annex()}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        with _identity():
            yield
    finally:
        _restore(before)


def _path_with_git_annex() -> str:
    # Programs of the Python environment are found even if it was not activated.
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    for program in ("git", "git-annex"):
        if shutil.which(program, path=path) is None:
            raise FetchError(
                f"{program} was not found on PATH, nor in {scripts}.",
                "Install git with your system's packages, and git-annex with `pip install git-annex`.",
            )
    return path


@contextlib.contextmanager
def _identity() -> Iterator[None]:
    """Set an author and a committer where git's configuration has none: commits, git-annex's too, need both."""
    changed = {
        f"GIT_{role}_{field.upper()}": default
        for field, default in _IDENTITY.items()
        if not subprocess.run(["git", "config", f"user.{field}"], capture_output=True).stdout.strip()
        for role in ("AUTHOR", "COMMITTER")
    }
    changed = {name: os.environ.get(name, default) for name, default in changed.items()}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
