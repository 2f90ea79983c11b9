"""Fetch what the later stages need of a DataLad dataset: clone it, then get the chosen recordings and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from titan_neuro.data.fetch.clone import hide, working_tree
from titan_neuro.data.fetch.job import FetchSummary, Job, plan_job
from titan_neuro.data.fetch.plan import find_wanted
from titan_neuro.data.fetch.registry import REGISTRY, DerivativeKind, RegistryEntry, find_derivative, find_entry
from titan_neuro.data.fetch.transfer import check_room, drop_files, free_bytes, get_files, human
from titan_neuro.data.fetch.tree import TreeFile, is_clone, nested_clones, read_tree, total_bytes, tree_file
from titan_neuro.errors import FetchError, InputNotFoundError, NoMatchError

_log = logging.getLogger(__name__)
_MAX_SHOWN = 5


def fetch(
    source: str,
    directory: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    derivative: DerivativeKind | None = None,
    n_jobs: int = 4,
    dry_run: bool = False,
    registry: Mapping[str, RegistryEntry] = REGISTRY,
) -> FetchSummary:
    """Clone a DataLad dataset where it is not cloned yet, and get what the later stages need of it (`find_wanted`).

    What is present is skipped, so an interrupted call is taken up by the next. Content is verified by its checksum.

    Parameters
    ----------
    source : str
        A URL, a path, or an OpenNeuro accession number such as ``ds003017``.
    directory : Path
        Where the clone is, or is to be.
    subjects, tasks, runs : sequence of str, optional
        Labels to keep, with or without ``sub-``, ``task-``, ``run-``.
    derivative : {"transforms", "fmriprep"}, optional
        What to fetch along with a dataset of the registry, into a clone of its own in the folder ``derivatives/`` of
        `directory`. Preprocessed BOLD (``fmriprep``) takes the raw images' place: none of these are fetched then.
    n_jobs : int
        Files transferred at a time.
    dry_run : bool
        Say what would be fetched, and leave nothing behind.
    registry : mapping of str to RegistryEntry
        Datasets known by their accession numbers.

    Raises
    ------
    UsageError
        No such derivative of the dataset is known.
    InputNotFoundError, OutputError, NoMatchError
        No such path; `directory` holds something else, or another commit; nothing matches the filter.
    FetchError
        git-annex is not installed; the source can't be cloned; the disk has no room; files could not be fetched.
    """
    directory = directory.resolve()
    entry = find_entry(source, directory, registry)
    published = find_derivative(entry, derivative, source, registry) if derivative else None
    labels = {"subjects": subjects, "tasks": tasks, "runs": runs}
    with contextlib.ExitStack() as stack:
        clone = stack.enter_context(working_tree(entry.raw, directory, dry_run=dry_run))
        jobs = [plan_job(source, directory, clone, labels, with_images=derivative != "fmriprep")]
        if derivative and published:
            place = directory / "derivatives" / published.name
            if not dry_run:
                hide(directory, place)
            clone = stack.enter_context(working_tree(published, place, dry_run=dry_run))
            jobs.append(plan_job(published.url, place, clone, labels))
            _say_what_lacks(jobs[0], jobs[1], derivative)
        n_bytes = sum(job.summary.n_bytes_to_get for job in jobs)
        _say_room(directory, n_bytes)
        if not dry_run:
            check_room(directory, n_bytes)
            for job in jobs:
                if job.missing:
                    get_files(job.clone, job.missing, n_jobs)
    if published:
        _log.info("Name it to the next stage: -d %s", directory / "derivatives" / published.name / published.root)
    summary = jobs[0].summary
    return dataclasses.replace(summary, derivative=jobs[1].summary) if published else summary


def get_content(paths: Sequence[Path], *, n_jobs: int = 4) -> int:
    """Get the content of files of DataLad clones, where it is not on this machine yet.

    Parameters
    ----------
    paths : sequence of Path
        Files of one clone or several, one within another perhaps; those whose content is present, or that git-annex
        does not hold, are passed over.
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
    missing: dict[Path, list[TreeFile]] = {}
    for path in dict.fromkeys(path.absolute() for path in paths):
        # The nearest clone is the file's own.
        clone = next((parent for parent in path.parents if is_clone(parent)), None)
        if clone is not None and (file := tree_file(path, clone)).missing:
            missing.setdefault(clone, []).append(file)
    for clone, files in missing.items():
        _log.info("%s: getting %d files (%s).", clone, len(files), human(total_bytes(files)))
        check_room(clone, total_bytes(files))
        get_files(clone, files, n_jobs)
    return sum(map(len, missing.values()))


def drop(
    directory: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
) -> int:
    """Free the room of what `fetch` got, in a clone and in those within it: content that is elsewhere, too.

    The names stay; git-annex lets go of nothing that it does not find elsewhere.

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
    directory = directory.resolve()
    if not is_clone(directory):
        raise InputNotFoundError(f"{directory}: is no clone of a dataset, so nothing can be freed in it.")
    freed, troubles = 0, []
    for clone in (directory, *nested_clones(directory)):
        try:
            wanted = find_wanted(clone, read_tree(clone), subjects=subjects, tasks=tasks, runs=runs)
        except NoMatchError:
            if clone == directory:
                raise
            # A clone within may be of something else, or of other subjects.
            continue
        present = [file for file in wanted if file.key and not file.missing]
        n_bytes, trouble = drop_files(clone, present)
        _log.info("%s: freed %s.", clone, human(n_bytes))
        freed += n_bytes
        troubles += [trouble] if trouble else []
    if troubles:
        raise FetchError(
            "\n".join(troubles),
            "git-annex drops only what it finds elsewhere. Is the place that the dataset came from within reach? "
            "`git annex whereis FILE` in the clone says who has a file.",
        )
    return freed


def _say_what_lacks(raw: Job, derivative: Job, kind: DerivativeKind) -> None:
    have = {file.run_key for file in derivative.recordings}
    lacking = [file.path.name for file in raw.recordings if file.run_key not in have]
    if lacking:
        shown = ", ".join(lacking[:_MAX_SHOWN]) + (", ..." if len(lacking) > _MAX_SHOWN else "")
        _log.warning("%d of %d runs have no %s: %s.", len(lacking), len(raw.recordings), kind, shown)


def _say_room(directory: Path, n_bytes: int) -> None:
    free = free_bytes(directory)
    summary = "enough" if free >= n_bytes else "not enough"
    _log.info("Room on the disk: %s bytes are free, %s are to be fetched: %s.", f"{free:,}", f"{n_bytes:,}", summary)
