"""Fetch what the later stages need of a DataLad dataset: clone it, then get the chosen recordings and nothing else."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from titan_neuro.data.annex import annex_key, dataset_id, is_missing, parse_dataset_id
from titan_neuro.data.fetch.plan import WantedFile, find_wanted, total_bytes
from titan_neuro.data.fetch.session import datalad_session, dataset_lock, failure_reason, result_reason
from titan_neuro.errors import FetchError, InputNotFoundError, OutputError
from titan_neuro.files import atomic, remove_leftovers

_log = logging.getLogger(__name__)
_ACCESSION = re.compile(r"^ds\d{6}$")
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://|^[^/]+@[^/]+:")
# DataLad's log names the progress of a whole `get` so; that of a single file has a second number.
_TOTAL_PROGRESS = re.compile(r"^annexprogress-\d+$")
_MAX_FAILURES_SHOWN = 5
# After a kill git-annex may once take the lock that the dead process left for a live one's; then it is gone.
_STALE_LOCK = "unable to take transfer lock"
_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """What was chosen of a dataset, and what of it had to be fetched (or would have, in a dry run).

    Attributes
    ----------
    source, directory : str, Path
        Where it comes from (a URL or a path), and where the clone is.
    dataset_id : str or None
        DataLad's identity of the dataset, where it has one.
    n_subjects, n_runs : int
        Subjects and BOLD images chosen.
    n_files, n_bytes : int
        Annexed files chosen (images, masks), and the bytes they hold.
    n_files_to_get, n_bytes_to_get : int
        Those whose content was not on this machine when the call began.
    """

    source: str
    directory: Path
    dataset_id: str | None
    n_subjects: int
    n_runs: int
    n_files: int
    n_bytes: int
    n_files_to_get: int
    n_bytes_to_get: int

    def describe(self) -> str:
        """One line for the reader."""
        return (
            f"subjects: {self.n_subjects}, runs: {self.n_runs}, files: {self.n_files} ({_human(self.n_bytes)}); "
            f"to be fetched: {self.n_files_to_get} ({_human(self.n_bytes_to_get)})."
        )


def fetch(
    source: str,
    directory: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    n_jobs: int = 4,
    dry_run: bool = False,
) -> FetchSummary:
    """Clone a DataLad dataset where it is not cloned yet, and get its BOLD images, brain masks and tables.

    What is present is skipped, so an interrupted call is taken up by the next. Content is verified by its checksum.

    Parameters
    ----------
    source : str
        A URL, a path, or an OpenNeuro accession number such as ``ds003017``.
    directory : Path
        Where the clone is, or is to be.
    subjects, tasks, runs : sequence of str, optional
        Labels to keep, with or without ``sub-``, ``task-``, ``run-``.
    n_jobs : int
        Files transferred at a time.
    dry_run : bool
        Say what would be fetched, and leave nothing behind.

    Raises
    ------
    InputNotFoundError, OutputError, NoMatchError
        No such path; `directory` holds something else; nothing matches the filter.
    FetchError
        git-annex is not installed; the source can't be cloned; the disk has no room; files could not be fetched.
    """
    url = _resolve(source)
    directory = directory.resolve()
    cloned = _is_clone(url, directory)
    if dry_run and not cloned:
        with tempfile.TemporaryDirectory() as scratch:
            clone = Path(scratch, "dataset")
            _clone(url, clone)
            files = find_wanted(clone, subjects=subjects, tasks=tasks, runs=runs)
            return _summary(source, directory, files, identity=dataset_id(clone))
    if not cloned:
        with dataset_lock(directory):
            # Another process may have cloned it while this one waited for the lock.
            if not _is_clone(url, directory):
                remove_leftovers(directory)
                with atomic(directory) as temporary:
                    _clone(url, temporary)
    files = find_wanted(directory, subjects=subjects, tasks=tasks, runs=runs)
    summary = _summary(source, directory, files, identity=dataset_id(directory))
    if not dry_run and summary.n_files_to_get:
        _check_room(directory, summary.n_bytes_to_get)
        _get(directory, [file for file in files if file.missing], n_jobs)
    return summary


def get_content(paths: Sequence[Path], *, n_jobs: int = 4) -> int:
    """Get the content of files of DataLad clones, where it is not on this machine yet.

    Parameters
    ----------
    paths : sequence of Path
        Files of one clone or several; those whose content is present, or that git-annex does not hold, are passed over.
    n_jobs : int
        Files transferred at a time.

    Returns
    -------
    int
        Files that were got.

    Raises
    ------
    FetchError
        git-annex is not installed; the disk has no room; files could not be fetched.
    """
    missing: dict[Path, list[WantedFile]] = {}
    for path in dict.fromkeys(path.absolute() for path in paths):
        clone = next((parent for parent in path.parents if (parent / ".git").exists()), None)
        if clone is not None and is_missing(path):
            wanted = WantedFile(path=path, entities={}, recording=False, key=annex_key(path), missing=True)
            missing.setdefault(clone, []).append(wanted)
    for clone, files in missing.items():
        _log.info("%s: getting %d files (%s).", clone, len(files), _human(total_bytes(files)))
        _check_room(clone, total_bytes(files))
        _get(clone, files, n_jobs)
    return sum(map(len, missing.values()))


def drop(
    directory: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
) -> int:
    """Free the room of what `fetch` got: content that git-annex knows to be elsewhere, too. The names stay.

    Parameters
    ----------
    directory : Path
        A clone.
    subjects, tasks, runs : sequence of str, optional
        Labels to keep to, as for `fetch`.

    Returns
    -------
    int
        Bytes freed.

    Raises
    ------
    InputNotFoundError, NoMatchError
        `directory` is no clone; nothing matches the filter.
    FetchError
        git-annex is not installed, or content is nowhere else, as far as can be verified: that is kept, the rest freed.
    """
    if not (directory / ".git").exists():
        raise InputNotFoundError(f"{directory}: is no clone of a dataset, so nothing can be freed in it.")
    directory = directory.resolve()
    wanted = find_wanted(directory, subjects=subjects, tasks=tasks, runs=runs)
    present = [file for file in wanted if file.key and not file.missing]
    reasons = _drop_once(directory, [file.path for file in present]) if present else {}
    kept = [file for file in present if not is_missing(file.path)]
    freed = total_bytes([file for file in present if file not in kept])
    _log.info("%s: freed %d files (%s).", directory, len(present) - len(kept), _human(freed))
    if kept:
        raise FetchError(
            f"{directory}: {len(kept)} of {len(present)} files are kept:\n  {_shown(directory, kept, reasons)}",
            "git-annex drops only what it finds elsewhere. Is the place that the dataset came from within reach? "
            "`git annex whereis FILE` in the clone says who has a file.",
        )
    return freed


def _resolve(source: str) -> str:
    if _URL.match(source):
        return source
    path = Path(source).expanduser()
    if _ACCESSION.match(source) and not path.exists():
        return f"https://github.com/OpenNeuroDatasets/{source}"
    if not path.exists():
        raise InputNotFoundError(
            f"{source}: no such dataset: neither a folder, nor a URL, nor an accession number such as ds003017."
        )
    return str(path.resolve())


def _is_clone(url: str, directory: Path) -> bool:
    """Whether `directory` holds a clone of `url` already; False where it is free."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    if not (directory / ".git").exists():
        raise OutputError(f"{directory}: exists, and is no clone of {url}.", "Choose another folder.")
    if str(directory) == url:
        return True
    origin = _git("-C", str(directory), "config", "remote.origin.url")
    same_origin = _bare_url(origin) == _bare_url(url)
    if same_origin and _URL.match(url):
        return True
    here, there = dataset_id(directory), _source_id(url)
    if here != there or (here is None and not same_origin):
        raise OutputError(
            f"{directory}: holds another dataset: expected {there or url}, found {here or origin or 'no origin'}.",
            "Choose another folder.",
        )
    return True


