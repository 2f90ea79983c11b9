"""Labels of the time points of a run: from its own events and continuous tables, or from any BIDS table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from titan_neuro.data.bids.continuous import (
    ContinuousTable,
    continuous_file,
    is_continuous,
    read_continuous,
    resample,
)
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
    """One column of a table.

    Attributes
    ----------
    name : str
        Of the table, if it is not the run's own events, and of the column.
    entities : mapping
        Entities of the runs that the column applies to; all runs, if empty.
    is_default : bool
        Whether the pattern ``*`` matches it: not so a further column of a run's own events, where there are many that
        label nothing that was shown (response times, names of files).
    """

    name: str
    entities: Mapping[str, str]
    is_default: bool = True

    def applies_to(self, run: RunData) -> bool:
        """Return whether the run's name has all entities of the table; ``run-1`` equals ``run-01``."""
        return applies_to(self.entities, parse_entities(run.key))

    def matches(self, patterns: Iterable[str]) -> bool:
        """Return whether the name, or the column alone, matches one of the shell patterns (``pc00?``)."""
        column = self.name.partition(" ")[2] or self.name
        asked = [pattern for pattern in patterns if self.is_default or pattern != "*"]
        return any(fnmatchcase(self.name, pattern) or fnmatchcase(column, pattern) for pattern in asked)

    def label_time_points(self, times: np.ndarray, repetition_time: float) -> np.ndarray:
        """Label each time point.

        Parameters
        ----------
        times : numpy.ndarray
            Of the time points, ascending, in seconds.
        repetition_time : float
            Seconds.

        Returns
        -------
        numpy.ndarray
            ``(time,)``: categories as text, or float; ``""`` or NaN is no label.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class EventAnnotation(Annotation):
    """Labels or numbers of events: a time point has that of the event that contains it.

    Attributes
    ----------
    onsets, durations : numpy.ndarray
        Seconds from a run's first time point, ``(events,)``; NaN where unknown.
    values : numpy.ndarray
        ``(events,)``: categories as text, or float; ``""`` or NaN is no label.
    """

    onsets: np.ndarray
    durations: np.ndarray
    values: np.ndarray

    def label_time_points(self, times: np.ndarray, repetition_time: float) -> np.ndarray:
        """Label time points with ``onset <= time < onset + duration``; none where overlapping events differ."""
        is_event = is_labeled(self.values) & np.isfinite(self.onsets)
        kinds, codes = np.unique(self.values[is_event], return_inverse=True)
        # Code -1 stands for no label, or several.
        code_at = np.full(len(times), -1)
        has_several = np.zeros(len(times), dtype=bool)
        onsets, durations = self.onsets[is_event], self.durations[is_event]
        starts = np.searchsorted(times + _ROUNDING_S, onsets)
        stops = np.searchsorted(times + _ROUNDING_S, onsets + np.nan_to_num(durations))
        for start, stop, code in zip(starts, stops, codes, strict=True):
            earlier = code_at[start:stop]
            has_several[start:stop] |= (earlier >= 0) & (earlier != code)
            code_at[start:stop] = code
        code_at[has_several] = -1
        labels: np.ndarray = np.append(kinds, "" if kinds.dtype.kind == "U" else np.nan)[code_at]
        return labels


@dataclass(frozen=True, kw_only=True, eq=False)
class ContinuousAnnotation(Annotation):
    """One column of a continuous table.

    Attributes
    ----------
    table : ContinuousTable
        With this column alone.
    """

    table: ContinuousTable

    def label_time_points(self, times: np.ndarray, repetition_time: float) -> np.ndarray:
        """Label time points with the resampled column (:func:`titan_neuro.data.bids.continuous.resample`)."""
        return resample(self.table, times, repetition_time)[:, 0]


def read_annotations(paths: Iterable[str | Path]) -> list[Annotation]:
    """Read tables of events, or continuous ones.

    Of events, ``trial_type`` holds categories; other columns, except ``onset`` and ``duration``, numbers.

    Parameters
    ----------
    paths : iterable of str or Path
        BIDS ``events.tsv``, ``stim.tsv.gz`` and ``physio.tsv.gz`` files.

    Returns
    -------
    list of Annotation
        One for each column, named by the ``desc`` of its table and itself; of continuous tables by their
        `ContinuousFile.name` and itself. Tables for fewer runs stand after those for more.

    Raises
    ------
    InputNotFoundError
        A file does not exist.
    MetadataError
        A file is not a table, lacks ``onset``, ``duration`` or a third column, or holds text instead of a number; a
        continuous table's sidecar is incomplete.
    """
    columns = [column for path in paths for column in _read(Path(path))]
    return sorted(columns, key=lambda column: len(column.entities))


def annotation_files(paths: Iterable[str | Path]) -> list[Path]:
    """List the files that :func:`read_annotations` reads for these tables: the tables and their sidecars."""
    tables = [Path(path) for path in paths]
    return [
        file for path in tables for file in (path, *(continuous_file(path).sidecars if is_continuous(path) else ()))
    ]


def _read(path: Path) -> Sequence[Annotation]:
    if not path.is_file():
        raise InputNotFoundError(
            f"{path}: no such table (probe.decoding.tables).",
            "A relative path is taken from the current folder; correct probe.decoding.tables.",
        )
    return _read_columns(path) if is_continuous(path) else _read_events(path)


def _read_columns(path: Path) -> list[ContinuousAnnotation]:
    file = continuous_file(path)
    table, entities = read_continuous(file), run_entities(parse_name(path).entities)
    columns = zip(table.columns, table.values.T, strict=True)
    return [_column(f"{file.name} {column}", series, entities, table) for column, series in columns]


def _column(name: str, series: np.ndarray, entities: Mapping[str, str], table: ContinuousTable) -> ContinuousAnnotation:
    alone = replace(table, columns=(name,), values=series[:, None])
    return ContinuousAnnotation(name=name, entities=entities, table=alone)


def _read_events(path: Path) -> list[EventAnnotation]:
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
        EventAnnotation(
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


def _numbers_or_categories(texts: Sequence[str]) -> np.ndarray:
    """Read a column of a run's events: numbers where all texts are some, else categories; ``""`` is missing."""
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.array(texts, dtype=str)


