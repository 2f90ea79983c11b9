"""Filter files in fMRIPrep's form (``--bids-filter-file``): labels that the entities of a recording must have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from titan_neuro.data.bids.kinds import SURFACE_EXTENSIONS
from titan_neuro.data.bids.names import GRID_ENTITIES, RUN_ENTITIES, BidsFile, long_name, same_label, short_entities
from titan_neuro.errors import ConfigError, InputNotFoundError, near_miss
from titan_neuro.files import read_json

# The parts of fMRIPrep's filter files; those of other images than BOLD concern fMRIPrep alone.
_PARTS = ("bold", "sbref", "flair", "t2w", "t1w", "roi", "fmap", "func", "anat", "dwi", "asl", "m0scan", "pet")
_OF_FILE = ("suffix", "datatype", "extension")
_OTHERS = ("desc", "hemi", "label", "seg", "atlas", "stat", "proc", "mod", "inv", "mt", "recording")
_KNOWN = (*RUN_ENTITIES, *GRID_ENTITIES, *_OTHERS)
# Entities that derivatives add to the name of a recording: in a raw dataset they choose among its derivatives.
_OF_DERIVATIVES = {*GRID_ENTITIES, "desc"}
# pybids' special values, as fMRIPrep writes them into its settings: ``<Query.NONE: 1>``.
_QUERY = re.compile(r"<?Query\.(NONE|ANY|REQUIRED|OPTIONAL)(?:: \d>)?")
_SPECIAL = {"NONE": None, "ANY": "*", "REQUIRED": "*", "OPTIONAL": "optional"}


@dataclass(frozen=True)
class RecordingFilter:
    """The part ``bold`` of a filter file.

    Attributes
    ----------
    values : mapping of str to tuple
        By the short names of entities (and ``suffix``, ``datatype``, ``extension``): values of which one must fit.
        None: the name lacks the entity; ``"*"``: it has any label; a number: the label is that number, however padded.
    is_regex : bool
        Whether strings are regular expressions, to be found in the label.
    source : Path or None
        The filter file, for messages.
    """

    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    is_regex: bool = False
    source: Path | None = None

    def matches(self, file: BidsFile) -> bool:
        """Whether a file fits every entity of the filter."""
        of_file = {"suffix": file.suffix, "datatype": file.datatype, "extension": file.extension}
        labels = {**file.entities, **of_file}
        return all(
            any(self._fits(name, value, labels.get(name)) for value in values) for name, values in self.values.items()
        )

    def of_raw(self) -> RecordingFilter:
        """Return the filter without what derivatives alone have: space, resolution, desc, extensions of surfaces."""
        return self._part(of_derivatives=False)

    def of_derivatives(self) -> RecordingFilter:
        """Return the filter of what derivatives alone have."""
        return self._part(of_derivatives=True)

    def require_known(self, files: Iterable[BidsFile]) -> None:
        """Refuse an entity that neither BIDS nor any of the files has; see `ConfigError`."""
        found = {name for file in files for name in file.entities}
        for name in self.values:
            if name not in {*_KNOWN, *_OF_FILE, *found}:
                known = [*map(long_name, _KNOWN), *_OF_FILE]
                raise ConfigError(
                    f"{self.source} (--bids-filter-file): no recording has an entity {name!r}.{near_miss(name, known)}",
                    "Use the dataset's own entities: session, task, run, acquisition, space, resolution, desc, ...",
                )

    def unmatched(self, files: Sequence[BidsFile]) -> list[tuple[str, str]]:
        """List the entities and labels that no file has."""
        return [
            (name, str(value))
            for name, values in self.values.items()
            for value in values
            if name not in _OF_FILE
            and value not in (None, "*", "optional")
            and not any(self._fits(name, value, file.entities.get(name)) for file in files)
        ]

    def _part(self, *, of_derivatives: bool) -> RecordingFilter:
        values = {
            name: values
            for name, values in self.values.items()
            if of_derivatives
            == (name in _OF_DERIVATIVES or (name == "extension" and not {*values} - {*SURFACE_EXTENSIONS}))
        }
        return RecordingFilter(values, self.is_regex, self.source)

    def _fits(self, name: str, value: Any, label: str | None) -> bool:
        if value == "optional":
            return True
        if value is None or label is None:
            return value is label
        if value == "*":
            return True
        if self.is_regex:
            return re.search(str(value), label) is not None
        if isinstance(value, int):
            return label.isdecimal() and int(label) == value
        return same_label(name, label, value.removeprefix(f"{name}-"))


def read_filter(path: Path | None) -> RecordingFilter:
    """Read the part ``bold`` of a filter file; without a file, everything matches.

    Raises
    ------
    InputNotFoundError
        No such file.
    ConfigError
        It is not a filter file, or has a value that is no label.
    """
    if path is None:
        return RecordingFilter()
    where = f"{path} (--bids-filter-file)"
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file (named with --bids-filter-file).")
    content = read_json(path, error=ConfigError, hint="Correct the filter file.")
    for part in content:
        if part not in _PARTS:
            raise ConfigError(
                f"{where}: no part {part!r}.{near_miss(part, _PARTS)}",
                'Write what recordings must have under "bold": {"bold": {"session": "02"}}.',
            )
    given = content.get("bold", {})
    if not isinstance(given, dict):
        raise ConfigError(f'{where}: expected {{"bold": {{ENTITY: LABEL, ...}}}}, found {given!r} under "bold".')
    is_regex = given.get("regex_search", False)
    if not isinstance(is_regex, bool):
        raise ConfigError(f"{where}: regex_search: expected true or false, found {is_regex!r}.")
    named = {name: value for name, value in given.items() if name not in ("regex_search", "invalid_filters")}
    values = {name: _values(where, name, value, is_regex) for name, value in short_entities(named).items()}
    return RecordingFilter(values, is_regex, path)


def _values(where: str, name: str, value: Any, is_regex: bool) -> tuple[Any, ...]:
    values = tuple(map(_special, value if isinstance(value, list) else [value]))
    for each in values:
        if isinstance(each, bool) or not (each is None or isinstance(each, str | int)):
            raise ConfigError(f'{where}: {name}: expected a label, a list of labels, null or "*", found {each!r}.')
        try:
            re.compile(each if is_regex and isinstance(each, str) and each not in ("*", "optional") else "")
        except re.error as error:
            raise ConfigError(f"{where}: {name}: {each!r} is no regular expression: {error}.") from error
    if not values:
        raise ConfigError(f"{where}: {name}: the list of labels is empty.", "Name labels, or leave the entity out.")
    if name == "extension":
        return tuple(f".{each.removeprefix('.')}" if isinstance(each, str) and each != "*" else each for each in values)
    return values


def _special(value: Any) -> Any:
    match = _QUERY.fullmatch(value) if isinstance(value, str) else None
    return _SPECIAL[match[1]] if match else value