def _bare_url(url: str) -> str:
    # DataLad clones from URL/.git where URL alone is no repository, and records that.
    return url.rstrip("/").removesuffix("/.git").removesuffix(".git")


def _source_id(url: str) -> str | None:
    if not _URL.match(url):
        # A source may be a bare repository, which has no working tree to read.
        return parse_dataset_id(_git("-C", url, "show", "HEAD:.datalad/config"))
    with tempfile.TemporaryDirectory() as scratch:
        _clone(url, Path(scratch, "dataset"))
        return dataset_id(Path(scratch, "dataset"))


def _git(*arguments: str) -> str:
    """Output of a git query; empty where git has no answer."""
    return subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8").stdout.strip()


def _clone(url: str, path: Path) -> None:
    _log.info("Cloning %s (names and sidecars; no images yet).", url)
    with datalad_session() as datalad:
        from datalad.support.exceptions import CommandError, IncompleteResultsError

        try:
            datalad.clone(source=url, path=str(path), description="Fetched by Titan-Neuro", result_renderer="disabled")
        except (CommandError, IncompleteResultsError) as error:
            raise FetchError(
                f"{url}: can't be cloned: {failure_reason(error)}",
                "Check the address and the network; a folder must be a git or DataLad repository.",
            ) from error


def _summary(source: str, directory: Path, files: Sequence[WantedFile], identity: str | None) -> FetchSummary:
    annexed = [file for file in files if file.key]
    missing = [file for file in annexed if file.missing]
    recordings = [file for file in files if file.recording]
    summary = FetchSummary(
        source=source,
        directory=directory,
        dataset_id=identity,
        n_subjects=len({file.entities["sub"] for file in recordings}),
        n_runs=len(recordings),
        n_files=len(annexed),
        n_bytes=total_bytes(annexed),
        n_files_to_get=len(missing),
        n_bytes_to_get=total_bytes(missing),
    )
    _log.info("%s: %s", directory, summary.describe())
    return summary


def _check_room(directory: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < n_bytes:
        raise FetchError(
            f"{directory}: the disk has no room: {_human(n_bytes)} are to be fetched, {_human(free)} are free.",
            "Fetch fewer subjects or runs, or choose a folder on another disk.",
        )


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


def _get(directory: Path, missing: Sequence[WantedFile], n_jobs: int) -> None:
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
            "Run the same command again: what has come is kept. `git annex whereis FILE` in the clone says who has a "
            "file; a store that is listed but not enabled is enabled by `git annex enableremote NAME` (OpenNeuro: "
            "s3-PUBLIC).",
        )


def _shown(directory: Path, files: Sequence[WantedFile], reasons: dict[Path, str]) -> str:
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


def _human(n_bytes: int) -> str:
    return str(tqdm.format_sizeof(n_bytes, suffix="B", divisor=1000))
