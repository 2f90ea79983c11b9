"""Null distributions of the similarity of two brain maps that are smooth, as nearly all brain maps are."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist

from titan_neuro.metrics.measures import FloatArray

_ROUNDING = 1e-10


def moran_surrogates(values: FloatArray, centers_mm: FloatArray, *, n_maps: int, seed: int) -> FloatArray:
    """Draw random maps with the spatial autocorrelation of a map (Moran spectral randomization; Wagner and Dray 2015).

    A map is a sum of patterns that range from smooth to rough: the eigenvectors of the doubly centered inverse
    distances. Each surrogate has the same patterns with random signs (the procedure "singleton"), and so the mean, the
    variance and Moran's I of the map.

    Tests by them are approximate. Of two independent maps, 5 to 8 % agree at a nominal 5 %: most where they are smooth
    over a third of the brain.

    Parameters
    ----------
    values : numpy.ndarray
        ``(features,)``, finite.
    centers_mm : numpy.ndarray
        Where the features lie, ``(features, 3)``; no two in one place.
    n_maps : int
    seed : int

    Returns
    -------
    numpy.ndarray
        ``(n_maps, features)``.
    """
    distances = cdist(centers_mm, centers_mm)
    np.fill_diagonal(distances, np.inf)
    weights = 1 / distances
    centered = weights - weights.mean(axis=0) - weights.mean(axis=1, keepdims=True) + weights.mean()
    eigenvalues, patterns = eigh(centered)
    # One pattern is the mean map itself, whose eigenvalue is 0.
    patterns = patterns[:, np.abs(eigenvalues) > _ROUNDING * np.abs(eigenvalues).max()]
    amplitudes = patterns.T @ (values - values.mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(n_maps, len(amplitudes)))
    surrogates: FloatArray = values.mean() + (signs * amplitudes) @ patterns.T
    return surrogates
