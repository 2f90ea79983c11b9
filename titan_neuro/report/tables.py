"""Tables of the report as rows of finished text, which the templates only print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pandas as pd

from titan_neuro.evaluation.formatting import NOT_AVAILABLE
from titan_neuro.evaluation.metrics_and_rows import (
    CEILING_METRICS,
    CEILINGS,
    KIND_HEADINGS,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    METRICS,
    METRICS_BY_NAME,
    RESIDUAL_METRICS,
    Kind,
    count_in_words,
    row_of,
)
from titan_neuro.report.numbers import MINUS, formula, interval, number
from titan_neuro.report.results import lead_times_of
from titan_neuro.report.style import row_styles


class Cell(TypedDict):
    """A value, its interval (empty where there is none), and whether it is the best of its lead time."""

    value: str
    interval: str
    best: bool


class ScoreRow(TypedDict):
    """A row of a score table; `heading` and `label` are empty where they don't change or were given before."""

    heading: str
    model: str
    label: str
    color: str
    cells: list[Cell]


class ScoreGroup(TypedDict):
    """Rows of one metric."""

    metric: str
    label: str
    meaning: str
    rows: list[ScoreRow]


class LabeledRow(TypedDict):
    """A row with a name, its label in words, and cells."""

    name: str
    label: str
    cells: list[Cell]


class AblationRow(LabeledRow):
    """A row without a part: differences by lead time and their mean, what it lacks, and the effect of that."""

    definition: str
    effect: str


class CeilingRow(LabeledRow):
    """A noise ceiling on one metric."""

    metric: str
    n_subjects: int


class SubjectRow(TypedDict):
    """A subject: `skill_ar` at each lead time, then `r2`."""

    subject: str
    n_runs: int
    n_time_points: int
    cells: list[str]


class TrainingRow(TypedDict):
    """The training of one seed and fold."""

    fold: str
    epochs: str
    best: str
    best_epoch: str
    last: str
    speed: str


