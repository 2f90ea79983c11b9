"""p values against scipy's, and how often they reject where there is nothing."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom, false_discovery_control, permutation_test

from titan_neuro.metrics import corrected_over_map, p_of_null, sign_flip_test, sign_flips


def test_exact_set_agrees_with_scipy():
    values = np.random.default_rng(0).normal(0.4, 1, size=8)
    oracle = permutation_test((values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf)
    # scipy's exact set holds the identity, ours adds it in `(b + 1) / (n + 1)`.
    assert sign_flip_test(values, n_permutations=10_000, seed=0) == pytest.approx(oracle.pvalue)


def test_smallest_p_follows_from_the_subjects():
    assert sign_flip_test(np.ones(5), n_permutations=10_000, seed=0) == pytest.approx(1 / 2**5)
    assert len(sign_flips(5, n_permutations=10_000, seed=0)) == 2**5 - 1
    assert sign_flips(20, n_permutations=100, seed=0).shape == (100, 20)


def test_equal_sums_in_another_order_count_as_equal():
    """Of three equal differences and their like every flip's sum is one of few: rounding must not decide."""
    values = np.array([0.1, 0.2, 0.3])
    sums = [np.dot(signs, values) for signs in itertools.product((1, -1), repeat=3)]
    reached = sum(total >= sum(values) - 1e-9 for total in sums)
    assert sign_flip_test(values, n_permutations=100, seed=0) == pytest.approx(reached / 8)


def test_features_are_tested_together():
    values = np.random.default_rng(1).normal(0.2, 1, size=(9, 5))
    together = sign_flip_test(values, n_permutations=1000, seed=0)
    alone = [sign_flip_test(values[:, feature], n_permutations=1000, seed=0) for feature in range(5)]
    np.testing.assert_allclose(together, alone)


def test_false_positive_rate_is_nominal():
    n_sets = 2000
    values = np.random.default_rng(2).standard_t(3, size=(12, n_sets))
    rejected = int((sign_flip_test(values, n_permutations=2000, seed=3) <= 0.05).sum())
    low, high = binom.interval(0.99, n_sets, 0.05)
    assert low <= rejected <= high


def test_p_value_counts_the_observed_statistic():
    assert p_of_null(3.0, np.array([1.0, 2.0, 3.0, 4.0])) == 3 / 5
    assert p_of_null(9.0, np.zeros(99)) == 1 / 100


def test_correction_skips_nan_features():
    p = np.array([0.01, np.nan, 0.02, 0.5])
    corrected = corrected_over_map(p)
    np.testing.assert_allclose(corrected[[0, 2, 3]], false_discovery_control(p[[0, 2, 3]]))
    assert np.isnan(corrected[1])
    assert np.isnan(corrected_over_map(np.full(3, np.nan))).all()
