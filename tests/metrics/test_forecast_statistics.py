import itertools

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import mean_squared_error, r2_score

from titan_neuro.metrics import ForecastAccumulator, fisher_mean, pearson, pooled_skill, skill

# More features than one block of the accumulator, so that its seams are tested.
N_TIME_POINTS, N_FEATURES = 90, 4099


@pytest.fixture(scope="module")
def targets():
    return torch.randn(N_TIME_POINTS, N_FEATURES, generator=torch.Generator().manual_seed(0)) + 0.3


@pytest.fixture(scope="module")
def forecasts(targets):
    noise = torch.randn(2, N_TIME_POINTS, N_FEATURES, generator=torch.Generator().manual_seed(1))
    return [0.5 * targets + noise[0], -0.2 * targets + 0.7 * noise[1] + 2]


def accumulate(targets, forecasts, cuts=()):
    sums = ForecastAccumulator(1, len(forecasts), targets.shape[1])
    edges = [0, *cuts, len(targets)]
    for a, b in itertools.pairwise(edges):
        sums.add(0, targets[a:b], [forecast[a:b] for forecast in forecasts])
    return sums.finish()


FEATURES = (0, 1, 4095, 4096, 4098)


def test_squared_error_agrees_with_scikit_learn(targets, forecasts):
    statistics = accumulate(targets, forecasts, cuts=(7, 64))
    for model in range(2):
        for v in FEATURES:
            expected = mean_squared_error(targets[:, v].double(), forecasts[model][:, v].double())
            assert statistics.squared_error[0, model, v] / N_TIME_POINTS == pytest.approx(expected, rel=1e-10)


def test_skill_against_mean_agrees_with_scikit_learn(targets, forecasts):
    mean = targets.double().mean(0).expand(N_TIME_POINTS, -1)
    statistics = accumulate(targets, [mean, *forecasts])
    r2 = skill(statistics.squared_error[0, 1], statistics.squared_error[0, 0])
    for v in FEATURES:
        assert r2[v] == pytest.approx(r2_score(targets[:, v].double(), forecasts[0][:, v].double()), abs=1e-10)


def test_r_over_time_agrees_with_scipy(targets, forecasts):
    statistics = accumulate(targets, forecasts, cuts=(1, 50))
    r = pearson(statistics.co_spread[0, 1], statistics.forecast_spread[0, 1], statistics.target_spread[0])
    for v in FEATURES:
        assert r[v] == pytest.approx(pearsonr(targets[:, v].double(), forecasts[1][:, v].double())[0], abs=1e-10)


def test_pattern_r_agrees_with_scipy(targets, forecasts):
    statistics = accumulate(targets, forecasts, cuts=(33,))
    expected = [np.arctanh(pearsonr(targets[t].double(), forecasts[0][t].double())[0]) for t in range(N_TIME_POINTS)]
    assert statistics.n_patterns[0, 0] == N_TIME_POINTS
    assert statistics.pattern_z[0, 0] == pytest.approx(sum(expected), rel=1e-9)


def test_sums_survive_a_large_mean():
    generator = torch.Generator().manual_seed(2)
    targets = 10_000 + 50 * torch.randn(500, 3, generator=generator)
    forecast = targets + 30 * torch.randn(500, 3, generator=generator)
    statistics = accumulate(targets, [forecast])
    r = pearson(statistics.co_spread[0, 0], statistics.forecast_spread[0, 0], statistics.target_spread[0])
    expected = [pearsonr(targets[:, v].double(), forecast[:, v].double())[0] for v in range(3)]
    np.testing.assert_allclose(r, expected, rtol=1e-7)


def test_levels_of_runs_earn_no_correlation():
    generator = torch.Generator().manual_seed(3)
    runs = []
    for level in (-5.0, 5.0):
        targets = level + torch.randn(2000, 1, generator=generator)
        forecast = level + torch.randn(2000, 1, generator=generator)
        runs.append(accumulate(targets, [forecast]))
    both = runs[0] + runs[1]
    r = pearson(both.co_spread[0, 0], both.forecast_spread[0, 0], both.target_spread[0])
    assert abs(r[0]) < 0.05
    assert both.n_time_points.tolist() == [4000]
    assert both.squared_error[0, 0, 0] == runs[0].squared_error[0, 0, 0] + runs[1].squared_error[0, 0, 0]


def test_constant_series_have_no_spread_or_correlation():
    targets = torch.randn(100, 4)
    targets[:, 2] = 0.1
    forecast = torch.full((100, 4), 0.3)
    statistics = accumulate(targets, [forecast, targets])
    assert statistics.target_spread[0, 2] == 0
    assert not statistics.forecast_spread[0, 0].any()
    assert statistics.n_patterns.tolist() == [[0, 100]]
    r = pearson(statistics.co_spread[0], statistics.forecast_spread[0], statistics.target_spread)
    assert np.isnan(r[0]).all()
    np.testing.assert_allclose(r[1, [0, 1, 3]], 1.0)


def test_a_perfect_forecast_has_a_finite_fisher_mean():
    assert fisher_mean(np.array([1.0, 1.0])) == pytest.approx(1.0)
    assert np.isnan(fisher_mean(np.array([np.nan])))


def test_fisher_mean_leaves_out_nan():
    assert fisher_mean(np.array([0.1, np.nan, 0.9])) == pytest.approx(np.tanh((np.arctanh(0.1) + np.arctanh(0.9)) / 2))


def test_one_voxel_does_not_decide_pooled_skill():
    reference = np.full(1000, 100.0)
    error = np.full(1000, 90.0)
    reference[0], error[0] = 1e-6, 1.0
    assert np.mean(skill(error, reference)) < -900
    assert pooled_skill(error, reference) == pytest.approx(0.1, abs=1e-3)


def test_skill_is_nan_without_reference_error():
    assert skill(np.array([2.0, 1.0]), np.array([2.0, 0.0]))[0] == 0
    assert np.isnan(skill(np.array([2.0, 1.0]), np.array([2.0, 0.0]))[1])
    assert np.isnan(pooled_skill(np.array([1.0]), np.array([0.0])))
