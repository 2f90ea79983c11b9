"""Fetch a DataLad dataset: clone it, then get the content of the selected recordings and of nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from titan_neuro.data.bids.annex import uninstalled_subdatasets
from titan_neuro.data.fetch.clone import hide, install_subdataset, working_tree
from titan_neuro.data.fetch.disk_space import disk_space, format_bytes
from titan_neuro.data.fetch.job import FetchSummary, Job, plan_job
from titan_neuro.data.fetch.plan import find_wanted
from titan_neuro.data.fetch.registry import (
    REGISTRY,
    DerivativeKind,
    Published,
    RegistryEntry,
    find_derivative,
    find_entry,
)
from titan_neuro.data.fetch.transfer import drop_files, get_files
from titan_neuro.data.fetch.tree import TreeFile, is_clone, nested_clones, read_tree, total_bytes, tree_file
from titan_neuro.errors import FetchError, InputNotFoundError, NoMatchError, OutputError
from titan_neuro.files import inside

_log = logging.getLogger(__name__)
_MAX_LISTED = 5


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
    """Clone a DataLad dataset, unless it is cloned already, and get the files that later stages need (`find_wanted`).

    Content that is present is skipped, so a second call resumes an interrupted one. Content is verified by checksums.

    Parameters
    ----------
    source : str
        A URL, a path, or an OpenNeuro accession number such as ``ds003017``.
    directory : Path
        Folder of the clone, existing or new.
    subjects, tasks, runs : sequence of str, optional
        Labels to select, with or without ``sub-``, ``task-``, ``run-``.
    derivative : {"transforms", "fmriprep"}, optional
        Derivative dataset to fetch as well, into its own clone in ``derivatives/`` of `directory`; of datasets in the
        registry only. Preprocessed BOLD (``fmriprep``) replaces the raw images, which are then not fetched.
    n_jobs : int
        Number of parallel transfers.
    dry_run : bool
        Report what would be fetched, and leave nothing behind.
    registry : mapping of str to RegistryEntry
        Datasets by their accession numbers.

    Returns
    -------
    FetchSummary

    Raises
    ------
    UsageError, InputNotFoundError, OutputError, NoMatchError
        The registry has no such derivative; no such path; `directory` holds another dataset or commit; no match.
    FetchError
        git-annex is not installed; the source can't be cloned; the disk is too full; files could not be fetched.
    """
    directory = directory.resolve()
    entry = find_entry(source, directory, registry)
    published = find_derivative(entry, derivative, source, registry) if derivative else None
    labels = {"subjects": subjects, "tasks": tasks, "runs": runs}
    with contextlib.ExitStack() as stack:
        clone = stack.enter_context(working_tree(entry.raw, directory, dry_run=dry_run))
        jobs = [plan_job(source, directory, clone, labels, with_images=derivative != "fmriprep")]
        if derivative and published:
            jobs.append(_plan_derivative(published, directory, labels, stack, dry_run=dry_run))
            _warn_of_missing_runs(jobs[0], jobs[1], derivative)
        _get_missing(directory, jobs, n_jobs, dry_run=dry_run)
    if published:
        _log.info("For the next stage: -d %s", directory / "derivatives" / published.name / published.root)
    summary = jobs[0].summary
    return dataclasses.replace(summary, derivative=jobs[1].summary) if published else summary


def get_content(paths: Sequence[Path], *, n_jobs: int = 4) -> int:
    """Get the content of files of DataLad clones that is not on this machine yet, and install subdatasets.

    Parameters
    ----------
    paths : sequence of Path
        Files of one or several clones, also nested ones. Files that are present or not annexed are skipped. Folders of
        subdatasets that are not installed are installed, without content.
    n_jobs : int
        Number of parallel transfers.

    Returns
    -------
    int
        Number of fetched files and installed subdatasets.

    Raises
    ------
    FetchError
        git-annex is not installed; the disk is too full; files could not be fetched.
    """
    missing: dict[Path, list[TreeFile]] = {}
    # An annexed file is a link or a file; the folder of a subdataset is empty, or git has not even made it.
    folders = {path for path in paths if path.is_dir() or not (path.exists() or path.is_symlink())}
    uninstalled = [path for path in sorted(folders) if path in uninstalled_subdatasets(path)]
    for folder in uninstalled:
        install_subdataset(folder)
    for path in dict.fromkeys(path.absolute() for path in paths if path not in folders):
        # In nested clones a file belongs to the innermost.
        clone = next((parent for parent in path.parents if is_clone(parent)), None)
        if clone is not None and (file := tree_file(path, clone)).missing:
            missing.setdefault(clone, []).append(file)
    for clone, files in missing.items():
        _log.info("%s: getting %d files (%s).", clone, len(files), format_bytes(total_bytes(files)))
        disk_space(clone, [(clone, files)]).require()
        get_files(clone, files, n_jobs)
    return len(uninstalled) + sum(map(len, missing.values()))


def drop(
    directory: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
) -> int:
    """Free the content that `fetch` would fetch, in a clone and its nested clones.

    File names stay. git-annex frees only content that it can verify elsewhere.

    Parameters
    ----------
    directory : Path
        Root of a clone.
    subjects, tasks, runs : sequence of str, optional
        Labels to select, as for `fetch`.

    Returns
    -------
    int
        Freed bytes.

    Raises
    ------
    InputNotFoundError, NoMatchError
        `directory` is no clone; nothing matches the labels.
    FetchError
        git-annex is not installed; or some content has no verifiable copy, and is kept, while the rest is freed.
    """
    directory = directory.resolve()
    if not is_clone(directory):
        raise InputNotFoundError(f"{directory}: is no clone of a dataset, so nothing can be freed in it.")
    n_freed, problems = 0, []
    for clone in (directory, *nested_clones(directory)):
        try:
            wanted = find_wanted(clone, read_tree(clone), subjects=subjects, tasks=tasks, runs=runs)
        except NoMatchError:
            if clone == directory:
                raise
            # A nested clone may be of another dataset, or of other subjects.
            continue
        present = [file for file in wanted if file.key and not file.missing]
        n_bytes, problem = drop_files(clone, present)
        _log.info("%s: freed %s.", clone, format_bytes(n_bytes))
        n_freed += n_bytes
        problems += [problem] if problem else []
    if problems:
        raise FetchError(
            "\n".join(problems),
            "git-annex drops only content that it can verify elsewhere. Is the dataset's source reachable? "
            "`git annex whereis FILE` in the clone lists the copies of a file.",
        )
    return n_freed


def _plan_derivative(
    published: Published,
    directory: Path,
    labels: Mapping[str, Sequence[str] | None],
    stack: contextlib.ExitStack,
    *,
    dry_run: bool,
) -> Job:
    """Clone a derivative dataset into its own folder in the dataset, and select its files."""
    # The dataset may hold a link of that name, which git has made.
    folder = inside(
        directory,
        f"derivatives/{published.name}",
        hint="A folder of that path is a link: remove it, or fetch the derivative by its own address.",
        error=OutputError,
    )
    if not dry_run:
        hide(directory, folder)
    clone = stack.enter_context(working_tree(published, folder, dry_run=dry_run))
    return plan_job(published.url, folder, clone, labels)


def _warn_of_missing_runs(raw: Job, derivative: Job, kind: DerivativeKind) -> None:
    available = {file.run_key for file in derivative.recordings}
    missing = [file.path.name for file in raw.recordings if file.run_key not in available]
    if missing:
        listed = ", ".join(missing[:_MAX_LISTED]) + (", ..." if len(missing) > _MAX_LISTED else "")
        _log.warning("%d of %d runs have no %s: %s.", len(missing), len(raw.recordings), kind, listed)


def _get_missing(directory: Path, jobs: Sequence[Job], n_jobs: int, *, dry_run: bool) -> None:
    space = disk_space(directory, [(job.clone, job.missing) for job in jobs])
    _log.info("%s", space.describe())
    if dry_run:
        return
    space.require()
    for job in jobs:
        if job.missing:
            get_files(job.clone, job.missing, n_jobs)
