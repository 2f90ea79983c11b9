"""Probe 3, surprise and event boundaries: is the memory surprised where one event of the stimulus ends and the next
begins?

Surprise is the norm of the memory's gradient (Behrouz et al. 2025); events are found in other subjects' brains
(Baldassano et al. 2017), or were annotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from statsmodels.stats.multitest import multipletests

from titan_neuro.probing.tools.annotations import NO_EVENTS
from titan_neuro.probing.tools.boundaries import (
    MarkedRun,
    Null,
    average_time_points,
    boundary_contrast,
    events_within,
    find_events,
)
from titan_neuro.probing.tools.recording import GLOBAL, MEASURES, TIME_POINT, prediction_pair, trace_time_points, watch
from titan_neuro.probing.tools.results import (
    SCORES,
    ProbeContext,
    ProbedFold,
    ProbeResults,
    paired_row,
    score_row,
    tested_row,
)
from titan_neuro.probing.tools.trace import time_polynomial
from titan_neuro.typing import RunData

OTHERS, ANNOTATED = "events of other subjects' brains", "annotated events"
PAIRED = "paired with its control"
NULLS: dict[Null, str] = {"shifts": "circular shifts", "lengths": "event lengths shuffled"}
DISPLACEMENT, POLYNOMIAL = "framewise displacement", "polynomial of time"
CONTROLS = (*(f"{name}, untrained" for name in MEASURES), TIME_POINT, GLOBAL, DISPLACEMENT, POLYNOMIAL)
COLUMNS = (*MEASURES, *CONTROLS)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SurpriseConfig:
    """What an event is, and how near to its beginning is near.

    Attributes
    ----------
    event_s : float
        Mean length, in seconds, of the events that other subjects' recordings are cut into: their number is the length
        of the recording by this, so that it is not chosen by what comes of it.
    window_s : float
        Time points at most so many seconds from a boundary, before or after it, count as near. Boundaries come from
        BOLD, as surprise does: neither lags behind the other.
    delay_s : float
        What was annotated is looked for so many seconds later: the hemodynamic response lags behind the stimulus.
    n_components : int
        Principal components of the other subjects' average that events are found in, at most.
    """

    event_s: Annotated[float, Field(gt=0)] = 30.0
    window_s: Annotated[float, Field(ge=0)] = 2.0
    delay_s: Annotated[float, Field(ge=0)] = 5.0
    n_components: Annotated[int, Field(ge=2)] = 50


class SurpriseProbe:
    """Collect the surprise of each time point, and where events begin; compare when all runs are there.

    Events are found in the average of subjects who saw the same and whose runs the model was fitted on; where there are
    none, of other held-out subjects. The subject that is asked about never takes part.

    Parameters
    ----------
    config : SurpriseConfig
    metadata : ProbeContext
    """

    def __init__(self, config: SurpriseConfig, metadata: ProbeContext) -> None:
        self.config, self.metadata = config, metadata
        self._runs: list[MarkedRun] = []
        self._not_asked: list[str] = []
        self._fold: ProbedFold | None = None
        self._events: dict[tuple[str, ...], np.ndarray] = {}

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Let the model and the untrained one watch a held-out run."""
        usable = np.asarray(run.scored & ~run.high_motion)
        if not usable.any():
            self._not_asked.append(f"{run.key} has no time point that counts.")
            return
        if self._fold is not fold:
            self._fold, self._events = fold, {}
        found: dict[str, np.ndarray] = dict(watch(fold.model, run))
        found |= {f"{name}, untrained": values for name, values in watch(fold.untrained, run).items()}
        found |= trace_time_points(run)
        displacement = getattr(run, "displacement", None)
        found[DISPLACEMENT] = (
            np.full(run.n_time_points, np.nan) if displacement is None else np.asarray(displacement, float)
        )
        found[POLYNOMIAL] = _smooth([found[name] for name in MEASURES], usable)
        boundaries = {OTHERS: self._of_others(fold, run), ANNOTATED: self._annotated(run)}
        self._runs.append(
            MarkedRun(
                key=run.key,
                subject=run.subject,
                stimulus=run.stimulus,
                values=np.column_stack([found[name] for name in COLUMNS]),
                usable=usable,
                boundaries={kind: _inside(places, usable) for kind, places in boundaries.items()},
            )
        )

    def _of_others(self, fold: ProbedFold, run: RunData) -> np.ndarray:
        """First time points of the events that other subjects' brains show, in time points of `run`."""
        for runs in (fold.others, fold.tests):
            others = [other for other in runs if other.stimulus == run.stimulus and other.subject != run.subject]
            if others:
                break
        else:
            self._not_asked.append(f"{run.key}: no other subject saw the same, so that no events were found for it.")
            return np.zeros(0, int)
        key = tuple(other.key for other in others)
        if key not in self._events:
            recall = fold.model.recall
            average, places = average_time_points(others, None if recall is None else recall.basis)
            n_events = events_within(len(average), self.config.event_s / self.metadata.repetition_time)
            starts = find_events(average, n_events=n_events, n_components=self.config.n_components) if n_events else []
            self._events[key] = places[np.asarray(starts, int)]
        return self._events[key] + run.stimulus_start

    def _annotated(self, run: RunData) -> np.ndarray:
        onsets = [onset + self.config.delay_s for onset, _, kind in getattr(run, "events", ()) if kind not in NO_EVENTS]
        series = np.asarray(onsets, float) / self.metadata.repetition_time
        return np.unique(np.floor(series[np.isfinite(series)] + 0.5).astype(int))

    def results(self) -> ProbeResults:
        """Return how much higher each measure is near boundaries than elsewhere, and what chance gives."""
        rows = [row for kind in (OTHERS, ANNOTATED) for null in NULLS for row in self._rows(kind, null)]
        not_asked = list(self._not_asked)
        not_asked += [f"No run has {kind} to ask about." for kind in (OTHERS, ANNOTATED) if not self._with(kind)]
        missing = [name for name in COLUMNS if rows and not any(r["n_subjects"] for r in rows if r["measure"] == name)]
        not_asked += [f"No run has a {name} that changes." for name in missing]
        scores = pd.DataFrame(rows or [score_row(MEASURES[0], OTHERS, x=self.config.window_s)], columns=list(SCORES))
        scores = scores[~scores["measure"].isin(missing)].reset_index(drop=True)
        corrected = _corrected(scores)
        tables = {"scores": scores}
        if self._runs:
            tables["timeseries"] = self._timeseries()
        return ProbeResults(
            sentence=self._sentence(scores, corrected, not_asked),
            tables=tables,
            metadata=self._describe(corrected, not_asked),
        )

    def _with(self, kind: str) -> list[MarkedRun]:
        return [run for run in self._runs if len(run.boundaries[kind])]

    def _rows(self, kind: str, null: Null) -> list[dict[str, Any]]:
        runs = self._with(kind)
        if not runs:
            return []
        observed, by_chance = boundary_contrast(
            runs,
            kind,
            null,
            half_width=round(self.config.window_s / self.metadata.repetition_time),
            n_permutations=self.metadata.n_permutations,
            seed=self.metadata.seed,
        )
        rows = [
            self._row(name, f"{kind}, {NULLS[null]}", observed[:, index], by_chance[:, index])
            for index, name in enumerate(COLUMNS)
        ]
        # What is observed is the same with either null.
        return rows if null == "lengths" else [*rows, *self._differences(kind, observed)]

    def _differences(self, kind: str, observed: np.ndarray) -> list[dict[str, Any]]:
        """How much more of it there is near boundaries than of its control, subject by subject."""
        rows = []
        for name in MEASURES:
            for control in (f"{name}, untrained", TIME_POINT):
                values = observed[:, COLUMNS.index(name)] - observed[:, COLUMNS.index(control)]
                values = values[np.isfinite(values)]
                if len(values):
                    less = f"{name} less {'untrained' if control != TIME_POINT else control}"
                    rows.append(paired_row(less, f"{kind}, {PAIRED}", values, self.metadata, x=self.config.window_s))
        return rows

    def _row(self, name: str, condition: str, observed: np.ndarray, by_chance: np.ndarray) -> dict[str, Any]:
        values = observed[np.isfinite(observed)]
        shared = {"is_control": name in CONTROLS, "x": self.config.window_s}
        if not len(values):
            return score_row(name, condition, **shared)
        return tested_row(name, condition, values, by_chance, self.metadata, **shared)

    def _timeseries(self) -> pd.DataFrame:
        """Every time point of every run: measures as they are, not scaled, and where events begin."""
        parts = []
        for run in self._runs:
            series = np.arange(len(run.usable))
            part = pd.DataFrame(
                {"run": run.key, "time_point": series, "time_s": series * self.metadata.repetition_time}
            )
            part["counts"] = run.usable.astype(int)
            part["boundary"] = np.isin(series, run.boundaries[OTHERS]).astype(int)
            part["annotated_boundary"] = np.isin(series, run.boundaries[ANNOTATED]).astype(int)
            parts.append(part.join(pd.DataFrame(run.values, columns=[_column(name) for name in COLUMNS])))
        return pd.concat(parts, ignore_index=True)

    def _sentence(self, scores: pd.DataFrame, corrected: Mapping[str, float], not_asked: Sequence[str]) -> str:
        found = scores[np.isfinite(scores["value"])]
        if found.empty:
            return f"Surprise at event boundaries could not be asked about: {' '.join(not_asked)}"
        said = []
        for kind in (OTHERS, ANNOTATED):
            rows = found[found["condition"] == f"{kind}, {NULLS['shifts']}"]
            parts = [
                f"{row.measure} {row.value:+.3f} (p = {corrected[f'{kind}: {row.measure}']:.4f})"
                for row in rows[~rows["is_control"]].itertuples()
            ]
            parts += [
                f"control, {TIME_POINT}, {value:+.3f}" for value in rows.loc[rows["measure"] == TIME_POINT, "value"]
            ]
            said += [f"{kind}: {', '.join(parts)}"] if parts else []
        return (
            f"Within {self.config.window_s:g} s of where events begin, against elsewhere, in standard deviations of a "
            f"run: {'; '.join(said)} (n = {int(found['n_subjects'].max())}; one-sided, the larger p of "
            f"{' and '.join(NULLS.values())}, {self.metadata.n_permutations} draws at most, Holm's correction)."
        )

    def _describe(self, corrected: Mapping[str, float], not_asked: Sequence[str]) -> dict[str, Any]:
        now, before, gap = prediction_pair(self.metadata.horizons)
        pair = f"horizon {self.metadata.horizons[now]} at t, {self.metadata.horizons[before]} at t - {gap}"
        return {
            "Description": "Surprise of held-out runs near event boundaries, less that elsewhere; mean over subjects, "
            "in standard deviations of a run. Time points that are scored and in which the head is still.",
            "Test": "One-sided: higher near boundaries. p = (b + 1) / (n + 1). Circular shifts turn the measure round "
            "in the run's time points that count (all shifts where there is one stimulus and they are no more than "
            f"{self.metadata.n_permutations}); shuffled lengths put events in another order. Draws are shared by the "
            "subjects of a stimulus. Paired with a control: the difference within subjects, signs of subjects flipped, "
            "one-sided.",
            "Correction": "None in the table. PCorrected: of the two nulls the larger p, then Holm over measures and "
            "kinds of events, controls not counted.",
            "PCorrected": dict(corrected),
            "Interval": "95 % bootstrap over subjects",
            "Subjects": sorted({run.subject for run in self._runs}),
            "Boundaries": {
                kind: {run.key: len(run.boundaries[kind]) for run in self._with(kind)} for kind in (OTHERS, ANNOTATED)
            },
            "Events": "HMM of Baldassano et al. 2017 on the other subjects' average, as many events as there are "
            f"{self.config.event_s:g} s in it",
            "AnnotatedEvents": f"Onsets of trial types other than {', '.join(NO_EVENTS)}; boundaries "
            f"{self.config.delay_s:g} s later",
            "PredictionChange": f"Root mean square over features of the difference of two forecasts: {pair}",
            "NotAsked": list(not_asked),
            "x": {"Description": "Time points at most so far from a boundary count as near", "Units": "s"},
        }


