import numpy as np
import pytest
from scipy.signal import lfilter
from statsmodels.stats.diagnostic import acorr_ljungbox

from titan_neuro.metrics import ljung_box


@pytest.mark.parametrize("phi", [0.0, 0.3, -0.6])
@pytest.mark.parametrize("n_lags", [1, 10])
def test_ljung_box_agrees_with_statsmodels(phi, n_lags):
    residuals = lfilter([1], [1, -phi], np.random.default_rng(0).normal(size=(200, 5)), axis=0) + 3
    statistic, p_value = ljung_box(residuals, n_lags)
    for series in range(5):
        expected = acorr_ljungbox(residuals[:, series], lags=[n_lags])
        assert statistic[series] == pytest.approx(expected["lb_stat"].item(), rel=1e-9)
        assert p_value[series] == pytest.approx(expected["lb_pvalue"].item(), rel=1e-9)


def test_white_noise_is_rejected_at_nominal_rate():
    _, p_value = ljung_box(np.random.default_rng(1).normal(size=(400, 4000)), 10)
    assert (p_value < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_constant_series_is_nan():
    statistic, p_value = ljung_box(np.ones((50, 1)), 5)
    assert np.isnan(statistic).all() and np.isnan(p_value).all()
