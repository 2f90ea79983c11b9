"""Test whether the errors of a forecast are white: autocorrelated errors could have been forecast."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from titan_neuro.metrics.measures import FloatArray


def ljung_box(residuals: FloatArray, n_lags: int) -> tuple[FloatArray, FloatArray]:
    """Test many series for autocorrelation at once (Ljung and Box 1978).

    ``Q = n (n + 2) sum_k r_k^2 / (n - k)`` over the lags ``k = 1 .. n_lags``, ``r_k`` being the autocorrelation; on
    white noise it is chi-squared with `n_lags` degrees of freedom. No degree of freedom is subtracted for fitted
    parameters, since forecasts are fitted on other runs.

    Parameters
    ----------
    residuals : numpy.ndarray
        ``(time, series)``, longer than `n_lags`.
    n_lags : int
        Number of lags.

    Returns
    -------
    statistic, p_value : numpy.ndarray
        ``(series,)``; NaN where a series is constant.
    """
    n = len(residuals)
    centered = residuals - residuals.mean(axis=0)
    power = (centered**2).sum(axis=0)
    total = np.zeros(residuals.shape[1])
    for lag in range(1, n_lags + 1):
        total += (centered[lag:] * centered[:-lag]).sum(axis=0) ** 2 / (n - lag)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(power > 0, n * (n + 2) * total / power**2, np.nan)
    return statistic, chi2.sf(statistic, n_lags)
