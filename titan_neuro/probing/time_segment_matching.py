"""Probe 4, time-segment matching: does the memory identify the time point of the stimulus that a subject is at?

After Haxby et al. (2011); the data paper of ds003017 (Visconti di Oleggio Castello et al. 2020) reports it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from titan_neuro.probing.probe_settings import TimeSegmentMatchingConfig
from titan_neuro.probing.tools.results import (
    ProbedFold,
    ProbeResults,
    ProbeSetup,
    describe_p,
    paired_row,
    scores_table,
    tested_row,
)
from titan_neuro.probing.tools.stimulus_traces import LATE_OUTPUT, LATE_WEIGHTS, WEIGHT_READOUTS, StimulusTraces
from titan_neuro.probing.tools.time_segments import (
    SegmentMatches,
    accuracy_and_null,
    cut_segments,
    detrend_and_scale,
    match_segments,
)
from titan_neuro.probing.tools.trace import (
    ACTIVITY_PATTERN,
    MEMORY_OUTPUT,
    MEMORY_WEIGHTS,
    TIME_POLYNOMIAL,
    TOKENS,
    UNTRAINED_OUTPUT,
    UNTRAINED_WEIGHTS,
    time_polynomial,
)
from titan_neuro.typing import RunData

CONTROLS = (ACTIVITY_PATTERN, TOKENS, UNTRAINED_OUTPUT, UNTRAINED_WEIGHTS, TIME_POLYNOMIAL)
# In the order of the table.
_READOUTS = (MEMORY_WEIGHTS, LATE_WEIGHTS, MEMORY_OUTPUT, LATE_OUTPUT, *CONTROLS)
_REFERENCE_OF = {LATE_OUTPUT: MEMORY_OUTPUT, LATE_WEIGHTS: MEMORY_WEIGHTS}
_ACCURACY = "accuracy"
_MAX_LAG_BINS = 16

_Key = tuple[str, str, int]
"""Measure; readout; length of a segment in time points."""


class TimeSegmentMatchingProbe:
    """Match held-out runs with the average of other subjects, in the readouts of one model for all of them.

    Parameters
    ----------
    config : TimeSegmentMatchingConfig
    setup : ProbeSetup
    """

    def __init__(self, config: TimeSegmentMatchingConfig, setup: ProbeSetup) -> None:
        self.config, self.setup = config, setup
        # Accuracy at the time points at which memory weights are read.
        self._sparse_accuracy = f"{_ACCURACY}, one time point in {config.weights_every_time_points}"
        # Subject, stimulus and matches of each run.
        self._matches: dict[_Key, list[tuple[str, str, SegmentMatches]]] = {}
        # Runs by the reason why something was not tested.
        self._not_tested: dict[str, list[str]] = {}
        self._traces: StimulusTraces | None = None

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Match a held-out run, in each readout and with segments of each length."""
        if self._traces is None or self._traces.fold is not fold:
            self._traces = StimulusTraces(
                fold, every_time_points=self.config.weights_every_time_points, width=self.config.width
            )
        if run.n_time_points <= run.stimulus_start:
            self._note("the recording ends before the stimulus begins", run.key)
            return
        if not self._traces.reference_runs(run):
            self._note("no run of another subject shows the same stimulus", run.key)
            return
        readouts, reference = self._readouts(self._traces, run)
        for readout in readouts:
            is_weights = readout in WEIGHT_READOUTS
            for length in (1,) if is_weights else self.config.segment_time_points:
                for measure in (self._sparse_accuracy,) if is_weights else (_ACCURACY, self._sparse_accuracy):
                    self._match(run, (measure, readout, length), readouts[readout], reference[readout])

    def _readouts(self, traces: StimulusTraces, run: RunData) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Readouts of a run and of its reference, ``(time points of the stimulus, width)`` each."""
        readouts = traces.of_run(run)
        reference = traces.reference(run, readouts)
        if len(readouts[MEMORY_WEIGHTS]) and not readouts[MEMORY_WEIGHTS].any():
            self._note("the model has no memory that learns at test time, hence no memory weights", run.key)
        late = traces.of_late_start(run, self.config.late_start_time_points)
        if not late:
            self._note(
                f"the stimulus ends before a late start of {self.config.late_start_time_points} time points", run.key
            )
        for readout, values in late.items():
            readouts[readout], reference[readout] = values, reference[_REFERENCE_OF[readout]]
        longest = max(len(readouts[ACTIVITY_PATTERN]), len(reference[ACTIVITY_PATTERN]))
        readouts[TIME_POLYNOMIAL] = reference[TIME_POLYNOMIAL] = time_polynomial(longest)
        return readouts, reference

    def _note(self, reason: str, key: str) -> None:
        """Note why something of a run was not tested."""
        self._not_tested.setdefault(reason, []).append(key)

    def _match(self, run: RunData, key: _Key, values: np.ndarray, reference: np.ndarray) -> None:
        """Match one readout, ``(time points or readings, width)``, with segments of one length."""
        measure, readout, length = key
        n = min(len(values), len(reference))
        finite = np.flatnonzero(np.isfinite(values[:n, 0]) & np.isfinite(reference[:n, 0]))
        step = self.config.weights_every_time_points if readout in WEIGHT_READOUTS else 1
        times = (finite + 1) * step - 1
        is_inside = times < run.n_time_points - run.stimulus_start
        finite, times = finite[is_inside], times[is_inside]
        if len(finite) < 2:
            self._note(f"too few time points of {readout}", run.key)
            return
        degree = None if readout == TIME_POLYNOMIAL else self.config.detrend_degree
        scaled, reference_scaled = detrend_and_scale(values[finite], reference[finite], times, degree=degree)
        if not scaled.shape[1]:
            # No memory weights at all, which is noted once for all.
            return
        time_points = run.stimulus_start + times
        usable = np.asarray(run.scored)[time_points] & (np.arange(len(times)) >= length - 1)
        if measure == self._sparse_accuracy:
            usable &= (times + 1) % self.config.weights_every_time_points == 0
        ends = np.flatnonzero(usable)
        matches = match_segments(
            cut_segments(scaled, ends, length),
            cut_segments(reference_scaled, ends, length),
            times[ends],
            ~np.asarray(run.high_motion)[time_points[ends]],
            self._exclusion(length),
        )
        if not len(matches.lags):
            self._note(
                f"no segment of {length} time points of {readout} has another one outside its exclusion zone", run.key
            )
            return
        self._matches.setdefault(key, []).append((run.subject, run.stimulus, matches))

    def _exclusion(self, length: int) -> int:
        """Exclusion zone of segments of this length: overlapping ones share time points and correlate."""
        return max(self.config.exclusion_time_points, length - 1)

    def results(self) -> ProbeResults:
        """Return accuracies, their differences from the controls', and the lags of the best matches."""
        rows = [self._row(key) for key in self._ordered_keys()] + self._difference_rows()
        scores = scores_table(rows, measure=self._sparse_accuracy, condition=MEMORY_WEIGHTS)
        lags = self.lags()
        return ProbeResults(
            summary=self._summary(scores),
            tables={"scores": scores, **({"lags": lags} if len(lags) else {})},
            metadata=self._metadata(),
        )

    def _ordered_keys(self) -> list[_Key]:
        """Memory weights and their comparisons first, then accuracies at every time point; controls last."""
        return sorted(self._matches, key=lambda key: (key[0] == _ACCURACY, key[2], _READOUTS.index(key[1])))

    def _row(self, key: _Key) -> dict[str, Any]:
        measure, readout, length = key
        setup = self.setup
        accuracy, null = accuracy_and_null(
            self._matches[key],
            exclusion=self._exclusion(length),
            n_permutations=setup.n_permutations,
            seed=setup.seed,
        )
        x = length * setup.repetition_time
        return tested_row(measure, readout, accuracy, null, setup, is_control=readout in CONTROLS, x=x)

    def _difference_rows(self) -> list[dict[str, Any]]:
        """Accuracy of memory weights and of memory output less that of each control, paired by subject.

        Only accuracies over the same time points are compared. A polynomial of time, which is the same in all runs and
        identifies every time point, is not compared.
        """
        rows = []
        for measure, readout in ((self._sparse_accuracy, MEMORY_WEIGHTS), (_ACCURACY, MEMORY_OUTPUT)):
            for control_measure, control, length in self._ordered_keys():
                runs = self._matches.get((measure, readout, 1 if readout == MEMORY_WEIGHTS else length))
                is_other_output = readout == MEMORY_WEIGHTS and control == UNTRAINED_OUTPUT
                if (
                    runs is None
                    or control_measure != measure
                    or control not in CONTROLS
                    or control == TIME_POLYNOMIAL
                    or is_other_output
                ):
                    continue
                accuracy = _accuracy_by_subject(runs)
                of_control = _accuracy_by_subject(self._matches[measure, control, length])
                subjects = sorted(accuracy.keys() & of_control.keys())
                values = np.array([accuracy[subject] - of_control[subject] for subject in subjects])
                if len(values):
                    x = length * self.setup.repetition_time
                    condition = f"{readout} less {control}"
                    rows.append(paired_row("accuracy difference", condition, values, self.setup, x=x))
        return rows

    def lags(self) -> pd.DataFrame:
        """Return the distribution of the lag of the best match in the memory weights.

        Returns
        -------
        pandas.DataFrame
            ``condition`` (readout), ``lag_s`` (positive where the best match is later), ``fraction`` of segments (mean
            over subjects) and ``n_subjects``. The outermost bins contain all larger lags.
        """
        every, rows = self.config.weights_every_time_points, []
        for readout in (MEMORY_WEIGHTS, LATE_WEIGHTS):
            by_subject: dict[str, list[np.ndarray]] = {}
            for subject, _, matches in self._matches.get((self._sparse_accuracy, readout, 1), []):
                by_subject.setdefault(subject, []).append(matches.lags)
            fractions = []
            for lags in by_subject.values():
                bins = np.clip(np.rint(np.concatenate(lags) / every), -_MAX_LAG_BINS, _MAX_LAG_BINS).astype(int)
                fractions.append(np.bincount(bins + _MAX_LAG_BINS, minlength=2 * _MAX_LAG_BINS + 1) / len(bins))
            for index, fraction in enumerate(np.mean(fractions, axis=0) if fractions else ()):
                lag_s = (index - _MAX_LAG_BINS) * every * self.setup.repetition_time
                rows.append({"condition": readout, "lag_s": lag_s, "fraction": fraction, "n_subjects": len(fractions)})
        return pd.DataFrame(rows)

    def _chance(self) -> dict[str, float]:
        """Chance accuracy of each measure, with segments of the shortest length."""
        chance: dict[str, float] = {}
        for key in self._ordered_keys():
            chance.setdefault(key[0], float(np.mean([matches.chance for _, _, matches in self._matches[key]])))
        return chance

    def _summary(self, scores: pd.DataFrame) -> str:
        with_value = set(scores.condition[scores.n_subjects > 0])
        readout = next((name for name in (MEMORY_WEIGHTS, MEMORY_OUTPUT) if name in with_value), None)
        if readout is None:
            return f"No time segment was matched: {'; '.join(self._not_tested) or 'there is no held-out run'}."
        row = scores[scores.condition == readout].iloc[0]
        same = scores[(scores.measure == row.measure) & (scores.x == row.x)].set_index("condition").value
        untrained = UNTRAINED_WEIGHTS if readout == MEMORY_WEIGHTS else UNTRAINED_OUTPUT
        controls = [
            f"{same[name]:.0%} from {label}"
            for name, label in (
                (ACTIVITY_PATTERN, f"the {ACTIVITY_PATTERN}"),
                (untrained, f"the {readout} of an untrained model"),
            )
            if name in same.index
        ]
        chance = self._chance()[row.measure]
        return (
            f"From the {readout} alone, the time point of the stimulus is identified in {row.value:.0%} of cases "
            f"(chance {chance:.1%}, {describe_p(row.p)}, uncorrected). The accuracy is {' and '.join(controls)} "
            f"(n = {row.n_subjects}); only what exceeds all controls can be attributed to training."
        )

    def _metadata(self) -> dict[str, Any]:
        config = self.config
        subjects = sorted({subject for runs in self._matches.values() for subject, _, _ in runs})
        return {
            "Description": "Fraction of time segments of a held-out run that correlate more with the same segment of "
            f"other subjects' average than with every segment more than {config.exclusion_time_points} time points "
            "away (overlapping segments are never compared). One model for all runs.",
            "Test": "One-sided, p = (b + 1) / (n + 1). accuracy: circular shifts, the same for all subjects of a "
            f"stimulus, by more than {config.exclusion_time_points} time points; accuracy difference: sign-flip test "
            "over subjects",
            "Correction": "None: each row is a test of its own; the question is answered by the memory weights",
            "Interval": "95 % bootstrap over subjects",
            "Subjects": subjects,
            "x": {"Description": "Length of the segments (difference: of the control's)", "Units": "s"},
            "null": {
                "Description": "Mean, and 95 % range, over shifts (difference: over sign flips). A segment that "
                "matches its own time matches no other: if accuracy is high, the null lies below chance"
            },
            "Chance": {
                "Description": "Mean over segments of 1 / (segments outside the exclusion zone + 1): accuracy if all "
                "were equally likely. Neighbors in time are similar, so that it is a rough guide; shifts are the test",
                **self._chance(),
            },
            "Features": f"A polynomial of time of degree {config.detrend_degree} is subtracted from each feature over "
            "the run, which is then divided by the standard deviation of the reference: this uses the whole run, as a "
            f"probe may. Features wider than {config.width} are projected at random. The polynomial of time is not "
            "detrended: it shows what the time alone identifies, since runs are aligned, and why accuracy alone is no "
            "evidence of content",
            "LateStart": "The same memory, which reads the stimulus from its time point "
            f"{config.late_start_time_points} on, matched with the average of subjects read from the "
            "beginning: a count of the time points since the start would be wrong by as many",
            "MemoryOutput": "If the model has a recall, its output contains the average stimulus response of the "
            "training subjects, who are the reference: the untrained model has no such average",
            "Reference": "Average over training and validation subjects of the same stimulus, else over other test "
            "subjects. The model was trained on the runs of training subjects; a model loaded from disk can't exclude "
            "them",
            "NotTested": [_describe_runs(reason, keys) for reason, keys in self._not_tested.items()],
        }


def _describe_runs(reason: str, keys: Sequence[str]) -> str:
    return f"{reason} ({len(keys)} runs, such as {keys[0]})."


def _accuracy_by_subject(runs: Sequence[tuple[str, str, SegmentMatches]]) -> dict[str, float]:
    """Mean accuracy over the runs of each subject."""
    subjects = sorted({subject for subject, _, _ in runs})
    return {
        subject: float(np.mean([matches.by_shift[0] for other, _, matches in runs if other == subject]))
        for subject in subjects
    }
