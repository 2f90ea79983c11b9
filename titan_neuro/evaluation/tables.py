"""The benchmark as tables, and as one honest sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from titan_neuro.evaluation.scores import BASELINES, CORRELATIONS, METRICS, Scores
from titan_neuro.metrics import bootstrap_interval, fisher_mean
from titan_neuro.metrics.measures import fisher_z

# Below this the bootstrap can't reach far enough to cover what it says.
_FEW_SUBJECTS = 5


def scores_table(
    scores: Scores, *, protocol: str, repetition_time_s: float, n_resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Average the measures over subjects, with 95 % bootstrap intervals over subjects.

    Correlations are averaged, and their intervals made, on Fisher's scale.

    Parameters
    ----------
    scores : Scores
        All folds, joined.
    protocol : str
        ``subject``, ``run`` or ``strict``: what was held out.
    repetition_time_s : float
        Seconds between frames.
    n_resamples : int
        Bootstrap resamples.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per model and horizon: ``model``, ``horizon_frames``, ``horizon_s``, ``protocol``, ``n_subjects``,
        ``n_runs``, ``n_frames``, then for each of `METRICS` its mean and the ends of its interval, ``_low`` and
        ``_high`` (NaN with fewer than three subjects).
    """
    rows = []
    for model in scores.models:
        for at, horizon in enumerate(scores.horizons):
            row: dict[str, object] = {
                "model": model,
                "horizon_frames": horizon,
                "horizon_s": round(horizon * repetition_time_s, 6),
                "protocol": protocol,
                "n_subjects": len(scores.subjects),
                "n_runs": sum(len(item.runs) for item in scores.subjects.values()),
                "n_frames": sum(int(item.moments.n_frames[at]) for item in scores.subjects.values()),
            }
            for metric in METRICS:
                values = scores.subject_values(metric, model, horizon)
                mean, low, high = summarise(values, metric, n_resamples=n_resamples, seed=seed)
                row |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def summarise(
    values: np.ndarray, metric: str, *, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over subjects and its 95 % interval, of those subjects whose measure is defined.

    Parameters
    ----------
    values : numpy.ndarray
        One a subject, ``(subjects,)``.
    metric : str
        One of `METRICS`; correlations are averaged on Fisher's scale.
    n_resamples : int
        Bootstrap resamples.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    mean, low, high : float
        NaN where there is none.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan"), float("nan"), float("nan")
    if metric in CORRELATIONS:
        low, high = np.tanh(bootstrap_interval(fisher_z(values), n_resamples=n_resamples, seed=seed))
        return fisher_mean(values), float(low), float(high)
    low, high = bootstrap_interval(values, n_resamples=n_resamples, seed=seed)
    return float(values.mean()), low, high


def subjects_table(scores: Scores) -> pd.DataFrame:
    """Measures of each subject.

    Parameters
    ----------
    scores : Scores
        All folds, joined.

    Returns
    -------
    pandas.DataFrame
        One row per model, subject and horizon: ``model``, ``subject``, ``horizon_frames``, ``n_runs``, ``n_frames``,
        then `METRICS`.
    """
    rows = []
    for model in scores.models:
        values = {
            (metric, horizon): scores.subject_values(metric, model, horizon)
            for metric in METRICS
            for horizon in scores.horizons
        }
        for position, (label, item) in enumerate(scores.subjects.items()):
            for at, horizon in enumerate(scores.horizons):
                rows.append(
                    {
                        "model": model,
                        "subject": label,
                        "horizon_frames": horizon,
                        "n_runs": len(item.runs),
                        "n_frames": int(item.moments.n_frames[at]),
                        **{metric: values[metric, horizon][position] for metric in METRICS},
                    }
                )
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> str:
    """Say of each model whether it beats linear autoregression: where the whole interval of `skill_ar` lies above 0.

    Parameters
    ----------
    table : pandas.DataFrame
        What `scores_table` returned.

    Returns
    -------
    str
        One sentence a model. With fewer than three subjects, or with few, it says what that means.
    """
    models = [model for model in table["model"].unique() if model not in BASELINES]
    return " ".join(_verdict_on(model, table[table["model"] == model]) for model in models)


def _verdict_on(model: str, rows: pd.DataFrame) -> str:
    n_subjects = int(rows["n_subjects"].iloc[0])
    who = f"{n_subjects} subject{'s' if n_subjects > 1 else ''}"
    if rows["skill_ar_low"].isna().all():
        numbers = ", ".join(f"{row.skill_ar:.3f} at h = {row.horizon_frames}" for row in rows.itertuples())
        return (
            f"{model}: skill_ar over linear AR is {numbers}; with {who} no interval over subjects is possible, and the "
            "numbers describe these recordings only."
        )
    better, worse = rows["skill_ar_low"] > 0, rows["skill_ar_high"] < 0
    clauses = [
        f"{what} at h = {', '.join(str(h) for h in rows.loc[which, 'horizon_frames'])} "
        f"(skill_ar {', '.join(_interval(row, 'skill_ar') for _, row in rows[which].iterrows())})"
        for what, which in (
            ("beats linear AR", better),
            ("does not beat linear AR", ~better & ~worse),
            ("is worse than linear AR", worse),
        )
        if which.any()
    ]
    caution = ", too few for the interval to cover 95 %" if n_subjects < _FEW_SUBJECTS else ""
    return f"{model} {'; '.join(clauses)}; {who}{caution}."


def _interval(row: pd.Series, metric: str) -> str:
    if pd.isna(row[metric]):
        return "n/a"
    if pd.isna(row[f"{metric}_low"]):
        return f"{row[metric]:.3f}"
    return f"{row[metric]:.3f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"


def format_table(table: pd.DataFrame) -> str:
    """Lay the table out as Markdown that reads well on a terminal too: one row per model and horizon.

    Parameters
    ----------
    table : pandas.DataFrame
        What `scores_table` returned, or ``scores.tsv`` read back with ``na_values="n/a"``.

    Returns
    -------
    str
        Aligned lines; intervals in brackets.
    """
    header = ["model", "h", "seconds", *METRICS]
    lines = [
        [row["model"], str(row["horizon_frames"]), f"{row['horizon_s']:g}", *(_interval(row, m) for m in METRICS)]
        for _, row in table.iterrows()
    ]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [header, rule, *lines]
    )
