"""Null controls: on noise that can't be forecast, no trained model of the table may score above chance."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from titan_neuro.errors import LeakageError
from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS, Kind

# White noise can't be forecast; phase-shuffled data keep the autocorrelation of features, which linear AR forecasts.
CHECKED = {"white": "r2", "phase": "skill_ar"}
LARGEST_SCORE = 0.02
# What a baseline gains on noise is a property of the recordings: a filter over whole runs, such as a high-pass, leaves
# a gap in the spectrum, and what it has removed can be predicted from distant time points.
_NOT_JUDGED = (Kind.BASELINE, Kind.ORACLE_REFERENCE)


def check_null(table: pd.DataFrame, kind: Literal["white", "phase"]) -> str:
    """Refuse a table of scores on noise in which the study's model, a control or a comparison model is above chance.

    Baselines and oracle references are printed, and not judged: they are fitted in closed form, and gain what a filter
    has left in the recordings.

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
        A row that is judged scores more than 0.02, or NaN.
    """
    metric = CHECKED[kind]
    is_judged = ~table["kind"].isin(_NOT_JUDGED)
    judged, others = table[is_judged], table[~is_judged]
    rest = f" Baselines and oracle references, which are not judged: {_largest(others, metric)}." if len(others) else ""
    bad = judged[~(judged[metric].astype(float) <= LARGEST_SCORE)]
    if len(bad):
        raise LeakageError(
            f"Null control {kind}, protocol {table['protocol'].iloc[0]}: expected {metric} <= {LARGEST_SCORE} of the "
            f"model, its controls and comparison models on noise, found {', '.join(_in_words(bad, metric, 3))}.{rest}",
            "Future time points leak into the forecasts: check preparation, split and model first.",
        )
    return (
        f"Null control {kind} passed: neither the model nor its controls and comparison models have {metric} above "
        f"{LARGEST_SCORE}; {_largest(judged, metric)}.{rest}"
    )


def _largest(rows: pd.DataFrame, metric: str) -> str:
    defined = rows.dropna(subset=metric).sort_values(metric, kind="stable").tail(1)
    return f"the largest is {', '.join(_in_words(defined, metric, 4)) or 'not defined'}"


def _in_words(rows: pd.DataFrame, metric: str, n_digits: int) -> list[str]:
    """``0.031 of titan-mac at h = 6`` for each row."""
    return [
        f"{score:.{n_digits}f} of {model} at h = {lead}"
        for model, score, lead in zip(rows["model"], rows[metric], rows[LEAD_TIME_POINTS], strict=True)
    ]
