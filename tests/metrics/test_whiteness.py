import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom
from statsmodels.api import OLS
from statsmodels.stats.diagnostic import acorr_ljungbox

from titan_neuro.metrics import robust_portmanteau

N_LAGS, N_TIME_POINTS = 10, 400
TIME = np.linspace(0, 1, N_TIME_POINTS)
SPREADS = {
    "constant": np.ones(N_TIME_POINTS),
    "grows from 1 to 3": 1 + 2 * TIME,
    "falls from 10 to 1": 10 - 9 * TIME,
    "steps from 1 to 3": np.where(TIME < 0.5, 1, 3),
    "bursts": np.where(np.sin(40 * TIME) > 0.7, 4, 1),
}


def noise(phi, n_series, seed=0):
    return lfilter([1], [1, -phi], np.random.default_rng(seed).normal(size=(N_TIME_POINTS, n_series)), axis=0)


@pytest.mark.parametrize("phi", [0.0, 0.3, -0.6])
@pytest.mark.parametrize("n_lags", [1, 4])
def test_statistic_sums_score_statistics_of_regressions(phi, n_lags):
    residuals = noise(phi, 3) * SPREADS["grows from 1 to 3"][:, None] + 3
    statistic, _ = robust_portmanteau(residuals, n_lags)
    for series, values in enumerate((residuals - residuals.mean(axis=0)).T):
        # The robust score statistic of a lag is n R^2 of a regression of 1 on the products.
        products = [values[lag:] * values[:-lag] for lag in range(1, n_lags + 1)]
        expected = [OLS(np.ones(len(each)), each).fit() for each in products]
        assert statistic[series] == pytest.approx(sum(fit.nobs * fit.rsquared for fit in expected), rel=1e-9)


@pytest.mark.parametrize("name", SPREADS)
def test_white_noise_is_rejected_at_nominal_rate(name):
    n_series = 4000
    _, p_value = robust_portmanteau(noise(0, n_series, seed=1) * SPREADS[name][:, None], N_LAGS)
    low, high = binom.interval(0.99, n_series, 0.05)
    assert low <= (p_value < 0.05).sum() <= high


@pytest.mark.parametrize("phi", [0.0, 0.1, 0.2])
def test_constant_variance_agrees_with_ljung_box(phi):
    residuals = noise(phi, 200, seed=2)
    statistic, p_value = robust_portmanteau(residuals, N_LAGS)
    expected = [acorr_ljungbox(series, lags=[N_LAGS]) for series in residuals.T]
    ljung_box = np.array([each["lb_stat"].item() for each in expected])
    assert np.corrcoef(statistic, ljung_box)[0, 1] > 0.95
    rejected = np.mean([each["lb_pvalue"].item() < 0.05 for each in expected])
    assert (p_value < 0.05).mean() == pytest.approx(rejected, abs=0.05)


@pytest.mark.parametrize("name", SPREADS)
def test_autocorrelation_is_found_whatever_the_variance(name):
    _, p_value = robust_portmanteau(noise(0.4, 300, seed=3) * SPREADS[name][:, None], N_LAGS)
    assert (p_value < 0.05).mean() > 0.8


def test_constant_series_is_nan():
    statistic, p_value = robust_portmanteau(np.full((50, 1), 0.1), 5)
    assert np.isnan(statistic).all() and np.isnan(p_value).all()