def _column(name: str) -> str:
    return name.replace("'s", "").replace(",", "").replace(" ", "_")


def _smooth(measures: Sequence[np.ndarray], usable: np.ndarray) -> np.ndarray:
    """What a polynomial of time alone says of the first measure that there is: fitted on the time points that count."""
    for values in measures:
        there = usable & np.isfinite(values)
        if there.any():
            clock = time_polynomial(len(values)).astype(float)
            fitted: np.ndarray = clock @ np.linalg.lstsq(clock[there], values[there], rcond=None)[0]
            return fitted
    return np.full(len(usable), np.nan)


def _inside(places: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Boundaries after the first time point that counts, up to the last."""
    series = np.flatnonzero(usable)
    return places[(places > series[0]) & (places <= series[-1])]


def _corrected(scores: pd.DataFrame) -> dict[str, float]:
    """Of each measure and kind of events: both nulls must say so (the larger p), and Holm's correction."""
    asked = scores[scores["measure"].isin(MEASURES) & np.isfinite(scores["p"])]
    if asked.empty:
        return {}
    names = asked["condition"].str.rsplit(", ", n=1).str[0] + ": " + asked["measure"]
    larger = asked["p"].groupby(names, sort=False).max()
    return dict(zip(larger.index, map(float, multipletests(larger, method="holm")[1]), strict=True))
