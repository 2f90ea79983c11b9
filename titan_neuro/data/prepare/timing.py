"""When things happen in a run: the repetition time, the events, and the volumes that are scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.store.schema import Event
from titan_neuro.errors import MetadataError

# Clocks of stimulus and scanner differ a little.
_TOLERANCE_S = 1.0
# Multiples of a repetition time are rounded: 10 times 0.72 s is less than 7.2 s.
_ROUNDING_S = 1e-6


def repetition_time(recording: Recording, header: float | None) -> float:
    """Seconds from one volume to the next, from the sidecar and the image's header, which must not contradict it.

    Raises
    ------
    MetadataError
        Neither says anything, or not a time, or they differ.
    """
    sidecar = recording.repetition_time
    if sidecar is None and header is None:
        raise MetadataError(
            f"{recording.path}: no repetition time: neither RepetitionTime in its JSON sidecar nor a time step in its "
            "header.",
            'Write {"RepetitionTime": SECONDS} into the sidecar.',
        )
    found = sidecar if sidecar is not None else header
    if found is None or not (math.isfinite(found) and found > 0):
        raise MetadataError(
            f"{recording.path}: expected a repetition time above 0 s, found {found}.", "Correct the JSON sidecar."
        )
    if sidecar is not None and header is not None and not abs(sidecar - header) <= 1e-3:
        raise MetadataError(
            f"{recording.path}: the sidecar says a repetition time of {sidecar} s, the header {header} s.",
            "Correct the one that is wrong.",
        )
    return found


def read_events(path: Path, duration_s: float) -> list[Event]:
    """Rows (onset, duration, trial_type) of an events table, in seconds; the duration is NaN where it is not known.

    Onsets may lie before the first volume, as BIDS has it.

    Parameters
    ----------
    path : Path
    duration_s : float
        Of the run: an event that ends more than a second after it belongs to another run, or to another clock.

    Raises
    ------
    MetadataError
        Not a table with these columns, not numbers, or an event past the end.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype={"trial_type": str}, keep_default_na=False, na_values="n/a")
        lacking = {"onset", "duration"} - set(table.columns)
        if lacking:
            raise MetadataError(
                f"{path}: expected the columns onset, duration[, trial_type], found {', '.join(table.columns)}.",
                "Mend the table.",
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
                "Mend the table.",
            )
        # A duration that is not known (n/a) is no longer than the run.
        end = onset + (0.0 if math.isnan(duration) else duration)
        if end > duration_s + _TOLERANCE_S:
            raise MetadataError(
                f"{path}: line {row}: the event {name!r} ends at {end:g} s, but the run is over at {duration_s:g} s.",
                "Does the table belong to this run? Was the recording cut short? Correct the one that is wrong.",
            )
    return events


def scored_time_points(
    events: Sequence[Event], n_time_points: int, repetition_time_s: float, warmup_s: float, trial_types: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Return the volumes that a loss or a score may use as a target.

    A volume belongs to an event when its onset does: ``onset <= t < onset + duration``. An event whose duration is not
    known has no volumes.

    Parameters
    ----------
    events : sequence of (float, float, str)
    n_time_points : int
    repetition_time_s, warmup_s : float
    trial_types : sequence of str
        Of the events that are scored.

    Returns
    -------
    scored : numpy.ndarray
        bool ``(n_time_points,)``.
    rule : str
        By which they were chosen, in words.
    """
    onset = np.arange(n_time_points) * repetition_time_s + _ROUNDING_S
    warm = onset >= warmup_s
    chosen = [event for event in events if event[2] in trial_types]
    if not chosen:
        why = f"no event of type {' or '.join(trial_types)}" if events else "no events"
        return warm, f"all volumes after the warm-up ({why})"
    inside = np.zeros(n_time_points, dtype=bool)
    for start, duration, _ in chosen:
        inside |= (onset >= start) & (onset < start + duration)
    rule = f"volumes inside events of type {' or '.join(trial_types)}, after the warm-up"
    unknown = sum(math.isnan(duration) for _, duration, _ in chosen)
    return inside & warm, rule + (f", without {unknown} events of unknown duration" if unknown else "")
