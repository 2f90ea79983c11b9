"""Timing of a run: repetition time, events, and the time points that are scored."""

from __future__ import annotations

import logging
import math
import reprlib
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.config import TimeSource
from titan_neuro.data.prepare.sidecar_values import is_finite_number
from titan_neuro.data.store.schema import Event
from titan_neuro.errors import MetadataError
from titan_neuro.tables import MISSING, numbers, read_tsv

logger = logging.getLogger(__name__)

# The clocks of stimulus and scanner differ slightly.
_EVENT_TOLERANCE_S = 1.0
# An event that ends at this multiple of the run's duration is in another unit: milliseconds are 1,000 of a second.
_OTHER_UNIT = 100
# Multiples of a repetition time have rounding errors: 10 times 0.72 s is less than 7.2 s.
_ROUNDING_S = 1e-6
# Headers are in single precision, and sidecars are rounded to milliseconds.
_SAME_TIME_S = 1e-3
# Times of volumes are rounded, too: how far they may lie from equal distances, in distances.
_EVEN = 0.01
# What can be a repetition time: anything else is in another unit, or no time at all.
_SHORTEST_S, _LONGEST_S = 0.01, 100.0


def repetition_time(
    recording: Recording, header_s: float | None, n_time_points: int, preferred: TimeSource | None = None
) -> float:
    """Return the repetition time (TR) of a recording, from its sidecar, else from its header.

    The sidecar gives it as ``RepetitionTime``, as ``VolumeTiming`` with equal steps, or as ``SamplingFrequency`` (Hz).

    Parameters
    ----------
    recording : Recording
    header_s : float or None
        Seconds, from the header of the image; None where it gives none.
    n_time_points : int
        Of the recording.
    preferred : {"sidecar", "header"}, optional
        Which one holds where the two differ. By default that is an error for an image as recorded; for a preprocessed
        one the sidecar holds, because the programs that write such images often leave 1 in the header.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    MetadataError
        Neither gives a repetition time; it is not a number from 0.01 to 100 s; the two differ; the volumes are not
        evenly spaced (``VolumeTiming``).
    """
    given_s = sidecar_repetition_time(recording, n_time_points)
    differ = given_s is not None and header_s is not None and not abs(given_s - header_s) <= _SAME_TIME_S
    if differ and preferred is None and recording.route == "preprocessed":
        logger.warning(
            "%s: the sidecar gives a repetition time of %g s, the header %g s: of a preprocessed image the sidecar "
            "holds (--set prepare.repetition_time_from=header says otherwise).",
            *(recording.path.name, given_s, header_s),
        )
    elif differ and preferred is None:
        raise MetadataError(
            f"{recording.path}: the sidecar gives a repetition time of {given_s} s, the header {header_s} s.",
            "Correct the one that is wrong, or say which is right with --set prepare.repetition_time_from=sidecar (or "
            "header).",
        )
    if header_s is not None and (given_s is None or (differ and preferred == "header")):
        return _require_repetition_time(recording.path, "the header", header_s)
    if given_s is None:
        raise MetadataError(
            f"{recording.path}: no repetition time: neither RepetitionTime in its JSON sidecar nor a time step in its "
            "header.",
            'Write {"RepetitionTime": SECONDS} into the sidecar.',
        )
    return given_s


