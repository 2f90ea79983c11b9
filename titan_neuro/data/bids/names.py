"""The grammar of BIDS names: parsing and joining them, comparing labels, deciding which run a file belongs to.

An entity has a short name, which stands in file names (``sub``, ``ses``), and a long one, which pybids and fMRIPrep's
filter files use (``subject``, ``session``). File names are parsed into short names; a recording and its store hold long
names. Every function here takes either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# fMRIPrep's standard spaces: the first is the template of our own registrations, and the first one present is used.
STANDARD_SPACES = ("MNI152NLin2009cAsym", "MNI152NLin6Asym")
# Stands instead of the template's name in every file and table made of roughly registered runs.
ROUGH_SPACE = "MNI152RoughRegistration"
# Short names of the entities that distinguish the runs of a dataset, in the order of BIDS names.
RUN_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part", "chunk")
# Short names of the entities that say on which grid an image lies.
GRID_ENTITIES = ("space", "cohort", "res", "den")
IMAGE_EXTENSIONS = (".nii.gz", ".nii")

_NAME_ORDER = (*RUN_ENTITIES, *GRID_ENTITIES, "seg", "atlas")
_LONG_NAMES = {
    "sub": "subject",
    "ses": "session",
    "acq": "acquisition",
    "ce": "ceagent",
    "rec": "reconstruction",
    "dir": "direction",
    "res": "resolution",
    "den": "density",
    "seg": "segmentation",
    "stat": "statistic",
}
_SHORT_NAMES = {long: short for short, long in _LONG_NAMES.items()}
# Entities whose labels are numbers: ``run-1`` is ``run-01``.
_NUMBERED = {"run", "echo"}
_MAX_LABELS_LISTED = 30
_ENTITY, _LABEL = re.compile(r"[a-zA-Z]+"), re.compile(r"[0-9a-zA-Z+]+")


@dataclass(frozen=True, kw_only=True)
class BidsFile:
    """A file and the parts of its BIDS name.

    Attributes
    ----------
    path : Path
    entities : mapping of str to str
        Labels by the entities' short names (``sub``, ``run``, ``space``).
    suffix : str
        The last part of the name: ``bold``.
    extension : str
        What follows the suffix: ``.nii.gz``.
    problem : str or None
        Why the name is not valid; None for a valid one.
    hemispheres : mapping of str to Path
        The files of both hemispheres, by ``L`` and ``R``, where they are one recording.
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str
    extension: str
    problem: str | None = None
    hemispheres: Mapping[str, Path] = field(default_factory=dict)

    @property
    def datatype(self) -> str:
        """Name of the folder that holds the file: ``func``, ``anat``, ``fmap``."""
        return self.path.parent.name


def parse_name(path: Path) -> BidsFile:
    """Parse a BIDS name: ``sub-1_run-2_bold.nii.gz`` is sub 1, run 2, suffix ``bold``, extension ``.nii.gz``.

    The folders of `path` are not read: those above a dataset may have any name.
    """
    stem, _, end = path.name.rpartition("_")
    suffix, dot, extension = end.partition(".")
    problem = _problem(stem)
    return BidsFile(path=path, entities=parse_entities(stem), suffix=suffix, extension=dot + extension, problem=problem)


def _problem(stem: str) -> str | None:
    """Say why a name without its suffix is not valid; None for a valid one."""
    parts = stem.split("_") if stem else []
    for part in parts:
        if not is_entity(*part.partition("-")[::2]):
            return f"{printable(part)!r} is no entity with a label of letters and digits"
    for name, count in Counter(part.partition("-")[0] for part in parts).items():
        if count > 1:
            return f"it has the entity {name!r} {count} times"
    return None


def is_entity(name: object, label: object) -> bool:
    """Whether an entity is valid: a name of letters, and a label of letters, digits and ``+``."""
    return all(
        isinstance(text, str) and bool(pattern.fullmatch(text)) for text, pattern in ((name, _ENTITY), (label, _LABEL))
    )


def parse_entities(stem: str) -> dict[str, str]:
    """Labels of a stem by their entities as written: ``sub-1_run-02`` is ``{"sub": "1", "run": "02"}``."""
    return dict(part.split("-", 1) for part in stem.split("_") if "-" in part)


def join_entities(entities: Mapping[str, str]) -> str:
    """Join entities in the order of BIDS names: ``{"task": "x", "subject": "1"}`` is ``sub-1_task-x``."""
    labels = short_entities(entities)
    rank = {name: position for position, name in enumerate(_NAME_ORDER)}
    names = sorted(labels, key=lambda name: rank.get(name, len(rank)))
    return "_".join(f"{name}-{labels[name]}" for name in names)


