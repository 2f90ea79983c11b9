"""Causal confound regression: at each time point, a ridge regression on the time points so far."""

from __future__ import annotations

import numpy as np

from titan_neuro.errors import MetadataError

# Features that are processed together: their sums of products stay in the CPU's cache.
_FEATURES_PER_CHUNK = 4096


class CausalRegression:
    """Expanding least squares: at time point ``t``, subtract what the confounds explain in time points ``0 .. t``.

    With ``x_s`` (confounds) and ``y_s`` (features) centered on their means over ``0 .. t``, the residual is ``r_t = y_t
    - x_t A_t^-1 sum_s x_s' y_s`` with ``A_t = sum_s x_s' x_s + n0 diag(v_t)``. The intercept is subtracted too, and not
    penalized. ``v_t`` is the variance of each confound so far and ``n0`` the number of confounds: a ridge worth ``n0``
    time points, whose weight fades as time points are added. Without it the first ``n0`` time points would be fitted
    perfectly, and their residuals would be 0. A confound counts from the time point before its first change, so that
    one that starts late (an aCompCor component during its calibration) fades in like the others. A confound that never
    changed has no weight.

    Only sums are carried from one time point to the next (Welford's, about the running means), never coefficients: at
    each time point the ridge regression of ``0 .. t`` is solved again. The result does not depend, bit for bit, on how
    the stream is cut into blocks.

    Parameters
    ----------
    n_features : int
        Number of voxels or parcels.
    n_confounds : int
        Number of confounds, without the intercept.
    """

    def __init__(self, n_features: int, n_confounds: int) -> None:
        self._n = 0
        self._n_constant = np.zeros(n_confounds)
        self._confound_mean = np.zeros(n_confounds)
        self._confound_products = np.zeros((n_confounds, n_confounds))
        self._mean = np.zeros(n_features)
        self._products = np.zeros((n_confounds, n_features))

    def __call__(self, block: np.ndarray, confounds: np.ndarray) -> np.ndarray:
        """Regress the confounds out of the next time points of the stream.

        Parameters
        ----------
        block : numpy.ndarray
            ``(time, features)``, in any units.
        confounds : numpy.ndarray
            ``(time, confounds)`` at the same time points, finite.

        Returns
        -------
        numpy.ndarray
            float64 ``(time, features)``, in the units of `block`, without the mean.

        Raises
        ------
        MetadataError
            The two have different numbers of time points.
        """
        if len(block) != len(confounds):
            raise MetadataError(
                f"Expected one row of confounds for each time point, found {len(confounds)} rows for {len(block)} time "
                "points."
            )
        steps = [self._advance(row) for row in np.asarray(confounds, dtype=np.float64)]
        residual = np.array(block, dtype=np.float64)
        for start in range(0, residual.shape[1], _FEATURES_PER_CHUNK):
            chunk = slice(start, start + _FEATURES_PER_CHUNK)
            mean, products = self._mean[chunk], self._products[:, chunk]
            for values, (n, deviation, weights) in zip(residual[:, chunk], steps, strict=True):
                difference = values - mean
                mean += difference / n
                products += deviation[:, None] * difference
                values -= mean
                values -= weights @ products
        return residual

    def _advance(self, row: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Add one row of confounds to the sums.

        Returns
        -------
        n : int
            Time points so far.
        deviation : numpy.ndarray
            ``(confounds,)``: the factor with which this time point's features enter the sums of products.
        weights : numpy.ndarray
            ``(confounds,)``: ``x_t A_t^-1``.
        """
        self._n += 1
        difference = row - self._confound_mean
        self._confound_mean += difference / self._n
        deviation = difference * ((self._n - 1) / self._n)
        self._confound_products += np.outer(deviation, difference)
        squares = np.diag(self._confound_products)
        # Relative changes below 1e-12 are rounding errors of a constant.
        varies = squares > self._n * (1e-12 * self._confound_mean) ** 2
        self._n_constant[~varies] = self._n - 1
        weights = np.zeros(len(row))
        if varies.any():
            scale = np.sqrt(squares[varies])
            correlation = self._confound_products[np.ix_(varies, varies)] / np.outer(scale, scale)
            ridge = len(row) / (self._n - self._n_constant[varies])
            centered = (row - self._confound_mean)[varies] / scale
            weights[varies] = np.linalg.solve(correlation + np.diag(ridge), centered) / scale
        return self._n, deviation, weights
