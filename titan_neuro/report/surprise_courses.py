"""The surprise of the memory along the stimulus, with the boundaries of events: of the group, and of a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from titan_neuro.evaluation.metrics_and_rows import count_in_words
from titan_neuro.probing.tools.memory_surprise import MEASURES
from titan_neuro.report.comparable import person_of
from titan_neuro.report.style import BASELINE_COLOR, MODEL_COLOR, MUTED, RULE, STYLE, plain, svg_uri

_MOST_COURSES = 4
_FEWEST_FOR_ERRORS = 3


class Course(NamedTuple):
    """The surprise over one stimulus: times in s, `(time,)` mean and its standard error in SD, boundaries in s."""

    title: str
    time_s: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    boundaries_s: list[float]
    annotated_s: list[float]


class CourseFigure(TypedDict):
    """The picture for the template."""

    source: str
    alt: str
    caption: str


def course_figure(table: pd.DataFrame | None, person: str = "") -> CourseFigure | None:
    """Draw the surprise of the forecast memory (else of the blocks' memories) over each stimulus.

    Parameters
    ----------
    table : pandas.DataFrame or None
        The surprise probe's time series.
    person : str
        Label of one subject; empty for the mean over all.

    Returns
    -------
    CourseFigure or None
        None where the probe has not run, or has no measure that varies for these runs.
    """
    if table is None:
        return None
    rows = table[table["run"].map(person_of) == person] if person else table
    measure = next((name for name in MEASURES if _varies(rows, _column(name))), None)
    if measure is None:
        return None
    courses = [_course(name, of, _column(measure)) for name, of in rows.groupby(rows["run"].map(_stimulus), sort=True)]
    n_people = rows["run"].map(person_of).nunique()
    who = f"sub-{person}" if person else f"Mean over {count_in_words(n_people, 'subject')}, band: standard error"
    beyond = len(courses) - _MOST_COURSES
    return {
        "source": svg_uri(_figure(courses[:_MOST_COURSES])),
        "alt": f"{measure} over time in {count_in_words(min(len(courses), _MOST_COURSES), 'stimulus run')}, with the "
        f"boundaries of events: {sum(len(course.boundaries_s) for course in courses)} found in other subjects' brains, "
        f"{sum(len(course.annotated_s) for course in courses)} annotated.",
        "caption": f"{measure[:1].upper()}{measure[1:]}, in standard deviations of a run's usable time points. {who}. "
        "Blue ticks above: boundaries of events in other subjects' brains; grey lines: annotated ones. The picture "
        "tests nothing; the probe's table does."
        + (f" {count_in_words(beyond, 'further stimulus')} in the file." if beyond > 0 else ""),
    }


def _column(measure: str) -> str:
    """Name of a measure's column in the file."""
    return measure.replace(" ", "_")


def _stimulus(key: str) -> str:
    """What a run shows, by the labels that people share: all of the key but the person."""
    return key.partition("_")[2]


def _varies(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and bool(rows.loc[rows["usable"], column].std() > 0)


def _course(title: str, rows: pd.DataFrame, column: str) -> Course:
    usable = rows[column].where(rows["usable"])
    by_run = usable.groupby(rows["run"])
    scaled = (usable - by_run.transform("mean")) / by_run.transform("std")
    by_time = scaled.groupby(rows["time_s"])
    error = by_time.sem().where(by_time.count() >= _FEWEST_FOR_ERRORS)
    flagged = [sorted(set(rows.loc[rows[flag], "time_s"])) for flag in ("boundary", "annotated_boundary")]
    mean = by_time.mean()
    return Course(title, mean.index.to_numpy(float), mean.to_numpy(float), error.to_numpy(float), *flagged)


@matplotlib.rc_context(STYLE)
def _figure(courses: Sequence[Course]) -> Figure:
    figure = Figure(figsize=(7.6, 0.5 + 1.35 * len(courses)))
    panels = figure.subplots(len(courses), 1, squeeze=False)[:, 0]
    for axes, course in zip(panels, courses, strict=True):
        for at in course.annotated_s:
            axes.axvline(at, color=RULE, linewidth=1.2, zorder=1)
        low, high = course.mean - course.error, course.mean + course.error
        axes.fill_between(course.time_s, low, high, color=MODEL_COLOR, alpha=0.18, linewidth=0, zorder=2)
        axes.plot(course.time_s, course.mean, color=MODEL_COLOR, linewidth=1.0, zorder=3)
        axes.plot(
            course.boundaries_s,
            np.full(len(course.boundaries_s), 0.96),
            marker="|",
            markersize=9,
            markeredgewidth=1.6,
            linestyle="none",
            color=BASELINE_COLOR,
            transform=axes.get_xaxis_transform(),
            zorder=4,
        )
        axes.axhline(0, color=MUTED, linewidth=0.6, zorder=1)
        axes.set_title(plain(course.title), fontsize=8, fontweight="normal", pad=3)
        axes.set(ylabel="SD", xlim=(course.time_s[0], course.time_s[-1]))
    panels[-1].set_xlabel("time from the start of the run (s)")
    return figure
