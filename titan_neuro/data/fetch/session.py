"""DataLad's Python API made ready for use: git-annex found, a git identity at hand, nothing printed."""

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
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from titan_neuro.errors import FetchError, OutputError

_log = logging.getLogger(__name__)
_IDENTITY = {"name": "Titan-Neuro", "email": "titan-neuro@localhost"}


class _Forward(logging.Handler):
    """Hand DataLad's own messages to our log, at debug level; progress is not a message."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "dlm_progress"):
            _log.debug("%s: %s", record.name, record.getMessage())


@contextlib.contextmanager
def datalad_session() -> Iterator[ModuleType]:
    """Give `datalad.api`, silent, with git-annex on ``PATH``, for the length of a ``with`` block.

    The environment variables, the log handlers and the user interface that DataLad had before are put back at the end.

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
        # INFO is the level at which DataLad reports progress, which `fetch` listens to.
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


@contextlib.contextmanager
def dataset_lock(directory: Path) -> Iterator[None]:
    """Keep other processes from making the dataset `directory` for the length of a ``with`` block.

    Raises
    ------
    OutputError
        The folder above `directory` can't be written.
    """
    lock = FileLock(directory.with_name(f".{directory.name}.lock"))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise OutputError(
            f"{directory.parent}: can't be written: {error.strerror or error}.", "Choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def failure_reason(error: Exception) -> str:
    """Why a DataLad command failed, in one line: what git called fatal, else the first message there is."""
    failed = getattr(error, "failed", None) or ()
    text = next((text for text in map(_message, failed) if text), str(error))
    fatal = dict.fromkeys(line.strip(" '") for line in re.findall(r"fatal: ([^\n\]]+)", text))
    return _one_line("; ".join(fatal) or text)


def result_reason(result: dict[str, Any]) -> str:
    """What DataLad says of one result: its message and what git-annex reported, in one line."""
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
    # The environment's own programs are found even when it was not activated.
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
    """Name an author and a committer where git knows none: commits (git-annex's own, too) fail without."""
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