def sidecar_repetition_time(recording: Recording, n_time_points: int | None = None) -> float | None:
    """Return the repetition time that the sidecar of a recording gives, in seconds; None where it gives none.

    Parameters
    ----------
    recording : Recording
    n_time_points : int, optional
        Of the recording: the number of times that ``VolumeTiming`` must have.

    Raises
    ------
    MetadataError
        See :func:`repetition_time`.
    """
    sidecar, path = recording.sidecar, recording.path
    found: dict[str, float] = {}
    if sidecar.get("VolumeTiming") is not None:
        found["VolumeTiming"] = _volume_step(path, sidecar["VolumeTiming"], n_time_points)
    if sidecar.get("RepetitionTime") is not None:
        found["RepetitionTime"] = _require_repetition_time(path, "RepetitionTime", sidecar["RepetitionTime"])
    frequency = sidecar.get("SamplingFrequency")
    # Some programs write the word "TR" instead of a frequency.
    if not found and frequency is not None and not isinstance(frequency, str):
        is_valid = is_finite_number(frequency) and frequency > 0
        found["SamplingFrequency"] = _require_repetition_time(
            path, "1 / SamplingFrequency", 1 / frequency if is_valid else frequency
        )
    if len(found) == 2 and abs(found["VolumeTiming"] - found["RepetitionTime"]) > _SAME_TIME_S:
        raise MetadataError(
            f"{path}: the sidecar gives a RepetitionTime of {found['RepetitionTime']} s, and a VolumeTiming with steps "
            f"of {found['VolumeTiming']} s.",
            "Correct the sidecar; BIDS allows only one of the two.",
        )
    return next(iter(found.values()), None)


