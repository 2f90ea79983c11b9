"""Linear decoders, how well they do, and how well they would by chance: with the labels moved along the run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.random_projection import SparseRandomProjection

from titan_neuro.probing.tools.annotations import is_labeled

# What is wider goes through a random projection first, so that no covariance is larger than this squared.
_WIDEST = 1024
# Of one time point, on features whose mean variance is 1.
_PENALTIES = np.logspace(-3, 2, 6)
_INNER_FOLDS = 3


def narrowed(features: np.ndarray) -> np.ndarray:
    """Features ``(series, width)``, in a sparse random projection, the same for all of one width, where too wide."""
    if features.shape[1] <= _WIDEST:
        return features
    # What it draws depends on the width alone.
    projection = SparseRandomProjection(_WIDEST, random_state=0).fit(features[:1])
    narrow: np.ndarray = projection.transform(features)
    return narrow


@dataclass(frozen=True, eq=False)
class Reduction:
    """Principal components of standardized features, scaled together to a mean variance of 1.

    Attributes
    ----------
    mean : numpy.ndarray
        ``(width,)``.
    directions : numpy.ndarray
        ``(width, components)``.
    """

    mean: np.ndarray
    directions: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Reduce ``(series, width)`` to ``(series, components)``."""
        reduced: np.ndarray = (features.astype(float) - self.mean) @ self.directions
        return reduced


def fit_reduction(features: np.ndarray, n_components: int) -> Reduction:
    """Fit a reduction to `n_components` at most on ``(series, width)``; a constant feature counts for nothing."""
    features = features.astype(float)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 1e-9 * (1 + np.abs(mean)), spread, np.inf)
    standard = (features - mean) / scale
    width = standard.shape[1]
    kept = min(n_components, width, len(features))
    variances, directions = eigh(standard.T @ standard / len(features), subset_by_index=(width - kept, width - 1))
    total = variances.mean()
    return Reduction(mean, directions / scale[:, None] / math.sqrt(total if total > 0 else 1.0))


