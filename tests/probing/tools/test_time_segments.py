"""Matching must agree with loops over correlations; its null distribution must be nominal."""

import numpy as np
import pytest
from scipy.stats import binomtest

from titan_neuro.metrics import p_of_null
from titan_neuro.probing.tools.time_segments import (
    accuracy_and_null,
    allowed_shifts,
    cut_segments,
    detrend_and_scale,
    match_segments,
)


def autocorrelated(rng, n, width):
    noise = rng.normal(size=(n, width))
    for t in range(1, n):
        noise[t] += 0.7 * noise[t - 1]
    return noise


def match(run, reference, exclusion=5):
    times = np.arange(len(run))
    rows = (cut_segments(values, times, 1) for values in detrend_and_scale(run, reference, times, degree=3))
    return match_segments(*rows, times, np.ones(len(times), dtype=bool), exclusion)


@pytest.mark.parametrize("n_seeds", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_false_positive_rate_is_nominal(n_seeds):
    p = []
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        # Runs are similar to each other, and are matched with one reference, whose stimulus is another.
        common, reference = autocorrelated(rng, 100, 6), autocorrelated(rng, 100, 6)
        runs = [("abc"[i], "stimulus", match(common + autocorrelated(rng, 100, 6), reference)) for i in range(3)]
        accuracy, null = accuracy_and_null(runs, exclusion=5, n_permutations=1000, seed=seed)
        p.append(p_of_null(accuracy.mean() - 1e-12, null))
    for level in (0.05, 0.2):
        interval = binomtest(int(np.sum(np.array(p) <= level)), n_seeds).proportion_ci(0.99)
        # Fractions of few segments often tie, which makes the test conservative, never liberal.
        assert interval.low <= level <= interval.high + 0.05, (level, interval)


def test_matches_agree_with_loop_over_correlations():
    rng = np.random.default_rng(0)
    run, reference = rng.normal(size=(120, 4)), rng.normal(size=(120, 4))
    run += 0.8 * reference
    length, exclusion = 3, 15
    ends = np.flatnonzero(rng.random(120) > 0.2)
    ends = ends[ends >= length - 1]
    tested = rng.random(len(ends)) > 0.1
    segments, reference_segments = (cut_segments(values, ends, length) for values in (run, reference))
    matches = match_segments(segments, reference_segments, ends, tested, exclusion)
    ravelled = [[values[t - 2 : t + 1][::-1].ravel() for t in ends] for values in (run, reference)]
    correlations = np.corrcoef(*ravelled)[: len(ends), len(ends) :]
    chances, lags = [], []
    hits = np.zeros(len(ends))
    for row in np.flatnonzero(tested):
        lags.append(ends[correlations[row].argmax()] - ends[row])
        for column, time in enumerate(ends):
            outside = np.abs(ends - time) > exclusion
            hits[(column - row) % len(ends)] += correlations[row, column] > correlations[row, outside].max()
        chances.append(1 / ((np.abs(ends - ends[row]) > exclusion).sum() + 1))
    np.testing.assert_allclose(matches.by_shift, hits / tested.sum())
    np.testing.assert_array_equal(matches.lags, lags)
    assert matches.chance == pytest.approx(np.mean(chances))
    assert 0.2 < matches.by_shift[0] < 1


def test_many_rows_are_matched_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    run, reference = rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
    at_once = match(run, reference)
    monkeypatch.setattr("titan_neuro.probing.tools.time_segments._ROWS_AT_A_TIME", 7)
    in_blocks = match(run, reference)
    np.testing.assert_array_equal(in_blocks.by_shift, at_once.by_shift)
    np.testing.assert_array_equal(in_blocks.lags, at_once.lags)


def test_polynomial_of_time_is_subtracted():
    rng = np.random.default_rng(0)
    times = np.arange(120)
    drift = np.polynomial.polynomial.polyvander(times / 120.0, 3) @ rng.normal(size=(4, 8)) * 50
    run, reference = drift + rng.normal(size=(120, 8)), drift + rng.normal(size=(120, 8))
    scaled, reference_scaled = detrend_and_scale(run, reference, times, degree=3)
    np.testing.assert_allclose(np.polynomial.legendre.legvander(np.linspace(-1, 1, 120), 3).T @ scaled, 0, atol=1e-8)
    np.testing.assert_allclose(reference_scaled.std(axis=0), 1)
    assert match(run, reference).by_shift[0] < 0.1
    constant = detrend_and_scale(run[:, :1] * 0 + 3, reference[:, :1] * 0 + 3, times, degree=3)
    assert constant[0].shape == (120, 0)


def test_shifts_leave_the_exclusion_zone():
    times = np.arange(7, 400, 8)
    for shift in allowed_shifts(times, 15):
        assert (np.abs(np.roll(times, -shift) - times) > 15).all()
    assert len(allowed_shifts(times, 15)) == len(times) - 3
    assert not len(allowed_shifts(np.arange(20), 15))
