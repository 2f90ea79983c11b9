"""Timing of a run: repetition time, events, and the time points that are scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.store.schema import Event
from titan_neuro.errors import MetadataError

# The clocks of stimulus and scanner differ slightly.
_EVENT_TOLERANCE_S = 1.0
# Multiples of a repetition time have rounding errors: 10 times 0.72 s is less than 7.2 s.
_ROUNDING_S = 1e-6


def repetition_time(recording: Recording, header: float | None) -> float:
    """Return the repetition time (TR) of a recording, from its sidecar, else from its header.

    Parameters
    ----------
    recording : Recording
    header : float or None
        Seconds, from the header of the image.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    MetadataError
        Neither gives a repetition time, or it is not above 0, or the two differ.
    """
    sidecar = recording.repetition_time
    if sidecar is None and header is None:
        raise MetadataError(
            f"{recording.path}: no repetition time: neither RepetitionTime in its JSON sidecar nor a time step in its "
            "header.",
            'Write {"RepetitionTime": SECONDS} into the sidecar.',
        )
    value = sidecar if sidecar is not None else header
    if value is None or not (math.isfinite(value) and value > 0):
        raise MetadataError(
            f"{recording.path}: expected a repetition time above 0 s, found {value}.", "Correct the JSON sidecar."
        )
    if sidecar is not None and header is not None and not abs(sidecar - header) <= 1e-3:
        raise MetadataError(
            f"{recording.path}: the sidecar gives a repetition time of {sidecar} s, the header {header} s.",
            "Correct the one that is wrong.",
        )
    return value


def read_events(path: Path, duration_s: float) -> list[Event]:
    """Read an events table.

    Onsets may lie before the first volume, as BIDS allows.

    Parameters
    ----------
    path : Path
    duration_s : float
        Duration of the run. An event that ends more than a second later belongs to another run, or to another clock.

    Returns
    -------
    list of (float, float, str)
        Onset and duration in seconds, and ``trial_type``; the duration is NaN where the table gives ``n/a``.

    Raises
    ------
    MetadataError
        The table lacks a column, has values that are no numbers, or an event after the end of the run.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype={"trial_type": str}, keep_default_na=False, na_values="n/a")
        missing = {"onset", "duration"} - set(table.columns)
        if missing:
            raise MetadataError(
                f"{path}: expected the columns onset, duration[, trial_type], found {', '.join(table.columns)}.",
                "Correct the table.",
            )
        types = table["trial_type"].fillna("") if "trial_type" in table else [""] * len(table)
        events = list(zip(table["onset"].astype(float), table["duration"].astype(float), types, strict=True))
    except (OSError, ValueError) as error:
        raise MetadataError(
            f"{path}: not a readable events table: {error}.", "Onsets and durations are seconds, or n/a."
        ) from error
    for row, (onset, duration, name) in enumerate(events, start=2):
        if not math.isfinite(onset) or duration < 0:
            raise MetadataError(
                f"{path}: line {row}: expected an onset in seconds and a duration from 0 s on, found {onset} and "
                f"{duration}.",
                "Correct the table.",
            )
        # An unknown duration (n/a) does not end after the run.
        end = onset + (0.0 if math.isnan(duration) else duration)
        if end > duration_s + _EVENT_TOLERANCE_S:
            raise MetadataError(
                f"{path}: line {row}: the event {name!r} ends at {end:g} s, but the run ends at {duration_s:g} s.",
                "Check that the table belongs to this run, and whether the recording was aborted.",
            )
    return events


def scored_time_points(
    events: Sequence[Event], n_time_points: int, repetition_time_s: float, warmup_s: float, trial_types: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Return the time points that a loss or a score may use as a target.

    A time point ``t`` (in seconds) lies inside an event when ``onset <= t < onset + duration``. An event of unknown
    duration contains no time points.

    Parameters
    ----------
    events : sequence of (float, float, str)
        From :func:`read_events`.
    n_time_points : int
    repetition_time_s, warmup_s : float
        Seconds.
    trial_types : sequence of str
        Of the events that are scored. Where no event has one of them, all time points after the warm-up are scored.

    Returns
    -------
    scored : numpy.ndarray
        bool ``(n_time_points,)``.
    rule : str
        The rule in words.
    """
    time_s = np.arange(n_time_points) * repetition_time_s + _ROUNDING_S
    after_warmup = time_s >= warmup_s
    matching = [event for event in events if event[2] in trial_types]
    if not matching:
        reason = f"no event of type {' or '.join(trial_types)}" if events else "no events"
        return after_warmup, f"all time points after the warm-up ({reason})"
    inside = np.zeros(n_time_points, dtype=bool)
    for onset_s, duration_s, _ in matching:
        inside |= (time_s >= onset_s) & (time_s < onset_s + duration_s)
    rule = f"time points inside events of type {' or '.join(trial_types)}, after the warm-up"
    n_unknown = sum(math.isnan(duration_s) for _, duration_s, _ in matching)
    return inside & after_warmup, rule + (f", without {n_unknown} events of unknown duration" if n_unknown else "")