def short_entities(entities: Mapping[str, str]) -> dict[str, str]:
    """Return entities by their short names."""
    return {_short(name): label for name, label in entities.items()}


def long_name(name: str) -> str:
    """Return the long name of an entity: ``session`` for ``ses``."""
    return _LONG_NAMES.get(name, name)


def long_entities(entities: Mapping[str, str]) -> dict[str, str]:
    """Return entities by their long names."""
    return {long_name(name): label for name, label in entities.items()}


def run_entities(entities: Mapping[str, str]) -> dict[str, str]:
    """Return the entities that distinguish runs, by the names they are given under, in the order of BIDS names."""
    rank = {name: position for position, name in enumerate(RUN_ENTITIES)}
    names = sorted((name for name in entities if _short(name) in rank), key=lambda name: rank[_short(name)])
    return {name: entities[name] for name in names}


def canonical_label(name: str, label: str) -> str:
    """Return the form of a label that is the same for all its spellings: ``1`` for run ``01``."""
    return str(int(label)) if name in _NUMBERED and label.isdecimal() else label


def same_label(name: str, one: str, other: str) -> bool:
    """Whether two labels of an entity mean the same: run ``1`` is run ``01``, subject ``1`` is not subject ``01``."""
    return canonical_label(name, one) == canonical_label(name, other)


def has_label(entities: Mapping[str, str], name: str, labels: Sequence[str] | None) -> bool:
    """Whether an entity has one of some labels.

    Parameters
    ----------
    entities : mapping of str to str
    name : str
        Short or long name of the entity.
    labels : sequence of str, optional
        With or without their ``sub-``, ``run-``. Without any labels the answer is True.
    """
    if not labels:
        return True
    short = _short(name)
    label = short_entities(entities).get(short)
    return label is not None and any(same_label(short, label, strip_prefix(wanted, short)) for wanted in labels)


def unmatched_labels(
    names: Sequence[Mapping[str, str]], labels: Mapping[str, Sequence[str] | None]
) -> list[tuple[str, str]]:
    """List the entities and labels that were asked for and that none of some names has."""
    return [
        (entity, label)
        for entity, wanted in labels.items()
        for label in wanted or ()
        if not any(has_label(entities, entity, [label]) for entities in names)
    ]


def same_run(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two names belong to one run: each of `RUN_ENTITIES` has the same label in both, or is in neither.

    ``part-mag`` is the same as no ``part``: fMRIPrep, which reads magnitudes alone, removes it from its names.
    """
    one, other = _magnitude_run(one), _magnitude_run(other)
    return one.keys() == other.keys() and all(same_label(name, label, other[name]) for name, label in one.items())


def without_echo(entities: Mapping[str, str]) -> dict[str, str]:
    """Return the entities without the echo: those of the run that the echo is part of."""
    return {name: label for name, label in entities.items() if name != "echo"}


def _magnitude_run(entities: Mapping[str, str]) -> dict[str, str]:
    labels = run_entities(short_entities(entities))
    return {name: label for name, label in labels.items() if (name, label) != ("part", "mag")}


def applies_to(entities: Mapping[str, str], run: Mapping[str, str]) -> bool:
    """Whether a file applies to a run by BIDS's inheritance principle: the run has each of the file's entities."""
    labels = short_entities(run)
    return all(
        name in labels and same_label(name, label, labels[name]) for name, label in short_entities(entities).items()
    )


def list_labels(names: Iterable[Mapping[str, str]], entity: str) -> str:
    """Return the labels that an entity has in several names, sorted, for a message; long lists are cut."""
    labels = sorted({short_entities(entities).get(_short(entity), "(none)") for entities in names})
    listed = " ".join(labels[:_MAX_LABELS_LISTED])
    return f"{listed} ... ({len(labels)} in all)" if len(labels) > _MAX_LABELS_LISTED else listed


def strip_prefix(label: str, name: str) -> str:
    """Remove ``sub-`` (or ``run-``, ...) from a label that was given with it; `name` is the entity's short name."""
    return label.removeprefix(f"{name}-")


def printable(text: str) -> str:
    """Return text that any terminal and file can take: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def sidecar_path(file: Path) -> Path:
    """Return the path of the JSON sidecar beside a file; it need not exist."""
    return file.with_name(f"{file.name.partition('.')[0]}.json")


def _short(name: str) -> str:
    return _SHORT_NAMES.get(name, name)
