"""p values from permutations, and their correction over a map."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.stats import false_discovery_control

from titan_neuro.metrics.measures import FloatArray

_BLOCK_NUMBERS = 2**22


def p_of_null(observed: float, null: FloatArray) -> float:
    """One-sided permutation p value, ``(b + 1) / (n + 1)`` (Phipson & Smyth 2010).

    ``b`` of the ``n`` permutations are at least as large as the observed statistic.

    Parameters
    ----------
    observed : float
        The statistic; larger is more extreme.
    null : numpy.ndarray
        ``(permutations,)``: the statistic under the null hypothesis.

    Returns
    -------
    float
        Between ``1 / (permutations + 1)`` and 1.
    """
    return float((np.sum(null >= observed) + 1) / (len(null) + 1))


def sign_flips(n_subjects: int, *, n_permutations: int, seed: int) -> FloatArray:
    """Sign flips under the null hypothesis of symmetry about 0.

    Parameters
    ----------
    n_subjects : int
    n_permutations : int
        Most flips.
    seed : int
        Of the random flips.

    Returns
    -------
    numpy.ndarray
        1 or -1, ``(flips, subjects)``: all flips but the identity where they are no more than `n_permutations`, else a
        random sample.
    """
    if 2**n_subjects - 1 <= n_permutations:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n_subjects))[1:])
    return np.random.default_rng(seed).choice((1.0, -1.0), size=(n_permutations, n_subjects))


def sign_flip_test(values: FloatArray, *, n_permutations: int, seed: int) -> FloatArray:
    """Test whether the mean over subjects lies above 0, by flipping the signs of whole subjects.

    Parameters
    ----------
    values : numpy.ndarray
        ``(subjects,)`` or ``(subjects, features)``, finite: paired differences. Flips are shared by all features.
    n_permutations : int
        Number of random flips; all flips where they are fewer.
    seed : int
        Of the random flips.

    Returns
    -------
    numpy.ndarray
        One-sided p values, ``()`` or ``(features,)``: ``(b + 1) / (n + 1)``; of `n` subjects none is below
        ``1 / 2 ** n``.
    """
    signs = sign_flips(len(values), n_permutations=n_permutations, seed=seed)
    flat = np.asarray(values, dtype=float).reshape(len(values), -1)
    observed = flat.sum(axis=0)
    # Sums of the same numbers in another order differ by rounding error, and must count as equal.
    threshold = observed - 1e-12 * np.abs(flat).sum(axis=0)
    count = np.zeros(flat.shape[1])
    step = max(1, _BLOCK_NUMBERS // flat.shape[1])
    for start in range(0, len(signs), step):
        count += (signs[start : start + step] @ flat >= threshold).sum(axis=0)
    p: FloatArray = ((count + 1) / (len(signs) + 1)).reshape(np.shape(values)[1:])
    return p


def corrected_over_map(p: FloatArray) -> FloatArray:
    """Adjust p values ``(features,)`` for the false discovery rate (Benjamini & Hochberg 1995); NaN stays NaN."""
    corrected = np.full_like(p, np.nan)
    finite = np.isfinite(p)
    if finite.any():
        corrected[finite] = false_discovery_control(p[finite])
    return corrected
