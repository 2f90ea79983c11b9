"""The timescale of a recording is that of the process that made it, whatever is left out of it."""

import numpy as np
import pytest
import torch

from titan_neuro.probing.tools.intrinsic_timescale import autocorrelation, intrinsic_timescale
from titan_neuro.runs import InMemoryRun


def autoregressive_run(coefficients, n_time_points, seed=0):
    rng = np.random.default_rng(seed)
    series = rng.normal(size=(n_time_points, len(coefficients)))
    for t in range(1, n_time_points):
        series[t] += np.asarray(coefficients) * series[t - 1]
    return InMemoryRun(torch.from_numpy(series.astype(np.float32)), np.arange(n_time_points) >= 20, "sub-01_task-x")


def test_autocorrelation_agrees_with_a_loop():
    run = autoregressive_run([0.5, 0.9], 150)
    run.high_motion[[40, 70, 71]] = True
    usable, series = run.scored & ~run.high_motion, run.series.double().numpy()
    centered = np.where(usable[:, None], series - series[usable].mean(axis=0), np.nan)
    products = [centered * centered, *(centered[lag:] * centered[:-lag] for lag in range(1, 75))]
    means = np.stack([np.nanmean(each, axis=0) for each in products])
    found = autocorrelation(run, 100)
    np.testing.assert_allclose(found[:75], means / means[0], atol=1e-6)
    assert np.isnan(found[75:]).all()


def test_timescale_is_that_of_the_process():
    coefficients = np.array([0.0, 0.5, 0.8, 0.9])
    found = intrinsic_timescale(autocorrelation(autoregressive_run(coefficients, 20_000), 60), 1.5)
    np.testing.assert_allclose(found, 1.5 / (1 - coefficients), rtol=0.1)


def test_constant_features_have_no_timescale():
    run = autoregressive_run([0.5, 0.5], 100)
    run.series[:, 0] = 3.0
    found = intrinsic_timescale(autocorrelation(run, 10), 1.0)
    assert np.isnan(found[0]) and found[1] > 1


@pytest.mark.parametrize(("series", "expected"), [([1, 0.5, -0.1, 0.4], 3.0), ([1, 0.5, np.nan, 0.4], 3.0)])
def test_what_follows_the_first_zero_does_not_count(series, expected):
    assert intrinsic_timescale(np.array(series)[:, None], 2.0) == pytest.approx(expected)
