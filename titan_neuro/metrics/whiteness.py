"""Test whether the errors of a forecast are white: autocorrelated errors could have been forecast."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from titan_neuro.metrics.measures import FloatArray


def robust_portmanteau(residuals: FloatArray, n_lags: int) -> tuple[FloatArray, FloatArray]:
    """Test many series for autocorrelation at once, whatever their variance does (Dalla, Giraitis and Phillips 2022).

    ``Q = sum_k (sum_t e_t e_{t-k})^2 / sum_t (e_t e_{t-k})^2`` over the lags ``k = 1 .. n_lags``, ``e`` about its mean;
    on white noise it is chi-squared with `n_lags` degrees of freedom. Each lag is measured against the spread of its
    own products. The test of Ljung and Box (1978) measures it against the variance of the whole series instead: where
    the variance changes in the course of a run, as by head motion or fatigue, it calls white noise autocorrelated. Both
    agree where the variance is constant. No degree of freedom is subtracted for fitted parameters, since forecasts are
    fitted on other runs.

    Parameters
    ----------
    residuals : numpy.ndarray
        ``(time, series)``, longer than `n_lags`. With fewer than 100 time points up to 6 % of white series have a p
        below 0.05.
    n_lags : int
        Number of lags.

    Returns
    -------
    statistic, p_value : numpy.ndarray
        ``(series,)``; NaN where a series is constant.
    """
    centered = residuals - residuals.mean(axis=0)
    statistic = np.zeros(residuals.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        for lag in range(1, n_lags + 1):
            products = centered[lag:] * centered[:-lag]
            statistic += products.sum(axis=0) ** 2 / (products**2).sum(axis=0)
    # Rounding of the mean leaves a trace of noise in a constant series.
    statistic[np.ptp(residuals, axis=0) == 0] = np.nan
    return statistic, chi2.sf(statistic, n_lags)
