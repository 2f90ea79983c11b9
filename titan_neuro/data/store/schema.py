"""The schema of a store: a run's attributes and small arrays, and the checksums of its contents (``docs/store.md``)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from titan_neuro.data.space import Space
from titan_neuro.data.store.arrays import sha256_of_blocks
from titan_neuro.data.store.spaces import space_arrays, space_attributes
from titan_neuro.errors import MismatchError

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
    framewise_displacement : numpy.ndarray or None
        float32 ``(time,)``, mm from the previous time point, NaN at time point 0; None if head motion is unknown.
    record : dict
        Sources and processing of the time points: plain JSON, with the keys of ``docs/store.md``.
    """

    key: str
    entities: Mapping[str, str]
    repetition_time: float
    space: Space
    scored: np.ndarray
    events: Sequence[Event] = ()
    framewise_displacement: np.ndarray | None = None
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
    for name, values in arrays.items():
        if values.shape != header.scored.shape[:1]:
            raise MismatchError(
                f"{header.key}: {name}: expected {len(header.scored)} time points, found {values.shape}."
            )
    return arrays | space_arrays(header.space)


def attributes_of(header: RunHeader) -> dict[str, Any]:
    """Return the attributes of a run's group, without the checksums: strict JSON.

    Raises
    ------
    MismatchError
        The record, or an event's onset, can't be represented in JSON.
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


def canonical(attributes: Mapping[str, Any]) -> str:
    """Return attributes as the JSON text of which the checksum is taken: keys sorted, no blanks, ASCII."""
    return json.dumps(attributes, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(content: np.ndarray | Mapping[str, Any]) -> str:
    """Return the SHA-256 of an array's values (C order, little-endian, booleans as bytes), or of attributes' JSON."""
    if isinstance(content, np.ndarray):
        return sha256_of_blocks([content])
    return hashlib.sha256(canonical(content).encode()).hexdigest()
