"""The plan of a fetch: the files of one dataset to be fetched, and their summary."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_neuro.data.bids.annex import dataset_id
from titan_neuro.data.fetch.clone import commit_of
from titan_neuro.data.fetch.disk_space import format_bytes
from titan_neuro.data.fetch.plan import WantedFile, find_wanted
from titan_neuro.data.fetch.survey import Survey, survey
from titan_neuro.data.fetch.tree import read_tree, total_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """The selected files of a dataset, and those that had to be fetched (or would have to be, in a dry run).

    Attributes
    ----------
    source : str
        URL, path or accession number of the dataset.
    directory : Path
        Folder of the clone.
    dataset_id : str or None
        DataLad's id of the dataset; None if it has none.
    commit : str
        Full hash of the commit that is checked out.
    whole : Survey
        The whole dataset.
    n_subjects, n_runs : int
        Selected subjects and recordings.
    n_files, n_bytes : int
        Selected annexed files, and their size.
    n_files_to_get, n_bytes_to_get : int
        Selected files whose content was not on this machine when the call started, and their size.
    derivative : FetchSummary or None
        The same for the derivative dataset that is fetched with it.
    """

    source: str
    directory: Path
    dataset_id: str | None
    commit: str
    whole: Survey
    n_subjects: int
    n_runs: int
    n_files: int
    n_bytes: int
    n_files_to_get: int
    n_bytes_to_get: int
    derivative: FetchSummary | None = None

    def describe(self) -> str:
        """Return the selection in one line."""
        return (
            f"subjects: {self.n_subjects}, runs: {self.n_runs}, files: {self.n_files} ({format_bytes(self.n_bytes)}); "
            f"to be fetched: {self.n_files_to_get} ({format_bytes(self.n_bytes_to_get)})."
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """The files to be fetched into one clone.

    Attributes
    ----------
    clone : Path
        The working tree that was read.
    recordings, missing : sequence of WantedFile
        The recordings of the selected runs; the selected annexed files whose content is not on this machine.
    summary : FetchSummary
    """

    clone: Path
    recordings: Sequence[WantedFile]
    missing: Sequence[WantedFile]
    summary: FetchSummary


def plan_job(
    source: str,
    directory: Path,
    clone: Path,
    labels: Mapping[str, Sequence[str] | None],
    *,
    with_images: bool = True,
) -> Job:
    """Select files of a clone, and log the description of the dataset and of the selection.

    Parameters
    ----------
    source : str
        URL, path or accession number of the dataset.
    directory : Path
        Folder of the clone, existing or new.
    clone : Path
        The working tree to read; in a dry run it may be temporary.
    labels : mapping of str
        Labels to select: `subjects`, `tasks`, `runs` of `find_wanted`.
    with_images : bool
        Whether images are fetched, or only tables and sidecars.

    Raises
    ------
    NoMatchError
        Nothing matches.
    """
    # Said before anything is read: the sidecars of large datasets take a minute.
    _log.info("%s: reading names and sidecars.", directory)
    tree = read_tree(clone)
    selected = find_wanted(clone, tree, **labels)
    recordings = [file for file in selected if file.recording]
    wanted = [file for file in selected if file.key and (with_images or not file.is_image)]
    missing = [file for file in wanted if file.missing]
    summary = FetchSummary(
        source=source,
        directory=directory,
        dataset_id=dataset_id(clone),
        commit=commit_of(clone),
        whole=survey(tree, find_wanted(clone, tree)),
        n_subjects=len({file.entities["sub"] for file in recordings}),
        n_runs=len(recordings),
        n_files=len(wanted),
        n_bytes=total_bytes(wanted),
        n_files_to_get=len(missing),
        n_bytes_to_get=total_bytes(missing),
    )
    _log.info("%s, commit %s: %s.", directory, summary.commit or "(none)", summary.whole.describe())
    _log.info("Selected: %s", summary.describe())
    return Job(clone=clone, recordings=recordings, missing=missing, summary=summary)
