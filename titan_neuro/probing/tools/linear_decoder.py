"""Linear decoders, their scores, and their scores with the labels shifted circularly along the run."""

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

# Wider features are projected at random, so that no covariance matrix is larger than this squared.
_MAX_WIDTH = 1024
# Penalties for each time point, on features whose mean variance is 1.
_PENALTIES = np.logspace(-3, 2, 6)
_INNER_FOLDS = 3
# Part of a run over which autocorrelation may last: with more, shifted labels agree less often than chance has it.
_SLOW_FRACTION = 0.1


def project_wide(features: np.ndarray) -> np.ndarray:
    """Project features that are too wide at random, the same way for all of one width.

    Parameters
    ----------
    features : numpy.ndarray
        ``(time, width)``.

    Returns
    -------
    numpy.ndarray
        ``(time, width)``, or ``(time, 1024)`` where they were wider.
    """
    if features.shape[1] <= _MAX_WIDTH:
        return features
    # The projection that is drawn depends on the width alone.
    projection = SparseRandomProjection(_MAX_WIDTH, random_state=0).fit(features[:1])
    projected: np.ndarray = projection.transform(features)
    return projected


@dataclass(frozen=True, eq=False)
class Reduction:
    """Projection onto principal components of z-scored features, scaled together to a mean variance of 1.

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
        """Project ``(time, width)`` to ``(time, components)``."""
        reduced: np.ndarray = (features.astype(float) - self.mean) @ self.directions
        return reduced


def fit_reduction(features: np.ndarray, n_components: int) -> Reduction:
    """Fit principal components.

    Parameters
    ----------
    features : numpy.ndarray
        ``(time, width)``; a constant feature has no weight.
    n_components : int
        At most so many components.
    """
    features = features.astype(float)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 1e-9 * (1 + np.abs(mean)), spread, np.inf)
    standard = (features - mean) / scale
    width = standard.shape[1]
    n_components = min(n_components, width, len(features))
    variances, directions = eigh(
        standard.T @ standard / len(features), subset_by_index=(width - n_components, width - 1)
    )
    total = variances.mean()
    return Reduction(mean, directions / scale[:, None] / math.sqrt(total if total > 0 else 1.0))


def fit_decoder(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Any:
    """Fit ridge regression (numbers) or balanced logistic regression (categories), with a cross-validated penalty.

    Parameters
    ----------
    features : numpy.ndarray
        ``(time, components)``.
    labels : numpy.ndarray
        ``(time,)``, none of them missing: at least two classes or numbers.
    groups : numpy.ndarray
        ``(time,)``: groups of the cross-validation; with a single group its folds are segments of time points.

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
        # With a weak penalty the solver may stop before it has converged, close to the optimum.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if not splits:
            return model.fit(features, labels)
        return GridSearchCV(model, grid, scoring=_score, cv=splits).fit(features, labels).best_estimator_


def refit(decoder: Any, features: np.ndarray, labels: np.ndarray) -> Any:
    """Fit a new decoder with the penalty of this one to ``(time, components)`` features and ``(time,)`` labels."""
    refitted = type(decoder)(**decoder.get_params())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return refitted.fit(features, labels)


def _logistic() -> LogisticRegression:
    return LogisticRegression(class_weight="balanced", max_iter=200, tol=1e-3)


def _score(model: Any, features: np.ndarray, labels: np.ndarray) -> float:
    predicted = model.predict(features)
    if labels.dtype.kind == "U":
        return float(np.mean([np.mean(predicted[labels == kind] == kind) for kind in np.unique(labels)]))
    return -float(np.square(predicted - labels).mean())


