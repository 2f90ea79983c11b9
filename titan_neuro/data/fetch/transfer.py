"""Content moved into a clone and freed from it: by DataLad, checked afterwards, with a bar of bytes."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.fetch.session import datalad_session, failure_reason, result_reason
from titan_neuro.data.fetch.tree import TreeFile, total_bytes
from titan_neuro.errors import FetchError

# DataLad's log names the progress of a whole `get` so; that of a single file has a second number.
_TOTAL_PROGRESS = re.compile(r"^annexprogress-\d+$")
_MAX_FAILURES_SHOWN = 5
# After a kill git-annex may once take the lock that the dead process left for a live one's; then it is gone.
_STALE_LOCK = "unable to take transfer lock"
_ATTEMPTS = 2
_IGNORED = re.compile(r"annex-ignore set: ([^)]+)\)")


def free_bytes(directory: Path) -> int:
    """Room on the disk that `directory` lies on, or will."""
    there = next(folder for folder in (directory, *directory.parents) if folder.exists())
    return shutil.disk_usage(there).free


def check_room(directory: Path, n_bytes: int) -> None:
    """See to it that content fits before any of it is fetched.

    Raises
    ------
    FetchError
        It does not.
    """
    free = free_bytes(directory)
    if free < n_bytes:
        raise FetchError(
            f"{directory}: the disk has no room: {human(n_bytes)} are to be fetched, {human(free)} are free.",
            "Fetch fewer subjects or runs, or choose a folder on another disk.",
        )


def get_files(directory: Path, missing: Sequence[TreeFile], n_jobs: int) -> None:
    """Get the content of files of the clone in `directory`, `n_jobs` at a time, with a bar of bytes.

    Raises
    ------
    FetchError
        git-annex is not installed, or files could not be fetched; what could is kept.
    """
    left, reasons = list(missing), {}
    with tqdm(total=total_bytes(missing), desc="Fetching", unit="B", unit_scale=True) as bar:
        for _ in range(_ATTEMPTS):
            reasons = _get_once(directory, [file.path for file in left], n_jobs, bar)
            # What DataLad reports is not taken on trust: the content must be there.
            left = [file for file in left if is_missing(file.path)]
            bar.update(total_bytes(missing) - total_bytes(left) - bar.n)
            if not any(_STALE_LOCK in reason for reason in reasons.values()):
                break
    if left:
        raise FetchError(
            f"{directory}: {len(left)} of {len(missing)} files could not be fetched:\n  "
            + _shown(directory, left, reasons),
            _ignored_places(directory, reasons)
            + "Run the same command again: what has come is kept. `git annex whereis FILE` in the clone says who has a "
            "file; a store that is listed but not enabled is enabled by `git annex enableremote NAME` (OpenNeuro: "
            "s3-PUBLIC).",
        )


def drop_files(directory: Path, present: Sequence[TreeFile]) -> tuple[int, str]:
    """Free content of the clone in `directory` that is elsewhere, too.

    Returns
    -------
    n_bytes : int
        Freed.
    trouble : str
        Which files were kept, and why; empty where all were freed.

    Raises
    ------
    FetchError
        git-annex is not installed, or failed.
    """
    reasons = _drop_once(directory, [file.path for file in present]) if present else {}
    kept = [file for file in present if not is_missing(file.path)]
    kept_keys = {file.key for file in kept}
    freed = [file for file in present if file.key not in kept_keys]
    shown = _shown(directory, kept, reasons)
    trouble = f"{directory}: {len(kept)} of {len(present)} files are kept:\n  {shown}" if kept else ""
    return total_bytes(freed), trouble


def human(n_bytes: int) -> str:
    """Write a number of bytes for the reader: ``27.6GB``."""
    return str(tqdm.format_sizeof(n_bytes, suffix="B", divisor=1000))


class _ByteProgress(logging.Handler):
    """Draw on a bar what DataLad's log says of the bytes that have come since this handler was made."""

    def __init__(self, bar: tqdm) -> None:
        super().__init__()
        self._bar = bar
        self._before = bar.n

    def emit(self, record: logging.LogRecord) -> None:
        update = getattr(record, "dlm_progress_update", None)
        if update is not None and _TOTAL_PROGRESS.match(str(getattr(record, "dlm_progress", ""))):
            self._bar.update(self._before + int(update) - self._bar.n)


def _ignored_places(directory: Path, reasons: Mapping[Path, str]) -> str:
    """Advice on places that git-annex asks no more because they did not answer once: it never tries again by itself."""
    names = {name for reason in reasons.values() for found in _IGNORED.findall(reason) for name in found.split()}
    commands = [
        f"`git -C {directory} config --unset remote.{name}.annex-ignore`" for name in sorted(names - {"origin"})
    ]
    return f"A place that did not answer is asked again after {' and '.join(commands)}. " if commands else ""


def _shown(directory: Path, files: Sequence[TreeFile], reasons: dict[Path, str]) -> str:
    lines = [f"{file.path.relative_to(directory)}: {reasons.get(file.path, 'no reason given')}" for file in files]
    more = len(lines) - _MAX_FAILURES_SHOWN
    return "\n  ".join(lines[:_MAX_FAILURES_SHOWN] + ([f"and {more} more"] if more > 0 else []))


def _drop_once(directory: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """Let DataLad drop content; why each was kept that was."""
    with datalad_session() as datalad:
        from datalad.support.exceptions import CommandError, IncompleteResultsError

        try:
            datalad.drop(path=[str(path) for path in paths], dataset=str(directory), result_renderer="disabled")
        except IncompleteResultsError as error:
            return {Path(result["path"]): result_reason(result) for result in error.failed or ()}
        except CommandError as error:
            raise FetchError(f"{directory}: git-annex failed: {failure_reason(error)}") from error
    return {}


def _get_once(directory: Path, paths: Sequence[Path], n_jobs: int, bar: tqdm) -> dict[Path, str]:
    """Let DataLad get files; why each of those failed that did."""
    with datalad_session() as datalad:
        from datalad.support.exceptions import CommandError, IncompleteResultsError

        logging.getLogger("datalad").addHandler(_ByteProgress(bar))
        try:
            datalad.get(
                path=[str(path) for path in paths], dataset=str(directory), jobs=n_jobs, result_renderer="disabled"
            )
        except IncompleteResultsError as error:
            return {Path(result["path"]): result_reason(result) for result in error.failed or ()}
        except CommandError as error:
            raise FetchError(f"{directory}: git-annex failed: {failure_reason(error)}") from error
    return {}
