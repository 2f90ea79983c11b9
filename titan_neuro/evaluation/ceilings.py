"""The ceilings beside the table: how far knowledge of the stimulus alone would reach."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from titan_neuro.evaluation.benchmark import Benchmark
from titan_neuro.evaluation.vocabulary import REFERENCES, STIMULUS_LOCKED
from titan_neuro.metrics import Ceiling, bootstrap_interval, ceiling_on_skill, leave_one_out_interval

_COLUMNS = ("ceiling", "lead_time_points", "n_subjects")


def ceilings_table(
    benchmark: Benchmark, ceilings: Mapping[str, Ceiling], *, n_resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Average ceilings over features, then over the subjects that were tested.

    Parameters
    ----------
    benchmark : Benchmark
        For the subjects, and for what linear AR reaches in each: with it a ceiling on `r2` becomes one on `skill_ar`.
    ceilings : mapping of str to Ceiling
        By name: `STIMULUS_LOCKED`, `TEST_RETEST`. One without values has no row.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per ceiling and horizon: ``ceiling``, ``lead_time_points``, ``n_subjects``, then ``r2`` and ``skill_ar``
        with the ends of their intervals. A ceiling on `r2` is the same at every horizon.
    """
    scores = benchmark.scores
    rows = []
    for name, ceiling in ceilings.items():
        chosen = [place for place, label in enumerate(scores.first.subjects) if label in ceiling.values]
        if not chosen:
            continue
        labels = list(scores.first.subjects)
        on_r2 = np.array([np.nanmean(ceiling.values[labels[place]]) for place in chosen])
        # Leave-one-out values share their subjects.
        interval = leave_one_out_interval if name == STIMULUS_LOCKED else bootstrap_interval
        for horizon in scores.first.horizons:
            reached = scores.subject_values("r2", REFERENCES["skill_ar"], horizon)[chosen]
            row: dict[str, object] = dict(zip(_COLUMNS, (name, horizon, len(chosen)), strict=True))
            for metric, values in (("r2", on_r2), ("skill_ar", ceiling_on_skill(on_r2, reached))):
                low, high = interval(values, n_resamples=n_resamples, seed=seed)
                row |= {metric: float(values.mean()), f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
    ends = [f"{metric}{end}" for metric in ("r2", "skill_ar") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*_COLUMNS, *ends])
