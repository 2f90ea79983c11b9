"""What is to be got of one dataset, and how that is said."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_neuro.data.bids.annex import dataset_id
from titan_neuro.data.fetch.clone import commit_of
from titan_neuro.data.fetch.plan import WantedFile, find_wanted
from titan_neuro.data.fetch.survey import Survey, survey
from titan_neuro.data.fetch.transfer import human
from titan_neuro.data.fetch.tree import read_tree, total_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """What was chosen of a dataset, and what of it had to be fetched (or would have, in a dry run).

    Attributes
    ----------
    source, directory : str, Path
        Where it comes from (a URL, a path, an accession number), and where the clone is.
    dataset_id : str or None
        DataLad's identity of the dataset, where it has one.
    commit : str
        Full hash of the commit that the clone is at.
    whole : Survey
        The dataset as a whole.
    n_subjects, n_runs : int
        Subjects and recordings chosen.
    n_files, n_bytes : int
        Annexed files chosen, and the bytes they hold.
    n_files_to_get, n_bytes_to_get : int
        Those whose content was not on this machine when the call began.
    derivative : FetchSummary or None
        The same of the derivative that was asked for along with it.
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
        """One line for the reader: what is chosen."""
        return (
            f"subjects: {self.n_subjects}, runs: {self.n_runs}, files: {self.n_files} ({human(self.n_bytes)}); "
            f"to be fetched: {self.n_files_to_get} ({human(self.n_bytes_to_get)})."
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be got into one clone.

    Attributes
    ----------
    clone : Path
        The working tree that was read.
    recordings, missing : sequence of WantedFile
        What stands for the chosen runs; the annexed files whose content is not here.
    summary : FetchSummary
        For the reader.
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
    """Choose from a clone, and tell the log what the dataset is and what of it is needed.

    Parameters
    ----------
    source, directory : str, Path
        Where the dataset comes from; where the clone is, or is to be.
    clone : Path
        The working tree to read, which in a dry run may be elsewhere.
    labels : mapping of str
        What to keep, as `find_wanted` names it.
    with_images : bool
        Whether the images are needed, too, or tables and sidecars alone.

    Raises
    ------
    NoMatchError
        Nothing matches.
    """
    tree = read_tree(clone)
    chosen = find_wanted(clone, tree, **labels)
    recordings = [file for file in chosen if file.recording]
    wanted = [file for file in chosen if file.key and (with_images or not file.is_image)]
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
    _log.info("Needed of it: %s", summary.describe())
    return Job(clone=clone, recordings=recordings, missing=missing, summary=summary)
