"""Surrogates keep what makes smooth maps agree by chance, and nothing else of a map."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binom

from titan_neuro.metrics import moran_surrogates, p_of_null


def smooth_maps(rng, centers, length_mm, n_maps):
    """Maps with Gaussian autocorrelation, and a little noise."""
    covariance = np.exp(-((cdist(centers, centers) / length_mm) ** 2) / 2)
    factor = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(centers)))
    return (factor @ rng.normal(size=(len(centers), n_maps)) + 0.3 * rng.normal(size=(len(centers), n_maps))).T


def morans_i(values, centers):
    weights = 1 / (cdist(centers, centers) + np.diag(np.full(len(centers), np.inf)))
    deviation = values - values.mean()
    return len(values) / weights.sum() * (weights * np.outer(deviation, deviation)).sum() / np.square(deviation).sum()


def test_surrogates_keep_mean_variance_and_moran():
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, 100, size=(60, 3))
    (values,) = smooth_maps(rng, centers, 30.0, 1)
    surrogates = moran_surrogates(values, centers, n_maps=20, seed=0)
    for surrogate in surrogates:
        np.testing.assert_allclose(surrogate.mean(), values.mean())
        np.testing.assert_allclose(surrogate.var(), values.var())
        np.testing.assert_allclose(morans_i(surrogate, centers), morans_i(values, centers))
    correlations = np.corrcoef(values, surrogates)[0, 1:]
    assert np.abs(correlations.mean()) < 0.4 and np.abs(correlations).max() < 0.95


@pytest.mark.parametrize("n_seeds", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_smooth_maps_agree_by_chance_at_the_nominal_rate(n_seeds):
    rng = np.random.default_rng(0)
    centers = np.argwhere(np.ones((6, 6, 6))) * 3.0
    rejected = np.zeros(2)
    for _ in range(n_seeds):
        first, second = smooth_maps(rng, centers, 4.0, 2)
        observed = abs(np.corrcoef(first, second)[0, 1])
        for index, null_maps in enumerate(
            (moran_surrogates(first, centers, n_maps=99, seed=0), rng.permuted(np.tile(first, (99, 1)), axis=1))
        ):
            rejected[index] += p_of_null(observed, np.abs(np.corrcoef(second, null_maps)[0, 1:])) <= 0.05
    low, high = binom.interval(0.99, n_seeds, 0.05)
    assert low <= rejected[0] <= high, rejected
    # Shuffled features, the null distribution that ignores where they lie, reject far too often.
    assert rejected[1] > 3 * high, rejected
