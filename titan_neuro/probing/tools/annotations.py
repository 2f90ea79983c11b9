"""Labels of the time points of a run: from its own events, or from any table in BIDS ``events.tsv`` form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.typing import RunData

# Trial types that say what was on, not that something new began.
NO_EVENTS = ("movie", "overlap_with_previous_run", "fixation")
# Those, and what says that nothing was shown.
NO_CONTENT = ("", "n/a", *NO_EVENTS, "rest")
# Entities of BIDS names that tell runs apart; the others (desc, space, ...) don't choose among runs.
_RUN_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "delayed_response", "part")
_COUNTED = ("run", "delayed_response")
_NAN = ("", "n/a")
# Onsets are decimal fractions, times of time points products: equal ones may differ in the last digit.
_ROUNDING_S = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """One column of a table.

    Attributes
    ----------
    name : str
    onsets, durations : numpy.ndarray
        Seconds from a run's first time point, ``(events,)``; NaN: not known.
    values : numpy.ndarray
        ``(events,)``: text of categories, or float; an event with ``""`` or NaN says nothing.
    entities : mapping
        Of the runs that it applies to: all of them where it is empty.
    """

    name: str
    onsets: np.ndarray
    durations: np.ndarray
    values: np.ndarray
    entities: Mapping[str, str]

    def applies_to(self, run: RunData) -> bool:
        """Whether the run's name has all entities of the table's, ``run-1`` being ``run-01``."""
        have = entities_of(run.key)
        return all(
            name in have and _label(name, have[name]) == _label(name, value) for name, value in self.entities.items()
        )


def entities_of(name: str) -> dict[str, str]:
    """Entities of a BIDS name that tell runs apart: ``{"task": "movie", "run": "01"}``."""
    pairs = (piece.partition("-") for piece in name.split("_"))
    return {key: value for key, dash, value in pairs if dash and key in _RUN_ENTITIES}


def _label(name: str, value: str) -> str:
    return str(int(value)) if name in _COUNTED and value.isdecimal() else value


def read_annotations(paths: Iterable[str | Path]) -> list[Annotation]:
    """Read tables: ``trial_type`` holds categories, every other column but ``onset`` and ``duration`` numbers.

    Parameters
    ----------
    paths : iterable of str or Path
        BIDS ``events.tsv`` files. A column is called after the table's ``desc`` and itself.

    Raises
    ------
    InputNotFoundError
        No such file.
    MetadataError
        Not a table, no ``onset`` or ``duration``, nothing beside them, or text where a number is expected.
    """
    return [column for path in paths for column in _read(Path(path))]


def _read(path: Path) -> list[Annotation]:
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such table (probe.decoding.tables).", "Paths are read as given.")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise MetadataError(f"{path}: not a readable table: {error}.", "Expected tab-separated text.") from error
    lacking = [name for name in ("onset", "duration") if name not in table]
    columns = [name for name in table if name not in ("onset", "duration")]
    if lacking or not columns:
        raise MetadataError(
            f"{path}: expected the columns onset, duration and at least one more, found {', '.join(table.columns)}.",
            "Name the columns as BIDS has them.",
        )
    onsets, durations = _numbers(path, table["onset"]), _numbers(path, table["duration"])
    pieces = dict(piece.partition("-")[::2] for piece in path.name.split("_") if "-" in piece)
    title = pieces.get("desc", path.name.removesuffix(".tsv").removesuffix("_events"))
    return [
        Annotation(
            name=f"{title} {column}",
            onsets=onsets,
            durations=durations,
            values=_categories(table[column]) if column == "trial_type" else _numbers(path, table[column]),
            entities=entities_of(path.name),
        )
        for column in columns
    ]


def _categories(texts: Iterable[str]) -> np.ndarray:
    return np.array(["" if text.lower() in NO_CONTENT else text for text in texts], dtype=str)


def _numbers(path: Path, column: pd.Series) -> np.ndarray:
    """Read numbers; what is not there is NaN."""
    numbers = np.full(len(column), np.nan)
    for row, text in enumerate(column):
        if text in _NAN:
            continue
        try:
            numbers[row] = float(text)
        except ValueError as error:
            raise MetadataError(
                f"{path}: line {row + 2}, column {column.name!r}: expected a number or n/a, found {text!r}.",
                "Only trial_type holds text; leave other columns of text out.",
            ) from error
    return numbers


def annotations_of(run: RunData, tables: Sequence[Annotation]) -> list[Annotation]:
    """List what applies to a run: its own events' ``trial_type``, where they say what was shown, and the tables."""
    found = [table for table in tables if table.applies_to(run)]
    events = tuple(getattr(run, "events", ()))
    kinds = _categories(kind for _, _, kind in events)
    if not any(kinds):
        return found
    onsets, durations = (np.array([event[place] for event in events], dtype=float) for place in (0, 1))
    return [Annotation(name="trial_type", onsets=onsets, durations=durations, values=kinds, entities={}), *found]


def label_time_points(annotation: Annotation, times: np.ndarray) -> np.ndarray:
    """Label of each time point: that of the event which it lies in, ``onset <= time < onset + duration``.

    Parameters
    ----------
    annotation : Annotation
    times : numpy.ndarray
        Of the time points, ascending, in seconds.

    Returns
    -------
    numpy.ndarray
        ``(series,)``; ``""`` or NaN where no event is, or where events that overlap say different things.
    """
    there = is_labeled(annotation.values) & np.isfinite(annotation.onsets)
    kinds, codes = np.unique(annotation.values[there], return_inverse=True)
    # -1, the last, is put behind the kinds: nothing is shown, or more than one thing.
    label = np.full(len(times), -1)
    several = np.zeros(len(times), dtype=bool)
    onsets, durations = annotation.onsets[there], annotation.durations[there]
    starts = np.searchsorted(times + _ROUNDING_S, onsets)
    stops = np.searchsorted(times + _ROUNDING_S, onsets + np.nan_to_num(durations))
    for start, stop, code in zip(starts, stops, codes, strict=True):
        taken = label[start:stop]
        several[start:stop] |= (taken >= 0) & (taken != code)
        label[start:stop] = code
    label[several] = -1
    labels: np.ndarray = np.append(kinds, "" if kinds.dtype.kind == "U" else np.nan)[label]
    return labels


def is_labeled(labels: np.ndarray) -> np.ndarray:
    """Which labels say something: bool, of their shape."""
    there: np.ndarray = labels != "" if labels.dtype.kind == "U" else np.isfinite(labels)
    return there
