"""Probe 3, surprise: is the memory more surprised at event boundaries of the stimulus than elsewhere?

Surprise is the norm of the memory's gradient (Behrouz et al. 2025). Events are segmented from the brains of other
subjects (Baldassano et al. 2017), or annotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from titan_neuro.probing.probe_settings import SurpriseConfig
from titan_neuro.probing.tools.annotations import NO_EVENTS
from titan_neuro.probing.tools.event_boundaries import (
    Null,
    RunMeasures,
    average_subjects,
    boundary_contrast,
    count_events,
    find_events,
)
from titan_neuro.probing.tools.memory_surprise import (
    ACTIVITY,
    GLOBAL_SIGNAL,
    MEASURES,
    prediction_pair,
    record_activity_change,
    record_surprise,
)
from titan_neuro.probing.tools.results import (
    ProbedFold,
    ProbeResults,
    ProbeSetup,
    describe_p,
    paired_row,
    score_row,
    scores_table,
    signed,
    tested_row,
)
from titan_neuro.probing.tools.trace import TIME_POLYNOMIAL, time_polynomial
from titan_neuro.probing.tools.untrained import untrained_name
from titan_neuro.typing import RunData

# Kinds of events.
BRAIN_EVENTS, ANNOTATED_EVENTS = "events in other subjects' brains", "annotated events"
PAIRED = "paired with its control"
NULLS: dict[Null, str] = {"shifts": "circular shifts", "lengths": "event lengths shuffled"}
DISPLACEMENT = "framewise displacement"
CONTROLS = (*map(untrained_name, MEASURES), ACTIVITY, GLOBAL_SIGNAL, DISPLACEMENT, TIME_POLYNOMIAL)
COLUMNS = (*MEASURES, *CONTROLS)
# Coefficient of variation of event lengths below which shuffling them moves boundaries too little to be a test. Events
# that an HMM finds in white noise have 0.2, those at random times 0.8.
_EVEN = 0.4


class SurpriseProbe:
    """Record the surprise at each time point and the event boundaries of each run; contrast them over all runs.

    Events are segmented from the average of training subjects who saw the same stimulus; where there are none, of other
    test subjects. The subject of the run never contributes to its own events.

    Parameters
    ----------
    config : SurpriseConfig
    setup : ProbeSetup
    """

    def __init__(self, config: SurpriseConfig, setup: ProbeSetup) -> None:
        self.config, self.setup = config, setup
        self._runs: list[RunMeasures] = []
        self._not_tested: list[str] = []
        self._fold: ProbedFold | None = None
        # First time points of events, counted from the stimulus's beginning, by the runs that they were found in.
        self._events: dict[tuple[str, ...], np.ndarray] = {}

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Record the surprise of the model and of the untrained model in a held-out run."""
        usable = np.asarray(run.scored & ~run.high_motion)
        if not usable.any():
            self._not_tested.append(f"{run.key} has no usable time point.")
            return
        if self._fold is not fold:
            self._fold, self._events = fold, {}
        measures: dict[str, np.ndarray] = dict(record_surprise(fold.model, run))
        measures |= {
            untrained_name(name): values for name, values in record_surprise(fold.untrained_model, run).items()
        }
        measures |= record_activity_change(run)
        displacement = getattr(run, "displacement", None)
        measures[DISPLACEMENT] = (
            np.full(run.n_time_points, np.nan) if displacement is None else np.asarray(displacement, float)
        )
        measures[TIME_POLYNOMIAL] = _fit_polynomial([measures[name] for name in MEASURES], usable)
        boundaries = {BRAIN_EVENTS: self._brain_events(fold, run), ANNOTATED_EVENTS: self._annotated_events(run)}
        self._runs.append(
            RunMeasures(
                key=run.key,
                subject=run.subject,
                stimulus=run.stimulus,
                values=np.column_stack([measures[name] for name in COLUMNS]),
                usable=usable,
                boundaries={kind: _within_usable(starts, usable) for kind, starts in boundaries.items()},
            )
        )

    def _brain_events(self, fold: ProbedFold, run: RunData) -> np.ndarray:
        """First time points, in `run`, of the events segmented from other subjects' brains."""
        for runs in (fold.training_runs, fold.test_runs):
            others = [other for other in runs if other.stimulus == run.stimulus and other.subject != run.subject]
            if others:
                break
        else:
            self._not_tested.append(f"{run.key}: no other subject saw the same stimulus to segment events from.")
            return np.zeros(0, int)
        key = tuple(other.key for other in others)
        if key not in self._events:
            components = fold.model.components
            average, positions = average_subjects(others, None if components is None else components.basis)
            n_events = count_events(len(average), self.config.event_s / self.setup.repetition_time)
            starts = (
                find_events(average, n_events=n_events, n_components=self.config.n_components)
                if n_events
                else np.zeros(0, int)
            )
            self._events[key] = positions[starts]
        return self._events[key] + run.stimulus_start

    def _annotated_events(self, run: RunData) -> np.ndarray:
        """First time points of annotated events, after the hemodynamic delay."""
        onsets = [onset + self.config.delay_s for onset, _, kind in getattr(run, "events", ()) if kind not in NO_EVENTS]
        time_points = np.asarray(onsets, float) / self.setup.repetition_time
        return np.unique(np.floor(time_points[np.isfinite(time_points)] + 0.5).astype(int))

    def results(self) -> ProbeResults:
        """Return the contrast of each measure, near boundaries less elsewhere, and its null distributions."""
        rows = [row for kind in (BRAIN_EVENTS, ANNOTATED_EVENTS) for null in NULLS for row in self._rows(kind, null)]
        not_tested = list(self._not_tested)
        not_tested += [f"No run has {kind}." for kind in (BRAIN_EVENTS, ANNOTATED_EVENTS) if not self._runs_with(kind)]
        missing = [name for name in COLUMNS if rows and not any(r["n_subjects"] for r in rows if r["measure"] == name)]
        not_tested += [f"No run has a {name} that varies." for name in missing]
        kinds = [kind for kind in (BRAIN_EVENTS, ANNOTATED_EVENTS) if self._runs_with(kind)]
        variation = {kind: self._length_variation(kind) for kind in kinds}
        even = [kind for kind, coefficient in variation.items() if coefficient < _EVEN]
        not_tested += [
            f"{kind}: the lengths are too even to be shuffled (coefficient of variation {variation[kind]:.2f}; of "
            "events found in white noise 0.2, at random times 0.8), so only circular shifts count."
            for kind in even
        ]
        scores = scores_table(rows, measure=MEASURES[0], condition=BRAIN_EVENTS, x=self.config.window_s)
        scores = scores[~scores["measure"].isin(missing)].reset_index(drop=True)
        corrected = _corrected(scores, even)
        tables = {"scores": scores}
        if self._runs:
            tables["timeseries"] = self._timeseries()
        return ProbeResults(
            summary=self._summary(scores, corrected, not_tested),
            tables=tables,
            metadata={**self._metadata(corrected, not_tested), "EventLengthVariation": variation},
        )

    def _length_variation(self, kind: str) -> float:
        """Coefficient of variation of the lengths of events, the mean over runs."""
        lengths = [np.diff([run.span[0], *run.boundaries[kind], run.span[1]]) for run in self._runs_with(kind)]
        return float(np.mean([each.std() / each.mean() for each in lengths]))

    def _runs_with(self, kind: str) -> list[RunMeasures]:
        return [run for run in self._runs if len(run.boundaries[kind])]

    def _rows(self, kind: str, null: Null) -> list[dict[str, Any]]:
        runs = self._runs_with(kind)
        if not runs:
            return []
        observed, permuted = boundary_contrast(
            runs,
            kind,
            null,
            half_width=round(self.config.window_s / self.setup.repetition_time),
            n_permutations=self.setup.n_permutations,
            seed=self.setup.seed,
        )
        rows = [
            self._row(name, f"{kind}, {NULLS[null]}", observed[:, index], permuted[:, index])
            for index, name in enumerate(COLUMNS)
        ]
        # The observed contrasts are the same with both null distributions.
        return rows if null == "lengths" else [*rows, *self._difference_rows(kind, observed)]

    def _difference_rows(self, kind: str, observed: np.ndarray) -> list[dict[str, Any]]:
        """Contrast of each measure less that of its control, paired by subject."""
        rows = []
        for name in MEASURES:
            for control, label in ((untrained_name(name), "untrained model"), (ACTIVITY, ACTIVITY)):
                values = observed[:, COLUMNS.index(name)] - observed[:, COLUMNS.index(control)]
                values = values[np.isfinite(values)]
                if len(values):
                    condition, x = f"{kind}, {PAIRED}", self.config.window_s
                    rows.append(paired_row(f"{name} less {label}", condition, values, self.setup, x=x))
        return rows

    def _row(self, name: str, condition: str, observed: np.ndarray, permuted: np.ndarray) -> dict[str, Any]:
        values = observed[np.isfinite(observed)]
        columns = {"is_control": name in CONTROLS, "x": self.config.window_s}
        if not len(values):
            return score_row(name, condition, **columns)
        return tested_row(name, condition, values, permuted, self.setup, **columns)

    def _timeseries(self) -> pd.DataFrame:
        """Every time point of every run: measures, not scaled, and the first time points of events."""
        parts = []
        for run in self._runs:
            time_points = np.arange(len(run.usable))
            part = pd.DataFrame(
                {"run": run.key, "time_point": time_points, "time_s": time_points * self.setup.repetition_time}
            )
            part["usable"] = run.usable.astype(int)
            part["boundary"] = np.isin(time_points, run.boundaries[BRAIN_EVENTS]).astype(int)
            part["annotated_boundary"] = np.isin(time_points, run.boundaries[ANNOTATED_EVENTS]).astype(int)
            parts.append(part.join(pd.DataFrame(run.values, columns=[_column(name) for name in COLUMNS])))
        return pd.concat(parts, ignore_index=True)

    def _summary(self, scores: pd.DataFrame, corrected: Mapping[str, float], not_tested: Sequence[str]) -> str:
        finite = scores[np.isfinite(scores["value"]) & scores["condition"].str.endswith(NULLS["shifts"])]
        of_model = finite[~finite["is_control"]]
        if of_model.empty:
            return f"Surprise at event boundaries was not tested: {' '.join(not_tested)}"
        # The first measure that the model has, at the first kind of events that there is.
        row = of_model.iloc[0]
        kind = str(row["condition"]).rpartition(", ")[0]
        p = corrected[f"{kind}: {row['measure']}"]
        values = finite[finite["condition"] == row["condition"]].set_index("measure")["value"]
        controls = [
            f"{signed(values[name], 2)} for {label}"
            for name, label in (
                (ACTIVITY, f"the {ACTIVITY} (no memory)"),
                (untrained_name(str(row["measure"])), "the untrained model"),
            )
            if name in values.index
        ]
        return (
            f"Within {self.config.window_s:g} s of boundaries of {kind}, the {row['measure']} differs by "
            f"{signed(row['value'], 2)} standard deviations from elsewhere "
            f"({describe_p(p)}, corrected). The difference is {' and '.join(controls)} "
            f"(n = {int(row['n_subjects'])}); without a difference from both controls, the contrast does not show that "
            "the memory learned the events."
        )

    def _metadata(self, corrected: Mapping[str, float], not_tested: Sequence[str]) -> dict[str, Any]:
        later, earlier, gap = prediction_pair(self.setup.horizons)
        horizons = self.setup.horizons
        pair = f"lead time {horizons[later]} made at t, lead time {horizons[earlier]} made at t - {gap} (time points)"
        return {
            "Description": "Measures of held-out runs near event boundaries, less those elsewhere; mean over subjects, "
            "in standard deviations of a run. Time points that are scored and in which the head is still.",
            "Test": "One-sided: higher near boundaries. p = (b + 1) / (n + 1). Circular shifts: the measures are "
            "shifted within the run's usable time points (all shifts, if there is one stimulus and they are at most "
            f"{self.setup.n_permutations}). Event lengths shuffled: events are put in another order. Subjects of a "
            "stimulus share their permutations. Paired with its control: one-sided sign-flip test over subjects.",
            "Correction": "None in the table. PCorrected: the larger p of the two null distributions (where lengths "
            "are too even: that of circular shifts), then Holm over measures and kinds of events, without controls.",
            "PCorrected": dict(corrected),
            "Interval": "95 % bootstrap over subjects",
            "Subjects": sorted({run.subject for run in self._runs}),
            "Boundaries": {
                kind: {run.key: len(run.boundaries[kind]) for run in self._runs_with(kind)}
                for kind in (BRAIN_EVENTS, ANNOTATED_EVENTS)
            },
            "Events": "HMM of Baldassano et al. 2017 on the other subjects' average; their number is the length of the "
            f"recording divided by {self.config.event_s:g} s",
            "AnnotatedEvents": f"Onsets of trial types other than {', '.join(NO_EVENTS)}; boundaries "
            f"{self.config.delay_s:g} s later",
            "PredictionChange": f"Root mean square over features of the difference of two forecasts: {pair}",
            "NotTested": list(not_tested),
            "x": {"Description": "Time points at most so far from a boundary are near it", "Units": "s"},
        }


