import numpy as np
import pytest
from scipy.stats import bootstrap, norm
from scipy.stats import t as student_t

from titan_neuro.metrics import bootstrap_interval, leave_one_out_interval


@pytest.mark.parametrize("n", [3, 6, 15])
def test_interval_equals_scipy_at_the_expanded_level(n):
    values = np.random.default_rng(n).normal(size=n)
    tail = norm.cdf(-np.sqrt(n / (n - 1)) * student_t.ppf(0.975, n - 1))
    expected = bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * tail, n_resamples=4000, method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert bootstrap_interval(values, n_resamples=4000, seed=5) == (expected.low, expected.high)


def test_interval_is_about_as_long_as_students_t():
    values = np.random.default_rng(1).normal(size=20)
    low, high = bootstrap_interval(values, n_resamples=20_000, seed=0)
    half = student_t.ppf(0.975, 19) * values.std(ddof=1) / np.sqrt(20)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)


def test_interval_has_nominal_coverage_of_eight_subjects():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        low, high = bootstrap_interval(rng.normal(size=8), n_resamples=2000, seed=seed)
        covered += low <= 0 <= high
    # 0.948 in a larger simulation; the plain percentile interval covers 0.90. 400 draws: standard error 0.011.
    assert 0.92 <= covered / 400 <= 0.98


def test_no_interval_with_fewer_than_three_subjects():
    assert np.isnan(bootstrap_interval(np.array([0.1, 0.2]), n_resamples=1000, seed=0)).all()


def test_equal_subjects_have_an_interval_of_length_zero():
    assert bootstrap_interval(np.full(5, 0.25), n_resamples=1000, seed=0) == (0.25, 0.25)


def test_leave_one_out_intervals_are_wider():
    values = np.random.default_rng(0).normal(size=9)
    narrow, wide = (
        np.array(interval(values, n_resamples=1000, seed=1)) - values.mean()
        for interval in (bootstrap_interval, leave_one_out_interval)
    )
    np.testing.assert_allclose(wide, np.sqrt(2) * narrow)
    assert np.isnan(leave_one_out_interval(values[:2], n_resamples=1000, seed=1)).all()
