"""Transfers of content into a clone and out of it: by DataLad, verified afterwards, with a progress bar."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.fetch.locations import fetch_locations
from titan_neuro.data.fetch.session import datalad_session, failure_reason, result_reason
from titan_neuro.data.fetch.tree import TreeFile, total_bytes
from titan_neuro.errors import FetchError

# DataLad's name for the progress of a whole `get`; the progress of a single file has a second number.
_TOTAL_PROGRESS = re.compile(r"^annexprogress-\d+$")
_MAX_LISTED = 5
# After a kill git-annex may take the dead process's lock for a live one, once; a second attempt succeeds.
_STALE_LOCK = "unable to take transfer lock"
_ATTEMPTS = 2
_IGNORED = re.compile(r"annex-ignore set: ([^)]+)\)")


def get_files(directory: Path, missing: Sequence[TreeFile], n_jobs: int) -> None:
    """Get the content of files of the clone in `directory`, with a progress bar.

    Parameters
    ----------
    directory : Path
        Root of the clone.
    missing : sequence of TreeFile
    n_jobs : int
        Number of parallel transfers.

    Raises
    ------
    FetchError
        git-annex is not installed; the clone lacks git-annex's branch, and can't get it; or some files could not be
        fetched, and the others are kept.
    """
    fetch_locations(directory)
    remaining, reasons = list(missing), {}
    with tqdm(total=total_bytes(missing), desc="Fetching", unit="B", unit_scale=True) as bar:
        for _ in range(_ATTEMPTS):
            reasons = _get_once(directory, [file.path for file in remaining], n_jobs, bar)
            # DataLad's report alone is not trusted: the content must be present.
            remaining = [file for file in remaining if is_missing(file.path)]
            bar.update(total_bytes(missing) - total_bytes(remaining) - bar.n)
            if not any(_STALE_LOCK in reason for reason in reasons.values()):
                break
    if remaining:
        raise FetchError(
            f"{directory}: {len(remaining)} of {len(missing)} files could not be fetched:\n  "
            + _list_files(directory, remaining, reasons),
            _advice_on_ignored_remotes(directory, reasons)
            + "Run the same command again: fetched files are kept. `git annex whereis FILE` in the clone lists the "
            "copies of a file; a remote that is listed but not enabled is enabled by `git annex enableremote NAME` "
            "(OpenNeuro: s3-PUBLIC).",
        )


def drop_files(directory: Path, present: Sequence[TreeFile]) -> tuple[int, str]:
    """Free the content of files of the clone in `directory` that has a copy elsewhere.

    Returns
    -------
    n_bytes : int
        Size of the freed content.
    problem : str
        The files that were kept, with the reasons; empty if all were freed.

    Raises
    ------
    FetchError
        git-annex is not installed, or failed.
    """
    reasons = _drop_once(directory, [file.path for file in present]) if present else {}
    kept = [file for file in present if not is_missing(file.path)]
    kept_keys = {file.key for file in kept}
    freed = [file for file in present if file.key not in kept_keys]
    listed = _list_files(directory, kept, reasons)
    problem = f"{directory}: {len(kept)} of {len(present)} files are kept:\n  {listed}" if kept else ""
    return total_bytes(freed), problem


class _ByteProgress(logging.Handler):
    """Update a progress bar from DataLad's log."""

    def __init__(self, bar: tqdm) -> None:
        super().__init__()
        self._bar = bar
        self._initial = bar.n

    def emit(self, record: logging.LogRecord) -> None:
        update = getattr(record, "dlm_progress_update", None)
        if update is not None and _TOTAL_PROGRESS.match(str(getattr(record, "dlm_progress", ""))):
            self._bar.update(self._initial + int(update) - self._bar.n)


def _advice_on_ignored_remotes(directory: Path, reasons: Mapping[Path, str]) -> str:
    """Return how to enable remotes again that did not answer once: git-annex itself never tries them again."""
    lists = [names for reason in reasons.values() for names in _IGNORED.findall(reason)]
    remotes = {name for names in lists for name in names.split()} - {"origin"}
    commands = [f"`git -C {directory} config --unset remote.{name}.annex-ignore`" for name in sorted(remotes)]
    return f"A remote that did not answer is tried again after {' and '.join(commands)}. " if commands else ""


def _list_files(directory: Path, files: Sequence[TreeFile], reasons: dict[Path, str]) -> str:
    lines = [f"{file.path.relative_to(directory)}: {reasons.get(file.path, 'no reason given')}" for file in files]
    n_more = len(lines) - _MAX_LISTED
    return "\n  ".join(lines[:_MAX_LISTED] + ([f"and {n_more} more"] if n_more > 0 else []))


def _drop_once(directory: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """Drop content; return the reason for each file that was kept."""
    with datalad_session() as datalad:
        return _failures(directory, datalad.drop, paths)


def _get_once(directory: Path, paths: Sequence[Path], n_jobs: int, bar: tqdm) -> dict[Path, str]:
    """Get content; return the reason for each file that failed."""
    with datalad_session() as datalad:
        logging.getLogger("datalad").addHandler(_ByteProgress(bar))
        return _failures(directory, functools.partial(datalad.get, jobs=n_jobs), paths)


def _failures(directory: Path, command: Callable[..., object], paths: Sequence[Path]) -> dict[Path, str]:
    """Run a DataLad command on files; return the reason for each file that failed."""
    from datalad.support.exceptions import CommandError, IncompleteResultsError

    try:
        command(path=[str(path) for path in paths], dataset=str(directory), result_renderer="disabled")
    except IncompleteResultsError as error:
        return {Path(result["path"]): result_reason(result) for result in error.failed or ()}
    except CommandError as error:
        raise FetchError(f"{directory}: git-annex failed: {failure_reason(error)}") from error
    return {}
