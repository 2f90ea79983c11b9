"""Noise ceilings beside the forecast table: the skill that knowledge of the stimulus alone allows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from titan_neuro.evaluation.benchmark import Benchmark
from titan_neuro.evaluation.metrics_and_rows import (
    CEILING_METRICS,
    LEAD_TIME_POINTS,
    REFERENCES,
    STIMULUS_LOCKED,
    interval_columns,
)
from titan_neuro.metrics import Ceiling, bootstrap_interval, ceiling_on_skill, leave_one_out_interval

_COLUMNS = ("ceiling", LEAD_TIME_POINTS, "n_subjects", *interval_columns(CEILING_METRICS))


def ceilings_table(
    benchmark: Benchmark, ceilings: Mapping[str, Ceiling], *, n_resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Average noise ceilings over features, then over the test subjects.

    Parameters
    ----------
    benchmark : Benchmark
        Gives the test subjects, and the `r2` of linear autoregression in each of them: with it, a ceiling on `r2`
        becomes one on `skill_ar`.
    ceilings : mapping of str to Ceiling
        By name, of `titan_neuro.evaluation.metrics_and_rows.CEILINGS`. A ceiling without values has no row.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per ceiling and lead time: ``ceiling``, ``lead_time_points``, ``n_subjects``, then ``r2`` and
        ``skill_ar`` with the ends of their intervals. A ceiling on `r2` is the same at every lead time.
    """
    scores = benchmark.scores
    labels = list(scores.first.subjects)
    rows = []
    for name, ceiling in ceilings.items():
        positions = [position for position, label in enumerate(labels) if label in ceiling.values]
        if not positions:
            continue
        on_r2 = np.array([np.nanmean(ceiling.values[labels[position]]) for position in positions])
        # Leave-one-subject-out values share their subjects.
        interval = leave_one_out_interval if name == STIMULUS_LOCKED else bootstrap_interval
        for horizon in scores.first.horizons:
            ar_r2 = scores.subject_values("r2", REFERENCES["skill_ar"], horizon)[positions]
            row: dict[str, object] = {"ceiling": name, LEAD_TIME_POINTS: horizon, "n_subjects": len(positions)}
            for metric, values in zip(CEILING_METRICS, (on_r2, ceiling_on_skill(on_r2, ar_r2)), strict=True):
                low, high = interval(values, n_resamples=n_resamples, seed=seed)
                row |= {metric: float(values.mean()), f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(_COLUMNS))
