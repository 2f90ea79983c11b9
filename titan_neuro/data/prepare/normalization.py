"""Causal normalization: each time point is z-scored with the mean and standard deviation of the time points so far."""

from __future__ import annotations

import numpy as np


class CausalZScore:
    """Expanding z-score of a stream, for each voxel or parcel.

    Time point ``t`` becomes ``(x_t - m_t) / s_t`` with ``m_t`` and ``s_t`` the mean and the standard deviation (divisor
    ``t + 1``) over ``0 .. t``; it is 0 where ``s_t`` is 0. It follows that ``|z_t| <= sqrt(t)``: the first time points
    are bounded without clipping. Sums run strictly in the order of time, so that the result does not depend, bit for
    bit, on how the stream is cut into blocks.

    Parameters
    ----------
    n_features : int
        Number of voxels or parcels.
    """

    def __init__(self, n_features: int) -> None:
        self._n = 0
        self._origin = np.zeros(n_features)
        self._sum, self._sum_of_squares = RunningSum(n_features), RunningSum(n_features)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Z-score the next time points of the stream.

        Parameters
        ----------
        block : numpy.ndarray
            ``(time, features)``, in any units.

        Returns
        -------
        numpy.ndarray
            float32 ``(time, features)``, in standard deviations.
        """
        block = np.asarray(block, dtype=np.float64)
        if self._n == 0 and len(block):
            # Sums of squares about the first time point keep small fluctuations on a large baseline.
            self._origin = block[0].copy()
        centered = block - self._origin
        sums, sums_of_squares = self._sum(centered), self._sum_of_squares(centered**2)
        count = self._n + np.arange(1, len(block) + 1)[:, None]
        mean = sums / count
        variance = sums_of_squares / count - mean**2
        # Where a voxel never changed, rounding leaves about 1e-16 of the mean square.
        constant = variance <= 1e-12 * (sums_of_squares / count)
        deviation = np.sqrt(np.where(constant, 1.0, variance))
        self._n += len(block)
        return np.where(constant, 0.0, (centered - mean) / deviation).astype(np.float32)


class RunningSum:
    """Sums of a stream up to each time point, strictly in the order of time.

    Parameters
    ----------
    n_features : int
        Number of voxels or parcels.

    Attributes
    ----------
    total : numpy.ndarray
        float64 ``(features,)``: the sum so far.
    """

    def __init__(self, n_features: int) -> None:
        self.total = np.zeros(n_features)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Add the next time points, ``(time, features)``, and return the sum up to each of them."""
        sums: np.ndarray = np.cumsum(np.concatenate([self.total[None], values]), axis=0)[1:]
        if len(values):
            self.total = sums[-1].copy()
        return sums
