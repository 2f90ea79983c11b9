"""Segments that were shown twice to one subject, as the events of ds003017 tell them."""

from __future__ import annotations

from collections.abc import Sequence

from titan_neuro.data.store.view import RunView
from titan_neuro.typing import Stretch

OVERLAP = "overlap_with_previous_run"
# Time points are taken so long after what was shown: the response peaks about 5 s later, and the first seconds of the
# second showing still hold the fixation before it.
DELAY_S = 5.0


def find_repeats(runs: Sequence[RunView]) -> list[tuple[Stretch, Stretch]]:
    """Pair what a run shows again with where the run before it had shown it.

    An event ``overlap_with_previous_run`` of ``d`` seconds repeats the last ``d`` seconds of the stimulus of the run
    with the number before, in the same session and task: those before the end of its last scored event. Both showings
    are taken `DELAY_S` later.

    Parameters
    ----------
    runs : sequence of RunView
        Of any subjects. A repeat counts where both runs are there.

    Returns
    -------
    list of (Stretch, Stretch)
        First and second showing, of one length; none where no event says so.
    """
    by_place = {_place(run): run for run in runs if run.store.entities.get("run", "").isdigit()}
    found = []
    for (*others, number), run in by_place.items():
        before = by_place.get((*others, number - 1))
        end = None if before is None else _stimulus_end(before)
        for onset, duration, kind in run.store.events:
            if kind == OVERLAP and before is not None and end is not None and duration > 0:
                found += _pair(before, end - duration, run, onset, duration)
    return found


def _pair(
    before: RunView, first_s: float, run: RunView, second_s: float, duration_s: float
) -> list[tuple[Stretch, Stretch]]:
    starts = [round((onset + DELAY_S) / run.repetition_time) for onset in (first_s, second_s)]
    room = min(before.n_time_points - starts[0], run.n_time_points - starts[1])
    length = min(int(duration_s / run.repetition_time + 1e-6), room)
    if length < 2 or starts[0] < 0:
        return []
    one, other = (Stretch(view, start, start + length) for view, start in zip((before, run), starts, strict=True))
    return [(one, other)]


def _place(run: RunView) -> tuple[str, str | None, str | None, int]:
    entities = run.store.entities
    return run.subject, entities.get("session"), entities.get("task"), int(entities["run"])


def _stimulus_end(run: RunView) -> float | None:
    ends = [onset + duration for onset, duration, _ in run.store.stimulus_events if duration > 0]
    return max(ends, default=None)
