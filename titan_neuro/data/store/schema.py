"""The schema of a store: a run's attributes and small arrays, and the checksums of its contents (``docs/store.md``)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import is_entity
from titan_neuro.data.space import Space
from titan_neuro.data.store.arrays import sha256_of_blocks
from titan_neuro.data.store.spaces import space_arrays, space_attributes
from titan_neuro.errors import MismatchError
from titan_neuro.files import is_plain_name

SCHEMA = "titan-neuro-run"
SCHEMA_VERSION = 4

Event = tuple[float, float, str]
"""Onset and duration in seconds (NaN where the table says ``n/a``), and the ``trial_type``."""


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """The content of a store except its time points.

    Attributes
    ----------
    key : str
        ``sub-01_task-movie_run-02``.
    entities : dict of str
        BIDS entities by their long names.
    repetition_time : float
        Seconds.
    space : Space
    scored : numpy.ndarray
        bool ``(time,)``: time points that a loss or a score may use as a target.
    events : sequence of (float, float, str)
        Onset and duration in seconds from the first time point (NaN: unknown), and the ``trial_type``.
    event_columns : mapping of str to sequence of str
        Further columns of the events table by name, a text for each event (``""``: no value).
    framewise_displacement : numpy.ndarray or None
        float32 ``(time,)``, mm from the previous time point, NaN at time point 0; None if head motion is unknown.
    continuous : mapping of str to numpy.ndarray
        Columns of the continuous tables of stimuli, ratings and physiology, resampled to the time points: float32
        ``(time,)`` by the names of table and column (``stim loudness``); NaN where there is no value. They are decoded
        by a probe, and no model reads them.
    record : dict
        Sources and processing of the time points: plain JSON, with the keys of ``docs/store.md``.
    """

    key: str
    entities: Mapping[str, str]
    repetition_time: float
    space: Space
    scored: np.ndarray
    events: Sequence[Event] = ()
    event_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    framewise_displacement: np.ndarray | None = None
    continuous: Mapping[str, np.ndarray] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


def arrays_of(header: RunHeader) -> dict[str, np.ndarray]:
    """Return the small arrays of a run by name, as they are stored.

    Raises
    ------
    MismatchError
        One of them has another length than the run.
    """
    arrays = {"scored": header.scored.astype(bool)}
    if header.framewise_displacement is not None:
        arrays["framewise_displacement"] = header.framewise_displacement.astype("<f4")
    if header.continuous:
        arrays["continuous"] = np.column_stack([*header.continuous.values()]).astype("<f4")
    for name, values in arrays.items():
        if values.shape[:1] != header.scored.shape[:1]:
            raise MismatchError(
                f"{header.key}: {name}: expected {len(header.scored)} time points, found {values.shape}."
            )
    return arrays | space_arrays(header.space)


def attributes_of(header: RunHeader) -> dict[str, Any]:
    """Return the attributes of a run's group, without the checksums: strict JSON.

    Raises
    ------
    MismatchError
        The record, or an event's onset, can't be represented in JSON; a column has another length than the events.
    """
    attributes = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "key": header.key,
        "entities": dict(header.entities),
        "repetition_time": header.repetition_time,
        **space_attributes(header.space),
        "events": [[float(onset), _or_null(duration), str(kind)] for onset, duration, kind in header.events],
        "record": dict(header.record),
    }
    if header.continuous:
        attributes["continuous"] = list(header.continuous)
    if header.event_columns:
        attributes["event_columns"] = {name: list(texts) for name, texts in header.event_columns.items()}
    for name, texts in header.event_columns.items():
        if len(texts) != len(header.events):
            raise MismatchError(
                f"{header.key}: column {name} of the events: expected {len(header.events)} texts, found {len(texts)}."
            )
    try:
        stored: dict[str, Any] = json.loads(canonical(attributes))
    except (TypeError, ValueError) as error:
        raise MismatchError(
            f"{header.key}: the header can't be written as JSON: {error}.", "JSON has no NaN, dates or arrays."
        ) from error
    return stored


def _or_null(duration: float) -> float | None:
    return None if math.isnan(duration) else float(duration)


def events_of(attributes: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return the events of a group's attributes."""
    return tuple(
        (onset, math.nan if duration is None else duration, kind) for onset, duration, kind in attributes["events"]
    )


def check_names(path: Path | str, attributes: Mapping[str, Any]) -> None:
    """Refuse a store whose names and labels are none of a dataset: the names of files are made from them.

    Parameters
    ----------
    path : Path or str
        Of the store, for the message.
    attributes : mapping
        Of the run's group.

    Raises
    ------
    MismatchError
        The key or the name of the space is not the name of a file, or an entity has no label of letters and digits.
    """
    entities, layout = attributes["entities"], attributes["layout"]
    names = {"key": attributes["key"], "space": attributes["space"]}
    names |= {"space of the atlas": layout["space"]} if layout else {}
    wrong = [f"{what} {name!r}" for what, name in names.items() if not is_plain_name(name)]
    if isinstance(entities, dict):
        wrong += [f"entity {name!r}: {label!r}" for name, label in entities.items() if not is_entity(name, label)]
    else:
        wrong.append(f"entities {entities!r}")
    if wrong:
        raise MismatchError(
            f"{path}: this store can't be read: expected a key and a space that can be names of files, and entities "
            f"with labels of letters and digits, as BIDS has them; found {', '.join(wrong)}.",
            "Titan-Neuro writes no such store. Prepare the run again, or ask whoever made it.",
        )


def canonical(attributes: Mapping[str, Any]) -> str:
    """Return attributes as the JSON text of which the checksum is taken: keys sorted, no blanks, ASCII."""
    return json.dumps(attributes, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(content: np.ndarray | Mapping[str, Any]) -> str:
    """Return the SHA-256 of an array's values (C order, little-endian, booleans as bytes), or of attributes' JSON."""
    if isinstance(content, np.ndarray):
        return sha256_of_blocks([content])
    return hashlib.sha256(canonical(content).encode()).hexdigest()
