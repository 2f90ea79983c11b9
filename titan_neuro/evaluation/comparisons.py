"""Pairs of rows compared within subjects: the model with controls and comparison models, and these with linear AR."""

from __future__ import annotations

import numpy as np
import pandas as pd

from titan_neuro.evaluation.benchmark import Benchmark
from titan_neuro.evaluation.metrics_and_rows import (
    AR,
    GRU,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    LINEAR_ONLINE,
    SOFT_ANALOGS,
    TRANSFORMER_20,
    VAR,
    VAR_ONLINE,
    Kind,
)
from titan_neuro.evaluation.tables import summarize

# Rows beside its controls that the study's model is compared with, where they are in the table.
_COMPARED = (VAR, VAR_ONLINE, LINEAR_ONLINE, GRU, TRANSFORMER_20, SOFT_ANALOGS[-1])


def comparisons_table(
    benchmark: Benchmark, *, repetition_time_s: float, n_resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Compare pairs of rows by the difference of their `skill_ar`, taken within each subject.

    The comparison models are compared with linear autoregression; the study's model with its controls, VAR, online VAR,
    the GRU, the Transformer and the longest weighted analog forecast.

    Parameters
    ----------
    benchmark : Benchmark
        All folds, joined.
    repetition_time_s : float
        Seconds between time points.
    n_resamples : int
        Bootstrap resamples.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per pair and lead time: ``model``, ``compared_with``, ``lead_time_points``, ``lead_time_s``,
        ``n_subjects``, then the mean ``difference`` over subjects and the ends of its 95 % interval (NaN with fewer
        than three subjects). Empty where no such pair is in the benchmark.
    """
    scores = benchmark.scores
    rows = []
    for model, other in _pairs(benchmark):
        for horizon in scores.first.horizons:
            difference = np.asarray(
                scores.subject_values("skill_ar", model, horizon) - scores.subject_values("skill_ar", other, horizon)
            )
            mean, low, high = summarize(difference, "difference", n_resamples=n_resamples, seed=seed)
            rows.append(
                {
                    "model": model,
                    "compared_with": other,
                    LEAD_TIME_POINTS: horizon,
                    LEAD_TIME_S: round(horizon * repetition_time_s, 6),
                    "n_subjects": len(difference),
                    "difference": mean,
                    "difference_low": low,
                    "difference_high": high,
                }
            )
    return pd.DataFrame(rows)


def _pairs(benchmark: Benchmark) -> list[tuple[str, str]]:
    kinds = benchmark.kinds
    controls = [name for name, kind in kinds.items() if kind == Kind.CONTROL]
    compared = [*controls, *(name for name in _COMPARED if name in kinds)]
    return [
        *((name, AR) for name, kind in kinds.items() if kind == Kind.COMPARISON_MODEL),
        *((benchmark.main_model, other) for other in compared),
    ]