def _volume_step(path: Path, times: object, n_time_points: int | None) -> float:
    """Return the step of ``VolumeTiming``: seconds, the same for all volumes."""
    hint = (
        "Forecasts need evenly spaced volumes. Leave the run out (--exclude), or resample it in time and write a "
        "RepetitionTime instead."
    )
    if not isinstance(times, list) or len(times) < 2 or not all(map(is_finite_number, times)):
        raise MetadataError(f"{path}: expected the times of all volumes in VolumeTiming, in seconds.", hint)
    if n_time_points is not None and len(times) != n_time_points:
        raise MetadataError(
            f"{path}: expected {n_time_points} times in VolumeTiming, one for each volume, found {len(times)}.", hint
        )
    seconds = np.asarray(times, dtype=np.float64)
    steps, mean_step = np.diff(seconds), (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    if (np.abs(seconds - seconds[0] - mean_step * np.arange(len(seconds))) > _EVEN * abs(mean_step)).any():
        usual = float(np.median(steps))
        other = int(np.abs(steps - usual).argmax())
        raise MetadataError(
            f"{path}: expected volumes at equal distances, found {usual:g} s and, after volume {other}, "
            f"{steps[other]:g} s (VolumeTiming).",
            hint,
        )
    if abs(times[0]) > _SAME_TIME_S:
        raise MetadataError(
            f"{path}: expected the first volume at 0 s, found it at {times[0]:g} s (VolumeTiming): the onsets of "
            "events are ambiguous.",
            "Count the times in VolumeTiming and the onsets of the events table from the first volume.",
        )
    return _require_repetition_time(path, "VolumeTiming", round(float(mean_step), 6))


def _require_repetition_time(path: Path, source: str, value: object) -> float:
    if isinstance(value, int | float) and is_finite_number(value) and _SHORTEST_S <= value <= _LONGEST_S:
        return float(value)
    raise MetadataError(
        f"{path}: expected a repetition time, a number from {_SHORTEST_S:g} to {_LONGEST_S:g} s, found "
        f"{reprlib.repr(value)} ({source}).",
        "BIDS counts it in seconds, not milliseconds. Correct the JSON sidecar."
        if source != "the header"
        else 'Write {"RepetitionTime": SECONDS} into the sidecar, and set prepare.repetition_time_from=sidecar.',
    )


def read_events(path: Path) -> list[Event]:
    """Read an events table.

    Onsets may lie before the first volume, as BIDS allows.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of (float, float, str)
        Onset and duration in seconds, and ``trial_type``; the duration is NaN where the table gives ``n/a``.

    Raises
    ------
    InputNotFoundError
        The file can't be read.
    MetadataError
        The file is no table, lacks a column, or has values that are no numbers.
    """
    table = read_tsv(path, required=("onset", "duration"), blank_lines=True)
    onsets, durations = numbers(path, table["onset"]), numbers(path, table["duration"])
    valid = np.isfinite(onsets) & ~((durations < 0) | np.isinf(durations))
    if not valid.all():
        row = int(valid.argmin())
        raise MetadataError(
            f"{path}: line {table.index[row]}: expected an onset in seconds and a duration from 0 s on, found "
            f"{onsets[row]} and {durations[row]}.",
            "Correct the table.",
        )
    types = ["" if name == "n/a" else name for name in table["trial_type"]] if "trial_type" in table else repeat("")
    return list(zip(onsets.tolist(), durations.tolist(), types, strict=False))


def read_event_columns(path: Path, duration_s: float) -> dict[str, list[str]]:
    """Read what an events table says of its events beyond onset, duration and ``trial_type``.

    Parameters
    ----------
    path : Path
        A table that :func:`read_events` reads.
    duration_s : float
        Duration of the run, in seconds.

    Returns
    -------
    dict of str to list of str
        By the name of the column, a text for each of the events that :func:`events_within` keeps, in their order
        (``""`` where the table has no value). Columns without any value are left out.
    """
    table = read_tsv(path, required=("onset", "duration"), blank_lines=True)
    table = table[numbers(path, table["onset"]) <= duration_s + _EVENT_TOLERANCE_S]
    columns = {
        name: ["" if text in MISSING else str(text) for text in table[name]]
        for name in table.columns.difference(["onset", "duration", "trial_type"], sort=False)
    }
    return {str(name): texts for name, texts in columns.items() if any(texts)}


def events_within(events: Sequence[Event], duration_s: float, path: Path) -> tuple[list[Event], str | None]:
    """Clip events at the end of a run, and leave out those that begin after it: a scan is often stopped early.

    Parameters
    ----------
    events : sequence of (float, float, str)
        From :func:`read_events`.
    duration_s : float
        Duration of the run. Events that end up to a second later stay as they are: the clocks of stimulus and scanner
        differ.
    path : Path
        Of the table, for messages.

    Returns
    -------
    events : list of (float, float, str)
    note : str or None
        What was clipped and left out, in words; None for nothing.

    Raises
    ------
    MetadataError
        Every event begins after the end of the run, or one ends at a hundred times its duration: the table belongs to
        another run, or counts milliseconds.
    """
    limit_s = duration_s + _EVENT_TOLERANCE_S
    # An unknown duration (n/a) does not end after the run.
    ends = [onset + (0.0 if math.isnan(duration) else duration) for onset, duration, _ in events]
    if max(ends, default=0.0) <= limit_s:
        return list(events), None
    last = max(range(len(ends)), key=ends.__getitem__)
    if all(onset > limit_s for onset, _, _ in events) or ends[last] > _OTHER_UNIT * max(duration_s, 1.0):
        raise MetadataError(
            f"{path}: expected events of a run of {duration_s:g} s, found an event {events[last][2]!r} at "
            f"{events[last][0]:g} s that ends at {ends[last]:g} s.",
            "Check that the table belongs to this run, and that its onsets and durations are in seconds.",
        )
    kept = [event for event in events if event[0] <= limit_s]
    clipped = [
        (onset, duration if math.isnan(duration) else min(duration, max(duration_s - onset, 0.0)), name)
        if onset + duration > limit_s
        else (onset, duration, name)
        for onset, duration, name in kept
    ]
    n_clipped = sum(new != old for new, old in zip(clipped, kept, strict=True) if not math.isnan(old[1]))
    note = (
        f"of {len(events)} events, {n_clipped} ended after the last volume ({duration_s:g} s) and were clipped, and "
        f"{len(events) - len(kept)} began after it and were left out"
    )
    return clipped, note


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
    onsets, durations = (np.array([event[index] for event in matching], dtype=np.float64) for index in (0, 1))
    # How many events begin at a time point, less those that end there; an event of unknown duration does neither.
    changes = np.zeros(n_time_points + 1, dtype=np.int64)
    np.add.at(changes, np.searchsorted(time_s, onsets), 1)
    np.add.at(changes, np.searchsorted(time_s, onsets + np.nan_to_num(durations)), -1)
    inside = np.cumsum(changes[:-1]) > 0
    rule = f"time points inside events of type {' or '.join(trial_types)}, after the warm-up"
    n_unknown = sum(math.isnan(duration_s) for _, duration_s, _ in matching)
    return inside & after_warmup, rule + (f", without {n_unknown} events of unknown duration" if n_unknown else "")
