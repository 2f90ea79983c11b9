"""The benchmark as tables: over subjects, subject by subject, of rollouts and of residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from titan_neuro.evaluation.benchmark import Benchmark, ScoresBySeed
from titan_neuro.evaluation.metrics_and_rows import (
    CORRELATIONS,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    METRICS,
    RESIDUAL_METRICS,
    ROLLOUT_METRICS,
)
from titan_neuro.evaluation.rollout_scores import RolloutScores
from titan_neuro.metrics import bootstrap_interval, fisher_mean
from titan_neuro.metrics.measures import FloatArray, fisher_z


def scores_table(
    benchmark: Benchmark,
    *,
    repetition_time_s: float,
    n_resamples: int = 10_000,
    seed: int = 0,
    scores: ScoresBySeed | None = None,
) -> pd.DataFrame:
    """Average the metrics over subjects, with 95 % bootstrap intervals over subjects.

    A subject's value is the mean over the seeds. Correlations and their intervals are averaged on Fisher's scale.

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
    scores : ScoresBySeed, optional
        Scores to tabulate: ``benchmark.scores`` by default.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster and lead time: ``model``, ``kind``, ``lead_time_points``, ``lead_time_s``, ``protocol``,
        ``n_subjects``, ``n_runs``, ``n_time_points``, ``n_seeds``, then for each of `METRICS` its mean and the ends of
        its interval, ``_low`` and ``_high`` (NaN with fewer than three subjects), and ``skill_ar_seed_sd``.
    """
    scores = benchmark.scores if scores is None else scores
    rows = []
    for model, kind in benchmark.kinds.items():
        for horizon in scores.first.horizons:
            row: dict[str, object] = {
                "model": model,
                "kind": kind.value,
                LEAD_TIME_POINTS: horizon,
                LEAD_TIME_S: round(horizon * repetition_time_s, 6),
                "protocol": benchmark.protocol,
                "n_subjects": len(scores.first.subjects),
                "n_runs": sum(len(sums.runs) for sums in scores.first.subjects.values()),
                "n_time_points": int(scores.n_time_points(horizon).sum()),
                "n_seeds": len(scores.by_seed),
            }
            for metric in METRICS:
                values = scores.subject_values(metric, model, horizon)
                row |= _with_interval(metric, values, n_resamples, seed)
            row["skill_ar_seed_sd"] = scores.seed_sd("skill_ar", model, horizon)
            rows.append(row)
    return pd.DataFrame(rows)


def summarize(
    values: FloatArray, metric: str, *, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Average the finite values over subjects, with a 95 % interval.

    Parameters
    ----------
    values : numpy.ndarray
        One value per subject, ``(subjects,)``.
    metric : str
        Name of the metric; correlations are averaged on Fisher's scale.
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


def subjects_table(benchmark: Benchmark) -> pd.DataFrame:
    """List the metrics of each subject, each the mean over the seeds.

    Parameters
    ----------
    benchmark : Benchmark
        All folds, joined.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster, subject and lead time: ``model``, ``kind``, ``subject``, ``lead_time_points``,
        ``n_runs``, ``n_time_points``, ``n_seeds``, then `METRICS`.
    """
    scores = benchmark.scores
    n_time_points = {horizon: scores.n_time_points(horizon) for horizon in scores.first.horizons}
    rows = []
    for model, kind in benchmark.kinds.items():
        values = {
            (metric, horizon): scores.subject_values(metric, model, horizon)
            for metric in METRICS
            for horizon in n_time_points
        }
        for position, (label, sums) in enumerate(scores.first.subjects.items()):
            rows += [
                {
                    "model": model,
                    "kind": kind.value,
                    "subject": label,
                    LEAD_TIME_POINTS: horizon,
                    "n_runs": len(sums.runs),
                    "n_time_points": int(n_time_points[horizon][position]),
                    "n_seeds": len(scores.by_seed),
                    **{metric: values[metric, horizon][position] for metric in METRICS},
                }
                for horizon in n_time_points
            ]
    return pd.DataFrame(rows)


def rollouts_table(
    benchmark: Benchmark, *, repetition_time_s: float, n_resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Average the metrics of the rollouts over subjects.

    Parameters
    ----------
    benchmark : Benchmark
        With rollouts.
    repetition_time_s : float
        Seconds between time points.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster and lead time: ``model``, ``kind``, ``lead_time_points``, ``lead_time_s``, ``protocol``,
        ``n_subjects``, ``n_seeds``, ``n_targets``, then `ROLLOUT_METRICS` with their intervals.
    """
    first = _first(benchmark.rollouts)
    values = _over_seeds(benchmark.rollouts, ROLLOUT_METRICS)
    # (seeds, horizons, models)
    n_targets = np.array(
        [
            np.sum([sums.n_targets for sums in scores.subjects.values()], axis=0)
            for scores in benchmark.rollouts.values()
        ]
    ).min(axis=0)
    rows = []
    for column, model in enumerate(first.models):
        for position, horizon in enumerate(first.horizons):
            row: dict[str, object] = {
                "model": model,
                "kind": benchmark.kinds[model].value,
                LEAD_TIME_POINTS: horizon,
                LEAD_TIME_S: round(horizon * repetition_time_s, 6),
                "protocol": benchmark.protocol,
                "n_subjects": len(first.subjects),
                "n_seeds": len(benchmark.rollouts),
                "n_targets": int(n_targets[position, column]),
            }
            for metric in ROLLOUT_METRICS:
                row |= _with_interval(metric, values[metric][:, position, column], n_resamples, seed)
            rows.append(row)
    return pd.DataFrame(rows)


def residuals_table(benchmark: Benchmark, *, n_resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Average over subjects how strongly the errors of forecasts one time point ahead are autocorrelated.

    Parameters
    ----------
    benchmark : Benchmark
        With rollouts.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster: ``model``, ``kind``, ``protocol``, ``n_subjects``, ``n_seeds``, then `RESIDUAL_METRICS`
        with their intervals.
    """
    first = _first(benchmark.rollouts)
    values = _over_seeds(benchmark.rollouts, RESIDUAL_METRICS)
    rows = []
    for column, model in enumerate(first.models):
        row: dict[str, object] = {
            "model": model,
            "kind": benchmark.kinds[model].value,
            "protocol": benchmark.protocol,
            "n_subjects": len(first.subjects),
            "n_seeds": len(benchmark.rollouts),
        }
        for metric in RESIDUAL_METRICS:
            row |= _with_interval(metric, values[metric][:, column], n_resamples, seed)
        rows.append(row)
    return pd.DataFrame(rows)


def _first(rollouts: Mapping[int, RolloutScores]) -> RolloutScores:
    return next(iter(rollouts.values()))


def _over_seeds(rollouts: Mapping[int, RolloutScores], metrics: Sequence[str]) -> dict[str, FloatArray]:
    return {
        metric: np.mean([scores.subject_values(metric) for scores in rollouts.values()], axis=0) for metric in metrics
    }


def _with_interval(metric: str, values: FloatArray, n_resamples: int, seed: int) -> dict[str, object]:
    mean, low, high = summarize(values, metric, n_resamples=n_resamples, seed=seed)
    return {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
