"""What of a cloned dataset the later stages need, and how much of it is still to be fetched; read from names alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_neuro.data.annex import annex_key, is_missing, key_bytes
from titan_neuro.data.bids import matches, strip_prefix
from titan_neuro.errors import NoMatchError

_FILTERS = {"sub": "participant", "task": "task", "run": "run"}
_IMAGE = {".nii", ".nii.gz"}
# Small tables and sidecars that some datasets annex, too.
_TEXT = {".json", ".tsv"}


@dataclass(frozen=True, kw_only=True)
class WantedFile:
    """A file that is needed.

    Attributes
    ----------
    path : Path
        Where it lies in the working tree.
    entities : dict of str
        BIDS entities of its name, by their short names (``sub``, ``task``, ``run``).
    recording : bool
        Whether it is a BOLD image, not something that belongs to one.
    key : str or None
        Its annex key; None for a file that git holds.
    missing : bool
        Whether its content is not on this machine.
    """

    path: Path
    entities: Mapping[str, str]
    recording: bool
    key: str | None
    missing: bool


def find_wanted(
    directory: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
) -> list[WantedFile]:
    """List the BOLD images of a dataset, with the brain masks, events, confounds and sidecars that belong to them.

    Parameters
    ----------
    directory : Path
        Root of the working tree.
    subjects, tasks, runs : sequence of str, optional
        Labels to keep, with or without ``sub-``, ``task-``, ``run-``; runs match by number (``1`` is ``01``).

    Raises
    ------
    NoMatchError
        The dataset has no BOLD image, or none for a label that was asked for.
    """
    found = list(_candidates(directory))
    recordings = [file for file in found if file.recording]
    if not recordings:
        raise NoMatchError(f"{directory}: holds no *_bold.nii.gz.", "Is this a BIDS dataset of functional MRI?")
    labels = {"sub": subjects, "task": tasks, "run": runs}
    asked = {entity: [strip_prefix(label, entity) for label in wanted] for entity, wanted in labels.items() if wanted}
    there = "The dataset has: " + "; ".join(_labels(recordings, entity) for entity in _FILTERS) + "."
    for entity, wanted in asked.items():
        for label in wanted:
            if not any(_matches(file, entity, [label]) for file in recordings):
                raise NoMatchError(f"{directory}: no BOLD image of {_FILTERS[entity]} {label!r}.", there)
    chosen = [file for file in found if all(_matches(file, entity, wanted) for entity, wanted in asked.items())]
    if not any(file.recording for file in chosen):
        filters = " and ".join(f"{_FILTERS[entity]} {' '.join(wanted)}" for entity, wanted in asked.items())
        raise NoMatchError(f"{directory}: no BOLD image of {filters} together.", there)
    return chosen


def _candidates(directory: Path) -> Iterator[WantedFile]:
    for folder, subfolders, names in os.walk(directory):
        # Neither .git nor .datalad; sorted, so that a plan reads the same on every file system.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            stem, dot, extension = name.partition(".")
            *parts, suffix = stem.split("_")
            entities = dict(part.split("-", 1) for part in parts if "-" in part)
            if not name.startswith("sub-") or not _is_needed(suffix, dot + extension, entities, path):
                continue
            recording = suffix == "bold" and dot + extension in _IMAGE
            yield WantedFile(
                path=path, entities=entities, recording=recording, key=annex_key(path), missing=is_missing(path)
            )


def _is_needed(suffix: str, extension: str, entities: Mapping[str, str], path: Path) -> bool:
    if suffix == "mask":
        # Anatomical masks lie on another grid.
        return entities.get("desc") == "brain" and extension in {*_IMAGE, ".json"} and "func" in path.parts
    if suffix == "bold":
        return extension in {*_IMAGE, ".json"}
    return suffix in {"events", "timeseries", "regressors"} and extension in _TEXT


def _matches(file: WantedFile, entity: str, labels: Sequence[str]) -> bool:
    # A mask or sidecar without the entity applies to all of its values.
    applies_to_all = entity not in file.entities and not file.recording
    return applies_to_all or matches(file.entities, entity, labels)


def _labels(recordings: Sequence[WantedFile], entity: str) -> str:
    labels = sorted({file.entities.get(entity, "(none)") for file in recordings})
    shown = " ".join(labels[:30]) + (f" ... ({len(labels)} in all)" if len(labels) > 30 else "")
    return f"{_FILTERS[entity]} {shown}"


def total_bytes(files: Sequence[WantedFile]) -> int:
    """Bytes of the annexed content of `files`, each content counted once; a key that names no size counts nothing."""
    return sum(key_bytes(key) or 0 for key in {file.key for file in files if file.key})
