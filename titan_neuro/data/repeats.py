"""Repeated segments: parts of the stimulus that one subject saw in two runs, found in the events tables."""

from __future__ import annotations

from collections.abc import Sequence

from titan_neuro.data.store.view import RunView
from titan_neuro.typing import Stretch

# The ``trial_type`` of ds003017 for the part of a movie that the previous run has shown.
OVERLAP = "overlap_with_previous_run"
# Delay of the response behind the stimulus. The hemodynamic response peaks after about 5 s; the first seconds of the
# second showing still contain the response to the fixation before it.
DELAY_S = 5.0

_Place = tuple[str, str | None, str | None, int]


def find_repeats(runs: Sequence[RunView]) -> list[tuple[Stretch, Stretch]]:
    """Pair each repeated segment with its first showing.

    An event ``overlap_with_previous_run`` of ``d`` seconds repeats the last ``d`` seconds of the stimulus of the
    previous run (the run number minus 1, in the same session and task), up to the end of that run's last stimulus
    event. Both segments are shifted by `DELAY_S`.

    Parameters
    ----------
    runs : sequence of RunView
        Of any subjects. Only segments of which both runs are given are paired.

    Returns
    -------
    list of (Stretch, Stretch)
        First and second showing, of equal length; empty if no event marks a repetition.
    """
    by_place = {_place(run): run for run in runs if run.store.entities.get("run", "").isdigit()}
    pairs = []
    for (subject, session, task, number), run in by_place.items():
        previous = by_place.get((subject, session, task, number - 1))
        stimulus_end = None if previous is None else _stimulus_end(previous)
        for onset, duration, trial_type in run.store.events:
            is_overlap = trial_type == OVERLAP and duration > 0
            if is_overlap and previous is not None and stimulus_end is not None:
                pairs += _pair(previous, stimulus_end - duration, run, onset, duration)
    return pairs


def _pair(
    previous: RunView, previous_onset_s: float, run: RunView, onset_s: float, duration_s: float
) -> list[tuple[Stretch, Stretch]]:
    first, second = (round((onset + DELAY_S) / run.repetition_time) for onset in (previous_onset_s, onset_s))
    available = min(previous.n_time_points - first, run.n_time_points - second)
    length = min(int(duration_s / run.repetition_time + 1e-6), available)
    if length < 2 or first < 0:
        return []
    return [(Stretch(previous, first, first + length), Stretch(run, second, second + length))]


def _place(run: RunView) -> _Place:
    entities = run.store.entities
    return run.subject, entities.get("session"), entities.get("task"), int(entities["run"])


def _stimulus_end(run: RunView) -> float | None:
    ends = [onset + duration for onset, duration, _ in run.store.stimulus_events if duration > 0]
    return max(ends, default=None)
