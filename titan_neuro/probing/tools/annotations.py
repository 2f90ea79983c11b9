"""Labels of the time points of a run: from its own events, or from any table in BIDS ``events.tsv`` form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_neuro.data.bids.names import applies_to, parse_entities, parse_name, run_entities
from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.tables import numbers, read_tsv
from titan_neuro.typing import RunData

# Trial types of periods, whose onset is not an event.
NO_EVENTS = ("movie", "overlap_with_previous_run", "fixation")
# Trial types that label nothing that was shown.
NO_CONTENT = ("", "n/a", *NO_EVENTS, "rest")
_ONLY_NUMBERS = "Only trial_type holds text; leave other columns of text out."
# Onsets are decimal fractions, and times are products: equal ones may differ in the last digit.
_ROUNDING_S = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """Labels or numbers of one column of a table.

    Attributes
    ----------
    name : str
    onsets, durations : numpy.ndarray
        Seconds from a run's first time point, ``(events,)``; NaN where unknown.
    values : numpy.ndarray
        ``(events,)``: categories as text, or float; ``""`` or NaN is no label.
    entities : mapping
        Entities of the runs that the column applies to; all runs, if empty.
    """

    name: str
    onsets: np.ndarray
    durations: np.ndarray
    values: np.ndarray
    entities: Mapping[str, str]

    def applies_to(self, run: RunData) -> bool:
        """Return whether the run's name has all entities of the table; ``run-1`` equals ``run-01``."""
        return applies_to(self.entities, parse_entities(run.key))


def read_annotations(paths: Iterable[str | Path]) -> list[Annotation]:
    """Read tables: ``trial_type`` holds categories; other columns, except ``onset`` and ``duration``, numbers.

    Parameters
    ----------
    paths : iterable of str or Path
        BIDS ``events.tsv`` files.

    Returns
    -------
    list of Annotation
        One for each column, named by the ``desc`` of its table and itself.

    Raises
    ------
    InputNotFoundError
        A file does not exist.
    MetadataError
        A file is not a table, lacks ``onset``, ``duration`` or a third column, or holds text instead of a number.
    """
    return [column for path in paths for column in _read(Path(path))]


def _read(path: Path) -> list[Annotation]:
    if not path.is_file():
        raise InputNotFoundError(
            f"{path}: no such table (probe.decoding.tables).",
            "A relative path is taken from the current folder; correct probe.decoding.tables.",
        )
    table = read_tsv(path, blank_lines=True)
    missing = [name for name in ("onset", "duration") if name not in table]
    columns = [name for name in table if name not in ("onset", "duration")]
    if missing or not columns:
        raise MetadataError(
            f"{path}: expected the columns onset, duration and at least one more, found {', '.join(table.columns)}.",
            "Name the columns as BIDS has them.",
        )
    onsets, durations = numbers(path, table["onset"]), numbers(path, table["duration"])
    entities = parse_name(path).entities
    title = entities.get("desc", path.name.removesuffix(".tsv").removesuffix("_events"))
    return [
        Annotation(
            name=f"{title} {column}",
            onsets=onsets,
            durations=durations,
            values=_categories(table[column])
            if column == "trial_type"
            else numbers(path, table[column], hint=_ONLY_NUMBERS),
            entities=run_entities(entities),
        )
        for column in columns
    ]


def _categories(texts: Iterable[str]) -> np.ndarray:
    return np.array(["" if text.lower() in NO_CONTENT else text for text in texts], dtype=str)


def annotations_of(run: RunData, tables: Sequence[Annotation]) -> list[Annotation]:
    """Return the annotations of a run: the ``trial_type`` of its own events, if any is a label, and the tables."""
    of_tables = [table for table in tables if table.applies_to(run)]
    events = tuple(getattr(run, "events", ()))
    kinds = _categories(kind for _, _, kind in events)
    if not any(kinds):
        return of_tables
    onsets, durations = (np.array([event[index] for event in events], dtype=float) for index in (0, 1))
    return [Annotation(name="trial_type", onsets=onsets, durations=durations, values=kinds, entities={}), *of_tables]


def label_time_points(annotation: Annotation, times: np.ndarray) -> np.ndarray:
    """Label each time point by the event that contains it: ``onset <= time < onset + duration``.

    Parameters
    ----------
    annotation : Annotation
    times : numpy.ndarray
        Of the time points, ascending, in seconds.

    Returns
    -------
    numpy.ndarray
        ``(time,)``; ``""`` or NaN outside events, and where overlapping events have different labels.
    """
    is_event = is_labeled(annotation.values) & np.isfinite(annotation.onsets)
    kinds, codes = np.unique(annotation.values[is_event], return_inverse=True)
    # Code -1 stands for no label, or several.
    code_at = np.full(len(times), -1)
    has_several = np.zeros(len(times), dtype=bool)
    onsets, durations = annotation.onsets[is_event], annotation.durations[is_event]
    starts = np.searchsorted(times + _ROUNDING_S, onsets)
    stops = np.searchsorted(times + _ROUNDING_S, onsets + np.nan_to_num(durations))
    for start, stop, code in zip(starts, stops, codes, strict=True):
        earlier = code_at[start:stop]
        has_several[start:stop] |= (earlier >= 0) & (earlier != code)
        code_at[start:stop] = code
    code_at[has_several] = -1
    labels: np.ndarray = np.append(kinds, "" if kinds.dtype.kind == "U" else np.nan)[code_at]
    return labels


def is_labeled(labels: np.ndarray) -> np.ndarray:
    """Return which labels are not missing (``""`` or NaN): bool, of their shape."""
    present: np.ndarray = labels != "" if labels.dtype.kind == "U" else np.isfinite(labels)
    return present
