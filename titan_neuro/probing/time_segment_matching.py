"""Probe 4, moment matching: from what the memory holds, find the moment of the stimulus that a subject is at.

Time-segment matching after Haxby et al. (2011), which the data paper of ds003017 (Visconti di Oleggio Castello et al.
2020) also reports.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from titan_neuro.probing.tools.results import (
    SCORES,
    ProbeContext,
    ProbedFold,
    ProbeResults,
    paired_row,
    score_row,
    tested_row,
)
from titan_neuro.probing.tools.stimulus_traces import STATES, StimulusTraces
from titan_neuro.probing.tools.time_segments import Matched, match_segments, segments, shifted_means, standardized
from titan_neuro.probing.tools.trace import time_polynomial
from titan_neuro.typing import RunData

CONTROLS = ("time_point", "encoded", "untrained memory", "untrained state", "polynomial of time")
_CLOCK, _LATE = "polynomial of time", " begun late"
_LAG_BINS = 16


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TimeSegmentMatchingConfig:
    """How moments are matched.

    Attributes
    ----------
    window_time_points : tuple of int
        Lengths of the segments that are matched, for all that is there at every time point; a state, which has read all
        time points before, is matched alone.
    exclusion_time_points : int
        Moments are told from those more than so many time points away.
    state_every_time_points : int
        Time points from one reading of the state to the next.
    detrend_degree : int
        Degree of the polynomial of time that is taken from every feature over a run: what a slow clock knows.
    begun_late_time_points : int
        How much of the stimulus a memory misses that begins late; a clock that it kept would be wrong by as much.
    width : int
        Wider features are projected at random onto so many numbers.
    """

    window_time_points: tuple[Annotated[int, Field(ge=1)], ...] = (1, 9)
    exclusion_time_points: Annotated[int, Field(ge=1)] = 15
    state_every_time_points: Annotated[int, Field(ge=1)] = 8
    detrend_degree: Annotated[int, Field(ge=0)] = 3
    begun_late_time_points: Annotated[int, Field(ge=1)] = 64
    width: Annotated[int, Field(ge=8)] = 512


class TimeSegmentMatchingProbe:
    """Match held-out runs with the average of other subjects, in what one model holds of all of them.

    Parameters
    ----------
    config : TimeSegmentMatchingConfig
    metadata : ProbeContext
    """

    def __init__(self, config: TimeSegmentMatchingConfig, metadata: ProbeContext) -> None:
        self.config, self.metadata = config, metadata
        self._every = "accuracy"
        self._sparse = f"accuracy, one time point in {config.state_every_time_points}"
        self._found: dict[tuple[str, str, int], list[tuple[str, str, Matched]]] = {}
        self._not_asked: dict[str, list[str]] = {}
        self._traces: StimulusTraces | None = None

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Match a held-out run, in each kind of features and with segments of each length."""
        if self._traces is None or self._traces.fold is not fold:
            self._traces = StimulusTraces(
                fold, every_time_points=self.config.state_every_time_points, width=self.config.width
            )
        traces = self._traces
        if run.n_time_points <= run.stimulus_start:
            self._refuse("the recording ends before the stimulus begins", run.key)
            return
        if not traces.others_of(run):
            self._refuse("no run of another subject shows the same stimulus", run.key)
            return
        own = traces.own(run)
        reference = traces.reference(run, own)
        if len(own["state"]) and not own["state"].any():
            self._refuse("the model has no memory that learns at test time, so that there is no state", run.key)
        late = traces.begun_late(run, self.config.begun_late_time_points)
        if not late:
            self._refuse(
                f"the stimulus ends before a memory begins {self.config.begun_late_time_points} time points late",
                run.key,
            )
        for kind, values in late.items():
            own[kind], reference[kind] = values, reference[kind.removesuffix(_LATE)]
        longest = max(len(own["time_point"]), len(reference["time_point"]))
        own[_CLOCK] = reference[_CLOCK] = time_polynomial(longest)
        for kind in own:
            for window in (1,) if kind in STATES else self.config.window_time_points:
                for measure in (self._sparse,) if kind in STATES else (self._every, self._sparse):
                    self._match(run, measure, kind, window, own[kind], reference[kind])

    def _refuse(self, why: str, key: str) -> None:
        self._not_asked.setdefault(why, []).append(key)

    def _match(
        self, run: RunData, measure: str, kind: str, window: int, own: np.ndarray, reference: np.ndarray
    ) -> None:
        """Match one kind of features at one length, and keep what was found."""
        n = min(len(own), len(reference))
        there = np.flatnonzero(np.isfinite(own[:n, 0]) & np.isfinite(reference[:n, 0]))
        step = self.config.state_every_time_points if kind in STATES else 1
        times = (there + 1) * step - 1
        inside = times < run.n_time_points - run.stimulus_start
        there, times = there[inside], times[inside]
        if len(there) < 2:
            self._refuse(f"too few moments for {kind}", run.key)
            return
        degree = None if kind == _CLOCK else self.config.detrend_degree
        ours, theirs = standardized(own[there], reference[there], times, degree=degree)
        if not ours.shape[1]:
            # Said once already where there is no state at all.
            return
        series = run.stimulus_start + times
        usable = np.asarray(run.scored)[series] & (np.arange(len(times)) >= window - 1)
        if measure == self._sparse:
            usable &= (times + 1) % self.config.state_every_time_points == 0
        ends = np.flatnonzero(usable)
        found = match_segments(
            segments(ours, ends, window),
            segments(theirs, ends, window),
            times[ends],
            ~np.asarray(run.high_motion)[series[ends]],
            self._away(window),
        )
        if not len(found.lags):
            self._refuse(
                f"no moment for {kind} with segments of {window} time points has another far enough away", run.key
            )
            return
        self._found.setdefault((measure, kind, window), []).append((run.subject, run.stimulus, found))

    def _away(self, window: int) -> int:
        """Segments that overlap are alike because they share time points."""
        return max(self.config.exclusion_time_points, window - 1)

    def results(self) -> ProbeResults:
        """Return accuracies, their differences from the controls', and how far off the state's moments are."""
        rows = [self._row(*key) for key in sorted(self._found, key=_order)] + self._differences()
        if not rows:
            rows = [score_row(self._sparse, "state")]
        scores = pd.DataFrame(rows, columns=list(SCORES))
        subjects = sorted({subject for found in self._found.values() for subject, _, _ in found})
        return ProbeResults(
            sentence=self._sentence(scores),
            tables={"scores": scores, **({"lags": lags} if len(lags := self.lags()) else {})},
            metadata=self._metadata(subjects),
        )

    def _row(self, measure: str, kind: str, window: int) -> dict[str, Any]:
        runs, metadata = self._found[measure, kind, window], self.metadata
        values, null = shifted_means(
            runs, away=self._away(window), n_permutations=metadata.n_permutations, seed=metadata.seed
        )
        x = window * metadata.repetition_time
        return tested_row(measure, kind, values, null, metadata, is_control=kind in CONTROLS, x=x)

    def _differences(self) -> list[dict[str, Any]]:
        """Memory and state less each control, subject by subject.

        None is taken from a polynomial of time, which is the same in all runs and finds every moment, nor between
        accuracies of different moments.
        """
        rows = []
        for measure, kind in ((self._sparse, "state"), (self._every, "memory")):
            for other_measure, control, window in sorted(self._found, key=_order):
                own = self._found.get((measure, kind, 1 if kind == "state" else window))
                if own is None or other_measure != measure or control not in CONTROLS or control == _CLOCK:
                    continue
                if kind == "memory" or control != "untrained memory":
                    ours, theirs = _by_subject(own), _by_subject(self._found[measure, control, window])
                    both = sorted(ours.keys() & theirs.keys())
                    values = np.array([ours[subject] - theirs[subject] for subject in both])
                    if len(values):
                        x = window * self.metadata.repetition_time
                        rows.append(
                            paired_row("accuracy difference", f"{kind} less {control}", values, self.metadata, x=x)
                        )
        return rows

    def lags(self) -> pd.DataFrame:
        """Return how far the best moment lies from the true one: shares of moments, mean over subjects.

        ``lag_s`` is positive where the moment found is a later one. What lies farther off than the outermost bins is
        counted in them.
        """
        every, rows = self.config.state_every_time_points, []
        for kind in ("state", f"state{_LATE}"):
            runs = self._found.get((self._sparse, kind, 1), [])
            by_subject: dict[str, list[np.ndarray]] = {}
            for subject, _, found in runs:
                by_subject.setdefault(subject, []).append(found.lags)
            shares = []
            for lags in by_subject.values():
                bins = np.clip(np.rint(np.concatenate(lags) / every), -_LAG_BINS, _LAG_BINS).astype(int) + _LAG_BINS
                shares.append(np.bincount(bins, minlength=2 * _LAG_BINS + 1) / len(bins))
            for index, share in enumerate(np.mean(shares, axis=0) if shares else ()):
                lag_s = (index - _LAG_BINS) * every * self.metadata.repetition_time
                rows.append({"condition": kind, "lag_s": lag_s, "share": share, "n_subjects": len(shares)})
        return pd.DataFrame(rows)

    def _chance(self) -> dict[str, float]:
        """By measure, for segments of the first length."""
        first: dict[str, float] = {}
        for measure, kind, window in sorted(self._found, key=_order):
            found = [matched.chance for _, _, matched in self._found[measure, kind, window]]
            first.setdefault(measure, float(np.mean(found)))
        return first

    def _sentence(self, scores: pd.DataFrame) -> str:
        shown = next(
            (kind for kind in ("state", "memory") if kind in set(scores.condition[scores.n_subjects > 0])), None
        )
        if shown is None:
            return f"Moments could not be matched: {'; '.join(self._not_asked) or 'there is no held-out run'}."
        row = scores[scores.condition == shown].iloc[0]
        same = scores[(scores.measure == row.measure) & (scores.x == row.x)].set_index("condition")
        beside = [
            f"{same.value[kind]:.0%} from {words}"
            for kind, words in (
                ("time_point", "the time point alone"),
                ("untrained state", "an untrained memory's state"),
            )
            if kind in same.index
        ]
        chance = self._chance()[row.measure]
        tested = f"one-sided p = {row.p:.2g} by circular shifts" if np.isfinite(row.p) else "too short to be tested"
        return (
            f"From the {shown} of the memory alone, the moment of the stimulus that another subject is at is found in "
            f"{row.value:.0%} of cases (chance {chance:.1%}, {tested}, n = {row.n_subjects}, uncorrected)"
            f"{': ' if beside else ''}{', '.join(beside)}."
        )

    def _metadata(self, subjects: list[str]) -> dict[str, Any]:
        config = self.config
        return {
            "Description": "Share of moments of a held-out run that are matched with the same moment of other "
            f"subjects' average better than with every moment more than {config.exclusion_time_points} time points away (segments "
            "that overlap are never compared). Same model for all; correlation over features of the last time points.",
            "Test": "accuracy: circular shifts of the subjects' moments, the same for all subjects of a stimulus, none "
            f"to within {config.exclusion_time_points} time points; accuracy difference: paired sign-flip over subjects. One-sided, "
            "p = (b + 1) / (n + 1)",
            "Correction": "None: each row is a test of its own; the question is the state's",
            "Interval": "95 % bootstrap over subjects",
            "Subjects": subjects,
            "x": {"Description": "Length of the segment that is matched (difference: of the control's)", "Units": "s"},
            "null": {
                "Description": "Mean, and 95 % range, over shifts (difference: over sign flips). A segment that "
                "matches its own moment matches no other: where much is found, shifts find less than chance would"
            },
            "Chance": {
                "Description": "Mean over moments of 1 / (moments far enough away + 1): accuracy where all are equally "
                "likely. Neighbours in time are alike, so that it is a rough guide, and shifts are the test",
                **self._chance(),
            },
            "Features": f"A polynomial of time of degree {config.detrend_degree} is taken from each feature over the "
            "run, and the spread of the reference from both: this looks at the whole run, as a probe may. Wider "
            f"features than {config.width} are projected at random. Polynomial of time: not detrended; what a clock "
            "finds, since runs are aligned, and why an accuracy alone does not show that content was held",
            "BegunLate": f"The same memory, shown the stimulus from time point {config.begun_late_time_points} on, matched with "
            "others who saw it from the start: a count of the time points since the start would be wrong by as many",
            "Memory": "What the memories say at each time point. Where the model has a recall, that is read, too, off the "
            "average stimulus of its training subjects, who are the reference: an untrained memory has no such stimulus",
            "Reference": "Average over training and validation subjects of the same stimulus, else over other test "
            "subjects. Training subjects' traces come from a model that was trained on their runs; a model read from "
            "disk can't leave them out",
            "NotAsked": [f"{why} ({len(keys)} runs, such as {keys[0]})." for why, keys in self._not_asked.items()],
        }


def _order(key: tuple[str, str, int]) -> tuple[bool, int, int]:
    """The state and what it is compared with first, then the memory at every time point; controls come last."""
    measure, kind, window = key
    kinds = ("state", f"state{_LATE}", "memory", f"memory{_LATE}", *CONTROLS)
    return measure == "accuracy", window, kinds.index(kind)


def _by_subject(runs: list[tuple[str, str, Matched]]) -> dict[str, float]:
    subjects = sorted({subject for subject, _, _ in runs})
    return {
        subject: float(np.mean([found.by_shift[0] for other, _, found in runs if other == subject]))
        for subject in subjects
    }