def lead_time_headings(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Heading of each lead time's column: in time points, and in seconds.

    Parameters
    ----------
    table : pandas.DataFrame
        With both lead time columns.

    Returns
    -------
    list of (str, str)
        ``("2 time points", "3 s")``, ascending.
    """
    seconds = dict(zip(table[LEAD_TIME_POINTS], table[LEAD_TIME_S], strict=True))
    return [(count_in_words(points, "time point"), f"{seconds[points]:g} s") for points in lead_times_of(table)]


def score_groups(scores: pd.DataFrame, metrics: Sequence[str] = METRICS) -> list[ScoreGroup]:
    """Make a group of rows for each metric: a row per forecaster, a cell per lead time, the best of each marked.

    Oracle references are never the best, since they are not forecasts.

    Parameters
    ----------
    scores : pandas.DataFrame
        The forecast table, or that of the rollouts.
    metrics : sequence of str
        Columns with an interval.

    Returns
    -------
    list of ScoreGroup
        Rows are described in words in the first group alone, and left out where they have no value of the metric.
    """
    kinds = {str(model): Kind(kind) for model, kind in zip(scores["model"], scores["kind"], strict=True)}
    return [_score_group(scores, kinds, metric, is_first=metric == metrics[0]) for metric in metrics]


def _score_group(scores: pd.DataFrame, kinds: dict[str, Kind], metric: str, *, is_first: bool) -> ScoreGroup:
    lead_times, styles, order = lead_times_of(scores), row_styles(list(kinds)), list(Kind)
    best = _best(scores[scores["kind"] != Kind.ORACLE_REFERENCE], metric)
    rows: list[ScoreRow] = []
    previous: Kind | None = None
    for model in sorted(kinds, key=lambda model: order.index(kinds[model])):
        by_lead_time = {int(row[LEAD_TIME_POINTS]): row for _, row in scores[scores["model"] == model].iterrows()}
        cells = [
            score_cell(by_lead_time[points], metric, best[points]) if points in by_lead_time else _EMPTY
            for points in lead_times
        ]
        if all(cell["value"] == NOT_AVAILABLE for cell in cells):
            continue
        kind = kinds[model]
        rows.append(
            ScoreRow(
                heading=KIND_HEADINGS[kind] if kind != previous else "",
                model=model,
                label=row_of(model).label if is_first else "",
                color=styles[model].color,
                cells=cells,
            )
        )
        previous = kind
    described = METRICS_BY_NAME[metric]
    meaning = f"{formula(described.formula)}; {described.direction_in_words}"
    return ScoreGroup(metric=metric, label=described.label, meaning=meaning, rows=rows)


def _best(forecasts: pd.DataFrame, metric: str) -> dict[int, float]:
    """The highest value of each lead time; NaN for metrics whose best value is not the highest."""
    if METRICS_BY_NAME[metric].direction != "higher":
        return dict.fromkeys(lead_times_of(forecasts), math.nan)
    return {
        points: float(forecasts.loc[forecasts[LEAD_TIME_POINTS] == points, metric].max())
        for points in lead_times_of(forecasts)
    }


_EMPTY = Cell(value=NOT_AVAILABLE, interval="", best=False)


def score_cell(row: pd.Series, metric: str, best: float = math.nan, *, decimals: int = 3) -> Cell:
    """Make the cell of a metric with its interval; `best` is the highest value of its lead time, which is marked."""
    value, (low, high) = float(row[metric]), (float(row[f"{metric}_{end}"]) for end in ("low", "high"))
    ends = interval(low, high, decimals)
    described = METRICS_BY_NAME.get(metric)
    # The row that a skill is measured against scores exactly 0; its rollouts may not.
    if described is not None and described.reference == row.get("model") and value == 0:
        ends = "by definition"
    return Cell(
        value=number(value, decimals),
        interval=ends,
        best=value == best and row.get("kind") != Kind.ORACLE_REFERENCE,
    )


def ablation_rows(ablations: pd.DataFrame, comparisons: pd.DataFrame) -> list[AblationRow]:
    """Make a row for each control, and for the GRU: the model's gain over it, at each lead time and on average.

    Parameters
    ----------
    ablations : pandas.DataFrame
        Columns ``model``, ``compared_with``, ``mean_difference`` with the ends of its interval, and ``effect``.
    comparisons : pandas.DataFrame
        As for `comparison_rows`; pairs of other rows are not used.
    """
    rows = []
    for _, ablation in ablations.iterrows():
        name = str(ablation["compared_with"])
        pairs = comparisons[comparisons["compared_with"] == name].sort_values(LEAD_TIME_POINTS)
        rows.append(
            AblationRow(
                name=name,
                label=row_of(name).label,
                cells=[
                    *(score_cell(row, "difference", decimals=4) for _, row in pairs.iterrows()),
                    score_cell(ablation, "mean_difference", decimals=4),
                ],
                definition=row_of(name).definition,
                effect=str(ablation["effect"]),
            )
        )
    return rows


def comparison_rows(comparisons: pd.DataFrame) -> list[LabeledRow]:
    """Make a row for each pair of rows: the difference of their `skill_ar` at each lead time.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        Columns ``model``, ``compared_with``, lead times, and ``difference`` with the ends of its interval.
    """
    return [
        LabeledRow(
            name=f"{model} {MINUS} {other}",
            label=row_of(str(other)).label,
            cells=[score_cell(row, "difference") for _, row in rows.sort_values(LEAD_TIME_POINTS).iterrows()],
        )
        for (model, other), rows in comparisons.groupby(["model", "compared_with"], sort=False)
    ]


def residual_rows(residuals: pd.DataFrame) -> list[LabeledRow]:
    """Make a row for each forecaster: the autocorrelation of its errors one time point ahead, by `RESIDUAL_METRICS`."""
    return [
        LabeledRow(
            name=str(row["model"]),
            label=row_of(str(row["model"])).label,
            cells=[score_cell(row, metric) for metric in RESIDUAL_METRICS],
        )
        for _, row in residuals.iterrows()
    ]


def ceiling_rows(ceilings: pd.DataFrame) -> list[CeilingRow]:
    """Make a row for each noise ceiling and metric, a cell per lead time."""
    return [
        CeilingRow(
            name=str(name),
            label=CEILINGS.get(str(name), ""),
            n_subjects=int(rows["n_subjects"].max()),
            metric=metric,
            cells=[score_cell(row, metric) for _, row in rows.sort_values(LEAD_TIME_POINTS).iterrows()],
        )
        for name, rows in ceilings.groupby("ceiling", sort=False)
        for metric in CEILING_METRICS
    ]


def subject_rows(subjects: pd.DataFrame, model: str) -> list[SubjectRow]:
    """Make a row for each subject: `skill_ar` and `r2` of `model` at each lead time.

    Parameters
    ----------
    subjects : pandas.DataFrame
        The forecast table per subject.
    model : str
        Name of the forecaster.

    Returns
    -------
    list of SubjectRow
        ``n_time_points`` is the smallest number over lead times.
    """
    lead_times = lead_times_of(subjects)
    rows = []
    for subject, scores in subjects[subjects["model"] == model].groupby("subject", sort=True):
        by_lead_time = scores.drop_duplicates(LEAD_TIME_POINTS).set_index(LEAD_TIME_POINTS).reindex(lead_times)
        rows.append(
            SubjectRow(
                subject=str(subject),
                n_runs=int(scores["n_runs"].max()),
                n_time_points=int(scores["n_time_points"].min()),
                cells=[number(value) for metric in ("skill_ar", "r2") for value in by_lead_time[metric]],
            )
        )
    return rows


def training_rows(training: dict[str, pd.DataFrame]) -> list[TrainingRow]:
    """Make a row for each seed and fold: its number of epochs, and the validation `skill_ar` at best and at the end.

    Parameters
    ----------
    training : dict of str to pandas.DataFrame
        ``training.csv`` of each seed and fold.
    """
    rows = []
    for fold, table in training.items():
        skill, speeds = table["validation_skill_ar"].to_numpy(float), table["volumes_per_s"].dropna()
        best = int(np.nanargmax(skill)) if np.isfinite(skill).any() else None
        rows.append(
            TrainingRow(
                fold=fold,
                epochs=str(int(table["epoch"].max())),
                best=NOT_AVAILABLE if best is None else number(float(skill[best])),
                best_epoch=NOT_AVAILABLE if best is None else str(int(table["epoch"].iloc[best])),
                last=number(float(skill[-1])),
                speed=f"{speeds.median():,.0f}" if len(speeds) else NOT_AVAILABLE,
            )
        )
    return rows


def values_in_words(rows: pd.DataFrame, column: str) -> str:
    """Values of a row of the table by lead time, for those who can't see the figure."""
    pairs = zip(rows[LEAD_TIME_POINTS], rows[column], strict=True)
    return ", ".join(f"{number(value)} at {count_in_words(int(points), 'time point')}" for points, value in pairs)
