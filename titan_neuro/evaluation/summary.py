"""The forecast table in sentences that claim no more than its intervals support; the numbers stand in the tables."""

from __future__ import annotations

import pandas as pd

from titan_neuro.evaluation.formatting import format_interval
from titan_neuro.evaluation.metrics_and_rows import (
    AR,
    FEW_SUBJECTS,
    LEAD_TIME_POINTS,
    METRICS_BY_NAME,
    Kind,
    count_in_words,
    row_of,
)

_SKILL = METRICS_BY_NAME["skill_ar"].label


def summary(table: pd.DataFrame) -> str:
    """Say whether the study's model beats linear autoregression.

    It does at a lead time where the whole interval of `skill_ar` lies above 0. With fewer than five subjects nobody
    beats anybody: the sentences say which mean is higher.

    Parameters
    ----------
    table : pandas.DataFrame
        Returned by `scores_table`.

    Returns
    -------
    str
        A few short sentences, with a caution where the subjects are few.
    """
    rows = table[table["kind"] == Kind.MODEL]
    model, n_subjects = str(rows["model"].iloc[0]), int(rows["n_subjects"].iloc[0])
    best = rows.sort_values("skill_ar", na_position="first").iloc[-1]
    largest = f"Its largest skill_ar, the {_SKILL}, is {format_interval(best, 'skill_ar')}."
    subjects = count_in_words(n_subjects, "subject")
    if rows["skill_ar_low"].isna().all():
        return (
            f"{model} was compared with {row_of(AR).label} in {subjects}. {largest} No interval over subjects is "
            "possible with so few, and the numbers describe these recordings only."
        )
    caution = ""
    if n_subjects < FEW_SUBJECTS:
        caution = f" {subjects} are too few for the interval to cover 95 %, so this describes them and claims nothing."
    return f"{_compare(model, AR, rows, 'skill_ar')} {largest} n = {subjects}.{caution}"


def comparisons(table: pd.DataFrame) -> list[str]:
    """Say which row of each pair is better, and at which lead times.

    Parameters
    ----------
    table : pandas.DataFrame
        Returned by `comparisons_table`.

    Returns
    -------
    list of str
        A few short sentences for each pair; none for an empty table.
    """
    if table.empty:
        return []
    return [
        _compare(str(model), str(other), rows, "difference")
        for (model, other), rows in table.groupby(["model", "compared_with"], sort=False)
    ]


def _compare(model: str, other: str, rows: pd.DataFrame, column: str) -> str:
    name = f"{other} ({row_of(other).label})"
    if rows[f"{column}_low"].isna().all():
        return f"{model} can't be compared with {name}: there is no interval over subjects."
    verbs = ("beats", "is worse than", "is not shown to differ from")
    better, worse = rows[f"{column}_low"] > 0, rows[f"{column}_high"] < 0
    if int(rows["n_subjects"].max()) < FEW_SUBJECTS:
        verbs = ("is on average above", "is on average below", "is on average level with")
        better, worse = rows[column] > 0, rows[column] < 0
    sentences: list[str] = []
    for verb, selected, every in zip(verbs, (better, worse, ~better & ~worse), ("every", "every", "any"), strict=True):
        if selected.any():
            subject, described = ("It", other) if sentences else (model, name)
            sentences.append(f"{subject} {verb} {described} at {_lead_times(rows, selected, every)}.")
    return " ".join(sentences)


def _lead_times(rows: pd.DataFrame, selected: pd.Series, every: str) -> str:
    """Lead times of some of the rows, with at most two numbers; of all rows: ``every lead time``."""
    tested = sorted(int(points) for points in rows[LEAD_TIME_POINTS])
    chosen = sorted(int(points) for points in rows.loc[selected, LEAD_TIME_POINTS])
    if len(chosen) == 1:
        return f"a lead time of {count_in_words(chosen[0], 'time point')}"
    if chosen == tested:
        return f"{every} lead time"
    first = tested.index(chosen[0])
    if chosen == tested[first : first + len(chosen)]:
        return f"lead times of {chosen[0]} to {chosen[-1]} time points"
    return f"{len(chosen)} of the {len(tested)} lead times"