def fit_decoder(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Any:
    """Fit ridge regression (numbers) or balanced logistic regression (categories), the penalty by cross-validation.

    Parameters
    ----------
    features : numpy.ndarray
        ``(series, components)``.
    labels : numpy.ndarray
        ``(series,)``, all of which say something: at least two classes or numbers.
    groups : numpy.ndarray
        ``(series,)``: what the penalty is cross-validated over; where there is one only, stretches of time points.

    Returns
    -------
    sklearn.linear_model.LogisticRegression or sklearn.linear_model.Ridge
    """
    n_groups = len(np.unique(groups))
    if n_groups > 1:
        inner = GroupKFold(min(_INNER_FOLDS, n_groups)).split(features, labels, groups)
    else:
        inner = KFold(min(_INNER_FOLDS, len(labels))).split(features)
    splits = [(train, test) for train, test in inner if len(np.unique(labels[train])) > 1]
    penalties = len(labels) * _PENALTIES
    if labels.dtype.kind == "U":
        model, grid = _logistic(), {"C": 1 / penalties}
    else:
        model, grid = Ridge(), {"alpha": penalties}
    with warnings.catch_warnings():
        # A weak penalty may need more steps than it is given; a decoder near its best is one still.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if not splits:
            return model.fit(features, labels)
        return GridSearchCV(model, grid, scoring=_score, cv=splits).fit(features, labels).best_estimator_


def refit(decoder: Any, features: np.ndarray, labels: np.ndarray) -> Any:
    """Fit a decoder's like, of the same penalty, on other time points."""
    fresh = type(decoder)(**decoder.get_params())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fresh.fit(features, labels)


def _logistic() -> LogisticRegression:
    return LogisticRegression(class_weight="balanced", max_iter=200, tol=1e-3)


def _score(model: Any, features: np.ndarray, labels: np.ndarray) -> float:
    predicted = model.predict(features)
    if labels.dtype.kind == "U":
        return float(np.mean([np.mean(predicted[labels == kind] == kind) for kind in np.unique(labels)]))
    return -float(np.square(predicted - labels).mean())


def shifted_scores(predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """How well predictions fit the labels when these are moved along the run, by 0, 1, ... time points, and round its
    end.

    Moved so, labels keep their order, durations and autocorrelation, and predictions theirs: all that is lost is which
    label goes with which prediction. Exact when either series is stationary.

    Parameters
    ----------
    predicted, labels : numpy.ndarray
        ``(series,)``: both text, or both numbers. Labels that say nothing are moved along too.
    usable : numpy.ndarray
        bool ``(series,)``: the time points whose predictions count.

    Returns
    -------
    numpy.ndarray
        ``(series,)``, entry 0 without a shift: balanced accuracy (mean over the classes that are there of the share of
        their time points that are predicted), or Pearson's r; NaN where there is none.
    """
    if labels.dtype.kind == "U":
        return _shifted_accuracy(predicted, labels, usable)
    return _shifted_correlation(predicted, labels, usable)


def _moved(fixed: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Sum over time points of the one times the other moved by each shift: ``(series,)``."""
    n_time_points = len(fixed)
    product = np.fft.rfft(fixed.astype(float)) * np.conj(np.fft.rfft(moved.astype(float)))
    return np.fft.irfft(product, n_time_points)


def _shifted_accuracy(predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> np.ndarray:
    kinds = np.unique(labels[is_labeled(labels)])
    total, present = np.zeros(len(labels)), np.zeros(len(labels))
    for kind in kinds:
        hits = np.rint(_moved(usable & (predicted == kind), labels == kind))
        count = np.rint(_moved(usable, labels == kind))
        total += hits / np.maximum(count, 1)
        present += count > 0
    return np.where(present > 0, total / np.maximum(present, 1), np.nan)


def _shifted_correlation(predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> np.ndarray:
    there = is_labeled(labels)
    y = np.where(there, _standard(labels, there), 0.0)
    x = np.where(usable, _standard(predicted, usable), 0.0)
    count = np.maximum(np.rint(_moved(usable, there)), 1)
    sum_x, sum_y = _moved(x, there), _moved(usable, y)
    spread_x = _moved(x**2, there) - sum_x**2 / count
    spread_y = _moved(usable, y**2) - sum_y**2 / count
    scale = np.sqrt(np.maximum(spread_x, 0) * np.maximum(spread_y, 0))
    # Sums of squares of standardized numbers: what is smaller is rounding.
    varies = scale > 1e-9 * len(labels)
    return np.where(varies, np.clip((_moved(x, y) - sum_x * sum_y / count) / np.where(varies, scale, 1), -1, 1), np.nan)


def _standard(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    if not where.any():
        return np.zeros(len(values))
    mean, spread = values[where].mean(), values[where].std()
    standard: np.ndarray = (values - mean) / (spread if spread > 1e-9 * (1 + abs(mean)) else np.inf)
    return standard


def draw_shifts(lengths: Mapping[str, int], *, n_permutations: int, seed: int) -> dict[str, np.ndarray]:
    """Shifts by which labels are moved, for each stimulus the same in all who saw it.

    Parameters
    ----------
    lengths : mapping
        Time points of each stimulus.
    n_permutations : int
        Drawn at random; all that there are, but for the one that moves nothing, where they are no more than this.
    seed : int

    Returns
    -------
    dict of str to numpy.ndarray
        ``(permutations,)``: as a share of the stimulus, from 0 to below 1.
    """
    names = sorted(lengths)
    if math.prod(lengths[name] for name in names) - 1 <= n_permutations:
        shifts = np.indices([lengths[name] for name in names]).reshape(len(names), -1)[:, 1:]
    else:
        rng = np.random.default_rng(seed)
        shifts = np.stack([rng.integers(lengths[name], size=n_permutations) for name in names])
    return {name: row / lengths[name] for name, row in zip(names, shifts, strict=True)}