def annotations_of(run: RunData, tables: Sequence[Annotation], repetition_time: float) -> dict[str, Annotation]:
    """Return the annotations of a run by name.

    They are the ``trial_type`` of its own events, if any is a label; further columns of these, which are not
    `Annotation.is_default`; its own continuous tables; and of the tables those that apply to it. Of one name the last
    counts: a table before the run's own, a table for fewer runs before others.

    Parameters
    ----------
    run : RunData
    tables : sequence of Annotation
        From :func:`read_annotations`.
    repetition_time : float
        Seconds.
    """
    annotations: list[Annotation] = []
    events = tuple(getattr(run, "events", ()))
    kinds = _categories(kind for _, _, kind in events)
    onsets, durations = (np.array([event[index] for event in events], dtype=float) for index in (0, 1))
    columns = {"trial_type": kinds} if any(kinds) else {}
    columns |= {name: _numbers_or_categories(texts) for name, texts in getattr(run, "event_columns", {}).items()}
    for name, values in columns.items():
        is_default = name == "trial_type"
        annotations.append(
            EventAnnotation(
                name=name, onsets=onsets, durations=durations, values=values, entities={}, is_default=is_default
            )
        )
    for name, series in getattr(run, "continuous", {}).items():
        table = ContinuousTable(
            columns=(name,), values=series[:, None], sampling_frequency_hz=1 / repetition_time, start_s=0.0
        )
        annotations.append(ContinuousAnnotation(name=name, entities={}, table=table))
    annotations += [table for table in tables if table.applies_to(run)]
    return {annotation.name: annotation for annotation in annotations}


def is_labeled(labels: np.ndarray) -> np.ndarray:
    """Return which labels are not missing (``""`` or NaN): bool, of their shape."""
    present: np.ndarray = labels != "" if labels.dtype.kind == "U" else np.isfinite(labels)
    return present