def shifted_scores(predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Score predictions at every circular shift of the labels along the run, by 0, 1, ... time points.

    Shifted labels keep their order, durations and autocorrelation, and so do the predictions; only the pairing of
    labels and predictions is lost. The test is approximate: a run is no circle, and slow series of one run agree by
    chance more often than their shifts do. With two independent AR(1) series of 100 time points, a test at a nominal
    5 % rejects 5, 8 and 13 % for coefficients of 0.9, 0.97 and 0.99. :func:`is_slow` marks such runs.

    Parameters
    ----------
    predicted, labels : numpy.ndarray
        ``(time,)``: both text, or both numbers. Missing labels (``""`` or NaN) are shifted, too.
    usable : numpy.ndarray
        bool ``(time,)``: time points whose predictions are scored.

    Returns
    -------
    numpy.ndarray
        ``(time,)``, entry 0 without a shift: balanced accuracy (mean recall over the classes that occur), or Pearson's
        r; NaN where it is not defined.
    """
    if labels.dtype.kind == "U":
        return _shifted_accuracy(predicted, labels, usable)
    return _shifted_correlation(predicted, labels, usable)


def is_slow(predicted: np.ndarray, labels: np.ndarray) -> bool:
    """Whether predictions and labels are autocorrelated over so long a part of a run that shifts reject too often.

    Parameters
    ----------
    predicted, labels : numpy.ndarray
        As for :func:`shifted_scores`. Of categories the most frequent one is looked at.

    Returns
    -------
    bool
        True where the autocorrelation falls below 1/e only after more than a tenth of the run: the geometric mean of
        both series, because one quick series is enough for shifts to be right.
    """
    lengths = [_correlation_length(series) for series in (predicted, labels)]
    return math.sqrt(math.prod(lengths)) > _SLOW_FRACTION * len(labels)


def _correlation_length(series: np.ndarray) -> int:
    """First lag, in time points, at which the autocorrelation is below 1/e; missing values count as the mean."""
    labeled = is_labeled(series)
    if series.dtype.kind == "U":
        kinds, counts = np.unique(series[labeled], return_counts=True)
        series = (series == kinds[counts.argmax()]).astype(float) if len(kinds) else np.zeros(len(series))
    centered = np.where(labeled, _z_scored(series, labeled), 0.0)
    # Padded with zeros: no circle.
    power = np.abs(np.fft.rfft(centered, 2 * len(centered))) ** 2
    autocorrelation = np.fft.irfft(power)[: len(centered)]
    return int((autocorrelation < autocorrelation[0] / math.e).argmax())


def _cross_correlate(fixed: np.ndarray, shifted: np.ndarray) -> np.ndarray:
    """Sum over time points of the product of the one with the other at each circular shift: ``(time,)``."""
    n_time_points = len(fixed)
    product = np.fft.rfft(fixed.astype(float)) * np.conj(np.fft.rfft(shifted.astype(float)))
    return np.fft.irfft(product, n_time_points)


def _shifted_accuracy(predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> np.ndarray:
    recall_sum, n_classes = np.zeros(len(labels)), np.zeros(len(labels))
    for kind in np.unique(labels[is_labeled(labels)]):
        n_hits = np.rint(_cross_correlate(usable & (predicted == kind), labels == kind))
        n_labeled = np.rint(_cross_correlate(usable, labels == kind))
        recall_sum += n_hits / np.maximum(n_labeled, 1)
        n_classes += n_labeled > 0
    return np.where(n_classes > 0, recall_sum / np.maximum(n_classes, 1), np.nan)


def _shifted_correlation(predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> np.ndarray:
    labeled = is_labeled(labels)
    y = np.where(labeled, _z_scored(labels, labeled), 0.0)
    x = np.where(usable, _z_scored(predicted, usable), 0.0)
    count = np.maximum(np.rint(_cross_correlate(usable, labeled)), 1)
    sum_x, sum_y = _cross_correlate(x, labeled), _cross_correlate(usable, y)
    squares_x = _cross_correlate(x**2, labeled) - sum_x**2 / count
    squares_y = _cross_correlate(usable, y**2) - sum_y**2 / count
    scale = np.sqrt(np.maximum(squares_x, 0) * np.maximum(squares_y, 0))
    # Sums of squares of z-scored numbers: smaller ones are rounding.
    varies = scale > 1e-9 * len(labels)
    r = (_cross_correlate(x, y) - sum_x * sum_y / count) / np.where(varies, scale, 1)
    return np.where(varies, np.clip(r, -1, 1), np.nan)


def _z_scored(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values in standard deviations over some time points; 0 where they are constant."""
    if not where.any():
        return np.zeros(len(values))
    mean, spread = values[where].mean(), values[where].std()
    scaled: np.ndarray = (values - mean) / (spread if spread > 1e-9 * (1 + abs(mean)) else np.inf)
    return scaled


def draw_shifts(lengths: Mapping[str, int], *, n_permutations: int, seed: int) -> dict[str, np.ndarray]:
    """Draw circular shifts of the labels; runs of one stimulus share them.

    Parameters
    ----------
    lengths : mapping
        Time points of each stimulus.
    n_permutations : int
        Combinations of shifts drawn at random; if there are no more than this, all of them except the identity.
    seed : int

    Returns
    -------
    dict of str to numpy.ndarray
        ``(permutations,)`` for each stimulus: the shift as a fraction of its length, from 0 to below 1.
    """
    names = sorted(lengths)
    if math.prod(lengths[name] for name in names) - 1 <= n_permutations:
        shifts = np.indices([lengths[name] for name in names]).reshape(len(names), -1)[:, 1:]
    else:
        rng = np.random.default_rng(seed)
        shifts = np.stack([rng.integers(lengths[name], size=n_permutations) for name in names])
    return {name: row / lengths[name] for name, row in zip(names, shifts, strict=True)}
