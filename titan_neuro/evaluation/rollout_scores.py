"""Scores of rollouts: sums per subject, and the metrics made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from titan_neuro.errors import NoMatchError
from titan_neuro.evaluation.metrics_and_rows import RESIDUAL_METRICS
from titan_neuro.metrics.measures import FloatArray


@dataclass(frozen=True, eq=False)
class RolloutSums:
    """Sums over the targets of a subject's rollouts. Arrays are ``(horizons, models)`` unless stated otherwise.

    Attributes
    ----------
    n_runs : int
    n_targets : numpy.ndarray
        int: scored time points that are targets of a rollout.
    squared_error, error : numpy.ndarray
        Of the rollouts, over targets and features; `error` is forecast minus target.
    n_values : numpy.ndarray
        int: targets times features.
    ar_error, mean_error : numpy.ndarray
        Squared errors of the direct forecasts of linear AR, and of the training mean, on the same targets.
    spread, target_spread : numpy.ndarray
        Sums of squares about each feature's mean over the run's targets, of rollouts and of targets.
    autocorrelated_fraction, portmanteau : numpy.ndarray
        ``(models,)``, summed over runs: fraction of features with autocorrelated one-step residuals (robust portmanteau
        test, p < 0.05), and the median of the statistic.
    """

    n_runs: int
    n_targets: NDArray[np.int64]
    squared_error: FloatArray
    error: FloatArray
    n_values: NDArray[np.int64]
    ar_error: FloatArray
    mean_error: FloatArray
    spread: FloatArray
    target_spread: FloatArray
    autocorrelated_fraction: FloatArray
    portmanteau: FloatArray

    def __add__(self, other: RolloutSums) -> RolloutSums:
        return RolloutSums(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)})

    def measure(self, metric: str) -> FloatArray:
        """Metric of the subject, ``(horizons, models)``, or ``(models,)`` of the residuals; NaN where undefined."""
        if metric in RESIDUAL_METRICS:
            return np.asarray(getattr(self, metric) / self.n_runs)
        numerator, denominator = {
            "skill_ar": (self.ar_error - self.squared_error, self.ar_error),
            "r2": (self.mean_error - self.squared_error, self.mean_error),
            "variance_ratio": (self.spread, self.target_spread),
            "bias": (self.error, self.n_values),
        }[metric]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(denominator > 0, numerator / denominator, np.nan)


@dataclass(frozen=True, eq=False)
class RolloutScores:
    """Rollouts of one seed.

    Attributes
    ----------
    models : tuple of str
    horizons : tuple of int
    subjects : mapping of str to RolloutSums
    """

    models: tuple[str, ...]
    horizons: tuple[int, ...]
    subjects: Mapping[str, RolloutSums]

    def subject_values(self, metric: str) -> FloatArray:
        """Metric of each subject, ``(subjects, horizons, models)``, or ``(subjects, models)`` of the residuals."""
        return np.stack([sums.measure(metric) for sums in self.subjects.values()])


def combine_rollouts(parts: Sequence[RolloutScores]) -> RolloutScores:
    """Join the rollouts of several runs or folds; those of one subject are added.

    Raises
    ------
    NoMatchError
        `parts` is empty.
    """
    if not parts:
        raise NoMatchError("There are no rollouts to join.")
    by_subject: dict[str, list[RolloutSums]] = {}
    for part in parts:
        for label, sums in part.subjects.items():
            by_subject.setdefault(label, []).append(sums)
    subjects = {label: reduce(RolloutSums.__add__, by_subject[label]) for label in sorted(by_subject)}
    return RolloutScores(parts[0].models, parts[0].horizons, subjects)
