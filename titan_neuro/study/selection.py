"""Which runs of a dataset a stage works on, and which of their files it reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_neuro.errors import NoMatchError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Choose runs by BIDS labels, as the flags of BIDS-Apps do. What is None or empty chooses all.

    Attributes
    ----------
    subjects, tasks, runs : sequence of str, optional
        Labels, with or without ``sub-``; the run labels 1 and 01 are the same.
    exclude : sequence of str
        Runs to leave out, by their entities: ``sub-01_task-movie_run-2`` is one run, ``run-2`` is run 2 of everybody.
    filter_file : Path, optional
        JSON in the form of fMRIPrep's ``--bids-filter-file``: ``{"bold": {"session": "02"}}``.
    derivatives : sequence of Path
        Folders with fMRIPrep's images, masks, confounds or transforms; empty: the dataset's ``derivatives/``.
    allow_missing : bool
        Warn of labels that no run has, and of runs for which `derivatives` hold nothing, instead of refusing them.
    """

    subjects: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    runs: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    filter_file: Path | None = None
    derivatives: Sequence[Path] = ()
    allow_missing: bool = False

    @property
    def labels(self) -> dict[str, Sequence[str] | None]:
        """Labels that are asked for, by entity."""
        return {"subject": self.subjects, "task": self.tasks, "run": self.runs}

    def require_matches(self, runs: Sequence[Mapping[str, str]]) -> None:
        """Refuse each label that no run has, or warn of it, as `allow_missing` says; runs are given by their entities.

        Raises
        ------
        NoMatchError
            No run has one of the labels.
        """
        from titan_neuro.data.bids.names import list_labels, unmatched_labels

        unmatched = unmatched_labels(runs, self.labels)
        if not unmatched:
            return
        message = f"No run matches {', '.join(f'{name} {label}' for name, label in unmatched)}."
        if self.allow_missing:
            logger.warning("%s", message)
            return
        available = "; ".join(f"{name}: {list_labels(runs, name)}" for name in self.labels)
        raise NoMatchError(message, f"There are: {available}. --allow-missing makes this a warning.")

    def matches(self, entities: Mapping[str, str]) -> bool:
        """Whether a run with these entities is chosen by its labels, and not left out."""
        from titan_neuro.data.bids.names import has_label

        chosen = all(has_label(entities, name, labels) for name, labels in self.labels.items())
        return chosen and not self.excludes(entities)

    def excludes(self, entities: Mapping[str, str]) -> bool:
        """Whether a run with these entities is left out."""
        from titan_neuro.data.bids.names import applies_to, parse_entities

        return any(applies_to(parse_entities(name), entities) for name in self.exclude)
