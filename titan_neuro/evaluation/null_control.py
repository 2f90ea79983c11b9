"""Where nothing is to be forecast, nobody may forecast it: the check of the null controls."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from titan_neuro.errors import LeakageError

# Of white noise nothing can be forecast. Where each voxel keeps its autocorrelation, nothing beyond linear AR.
CHECKED = {"white": "r2", "phase": "skill_ar"}
LARGEST_SCORE = 0.02


def check_null(table: pd.DataFrame, kind: Literal["white", "phase"]) -> str:
    """Refuse a table of scores on noise in which a row has found something.

    Parameters
    ----------
    table : pandas.DataFrame
        What `scores_table` returned, of a null control.
    kind : {"white", "phase"}
        `r2` is checked on white noise, `skill_ar` on shuffled phases, which leave each voxel's autocorrelation.

    Returns
    -------
    str
        What was seen, in one sentence.

    Raises
    ------
    LeakageError
        A row scores more than 0.02, or what no number is.
    """
    metric = CHECKED[kind]
    bad = table[~(table[metric] <= LARGEST_SCORE)]
    if len(bad):
        rows = ", ".join(
            f"{row['model']} {row[metric]:.3f} at h = {row['lead_time_points']}" for _, row in bad.iterrows()
        )
        raise LeakageError(
            f"Null control {kind}, protocol {table['protocol'].iloc[0]}: expected {metric} <= {LARGEST_SCORE} of every "
            f"row on noise, found {rows}.",
            "What is to come leaks into what is given: look at preparation, split and model first.",
        )
    top = table.loc[table[metric].idxmax()]
    return (
        f"Null control {kind} passed: no row has {metric} above {LARGEST_SCORE}; the largest is {top[metric]:.4f}, "
        f"{top['model']} at h = {top['lead_time_points']}."
    )
