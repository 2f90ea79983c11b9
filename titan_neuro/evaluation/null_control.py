"""Null controls: on noise that can't be forecast, no trained model of the table may score above chance."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from titan_neuro.errors import LeakageError
from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS, Kind

# White noise can't be forecast; phase-shuffled data keep the autocorrelation of features, which linear AR forecasts.
CHECKED = {"white": "r2", "phase": "skill_ar"}
LARGEST_SCORE = 0.02
_NOT_JUDGED = (Kind.BASELINE, Kind.ORACLE_REFERENCE)
_LIMITS = {"white": f"at most {LARGEST_SCORE}", "phase": f"at most {LARGEST_SCORE} above the best baseline"}


def check_null(table: pd.DataFrame, kind: Literal["white", "phase"]) -> str:
    """Refuse a table of scores on noise in which the study's model, a control or a comparison model is above chance.

    On white noise chance is 0. With shuffled phases it is what the best baseline gains over linear autoregression at
    that lead time, and at least 0: a filter over whole runs, such as a high-pass, leaves a gap in the spectrum, and
    what it has removed can be predicted from the distant past. That is a property of the recordings, and no leak.
    Baselines and oracle references are therefore printed and not judged.

    Parameters
    ----------
    table : pandas.DataFrame
        What `scores_table` returned for the null control.
    kind : {"white", "phase"}
        `r2` is checked on white noise, `skill_ar` on shuffled phases.

    Returns
    -------
    str
        The result, in two sentences.

    Raises
    ------
    LeakageError
        A row that is judged scores more than 0.02 above chance, or NaN.
    """
    metric, limit = CHECKED[kind], _LIMITS[kind]
    is_judged = ~table["kind"].isin(_NOT_JUDGED)
    judged, others = table[is_judged], table[~is_judged]
    rest = f" Baselines and oracle references, which are not judged: {_largest(others, metric)}." if len(others) else ""
    bad = judged[~(judged[metric].astype(float) <= LARGEST_SCORE + _chance(table, kind, judged[LEAD_TIME_POINTS]))]
    if len(bad):
        raise LeakageError(
            f"Null control {kind}, protocol {table['protocol'].iloc[0]}: expected {metric} {limit} of the model, its "
            f"controls and comparison models on noise, found {', '.join(_in_words(bad, metric, 3))}.{rest}",
            "Future time points leak into the forecasts: check preparation, split and model first.",
        )
    return (
        f"Null control {kind} passed: {metric} is {limit} for the model, its controls and comparison models; "
        f"{_largest(judged, metric)}.{rest}"
    )


def _chance(table: pd.DataFrame, kind: Literal["white", "phase"], lead_times: pd.Series) -> pd.Series:
    """Score at these lead times that is no sign of a leak."""
    if kind == "white":
        return 0.0 * lead_times
    best = table[table["kind"] == Kind.BASELINE].groupby(LEAD_TIME_POINTS)[CHECKED[kind]].max()
    return lead_times.map(best).fillna(0.0).clip(lower=0.0)


def _largest(rows: pd.DataFrame, metric: str) -> str:
    defined = rows.dropna(subset=metric).sort_values(metric, kind="stable").tail(1)
    return f"the largest is {', '.join(_in_words(defined, metric, 4)) or 'not defined'}"


def _in_words(rows: pd.DataFrame, metric: str, n_digits: int) -> list[str]:
    """``0.031 of titan-mac at h = 6`` for each row."""
    return [
        f"{score:.{n_digits}f} of {model} at h = {lead}"
        for model, score, lead in zip(rows["model"], rows[metric], rows[LEAD_TIME_POINTS], strict=True)
    ]
