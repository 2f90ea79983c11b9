"""Null controls: on noise that can't be forecast, no row of the table may score above chance."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from titan_neuro.errors import LeakageError
from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS

# White noise can't be forecast; phase-shuffled data keep the autocorrelation of features, which linear AR forecasts.
CHECKED = {"white": "r2", "phase": "skill_ar"}
LARGEST_SCORE = 0.02


def check_null(table: pd.DataFrame, kind: Literal["white", "phase"]) -> str:
    """Refuse a table of scores on noise in which a row scores above chance.

    Parameters
    ----------
    table : pandas.DataFrame
        What `scores_table` returned for the null control.
    kind : {"white", "phase"}
        `r2` is checked on white noise, `skill_ar` on shuffled phases.

    Returns
    -------
    str
        The result, in one sentence.

    Raises
    ------
    LeakageError
        A row scores more than 0.02, or NaN.
    """
    metric = CHECKED[kind]
    scores = table[metric].astype(float)
    bad = table[~(scores <= LARGEST_SCORE)]
    if len(bad):
        rows = ", ".join(
            f"{model} {score:.3f} at h = {lead}"
            for model, score, lead in zip(bad["model"], bad[metric], bad[LEAD_TIME_POINTS], strict=True)
        )
        raise LeakageError(
            f"Null control {kind}, protocol {table['protocol'].iloc[0]}: expected {metric} <= {LARGEST_SCORE} of every "
            f"row on noise, found {rows}.",
            "Future time points leak into the forecasts: check preparation, split and model first.",
        )
    top = int(scores.to_numpy().argmax())
    model, lead = table["model"].iloc[top], table[LEAD_TIME_POINTS].iloc[top]
    return (
        f"Null control {kind} passed: no row has {metric} above {LARGEST_SCORE}; the largest is {scores.iloc[top]:.4f}"
        f", {model} at h = {lead}."
    )