def _column(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def _fit_polynomial(measures: Sequence[np.ndarray], usable: np.ndarray) -> np.ndarray:
    """Fit a polynomial of time to the first measure that has values, over usable time points: ``(time,)``."""
    for values in measures:
        finite = usable & np.isfinite(values)
        if finite.any():
            polynomial = time_polynomial(len(values)).astype(float)
            weights = np.linalg.lstsq(polynomial[finite], values[finite], rcond=None)[0]
            fitted: np.ndarray = polynomial @ weights
            return fitted
    return np.full(len(usable), np.nan)


def _within_usable(starts: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Starts after the first usable time point, up to the last."""
    time_points = np.flatnonzero(usable)
    within: np.ndarray = starts[(starts > time_points[0]) & (starts <= time_points[-1])]
    return within


def _corrected(scores: pd.DataFrame, even: Sequence[str]) -> dict[str, float]:
    """P of each measure and kind of events: the larger of both null distributions, with Holm's correction.

    Of `even` kinds, circular shifts count alone.
    """
    tested = scores[scores["measure"].isin(MEASURES) & np.isfinite(scores["p"])]
    tested = tested[~tested["condition"].isin([f"{kind}, {NULLS['lengths']}" for kind in even])]
    if tested.empty:
        return {}
    names = tested["condition"].str.rsplit(", ", n=1).str[0] + ": " + tested["measure"]
    larger = tested["p"].groupby(names, sort=False).max()
    return dict(zip(larger.index, map(float, multipletests(larger, method="holm")[1]), strict=True))
