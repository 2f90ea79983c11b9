"""Causal scaling: volume ``t`` is z-scored with the mean and deviation of the volumes up to ``t``."""

from __future__ import annotations

import numpy as np


class CausalZScore:
    """Expanding z-score of a stream, per voxel.

    Volume ``t`` becomes ``(x_t - m_t) / s_t`` with ``m_t`` and ``s_t`` the mean and the standard deviation (divisor ``t
    + 1``) of volumes ``0 .. t``; it is 0 where ``s_t`` is 0. It follows that ``|z_t| <= sqrt(t)``: the first volumes
    are bounded without a clip. Sums run strictly in the order of time, so that a stream may be cut into blocks anywhere
    and gives the same bits.

    Parameters
    ----------
    n_features : int
        Number of voxels or parcels.
    """

    def __init__(self, n_features: int) -> None:
        self._n = 0
        self._origin = np.zeros(n_features)
        self._sums = np.zeros((2, n_features))

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Scale the next volumes of the stream.

        Parameters
        ----------
        block : numpy.ndarray
            ``(time, features)``, in the units of the scanner.

        Returns
        -------
        numpy.ndarray
            float32 ``(time, features)``, in standard deviations.
        """
        block = np.asarray(block, dtype=np.float64)
        if self._n == 0 and len(block):
            # Sums of squares about the first volume don't lose the small fluctuations on a large baseline.
            self._origin = block[0].copy()
        centered = block - self._origin
        sums = self._cumulate(0, centered), self._cumulate(1, centered**2)
        count = self._n + np.arange(1, len(block) + 1)[:, None]
        mean = sums[0] / count
        variance = sums[1] / count - mean**2
        # Rounding leaves about 1e-16 of the mean square where a voxel never changed.
        constant = variance <= 1e-12 * (sums[1] / count)
        deviation = np.sqrt(np.where(constant, 1.0, variance))
        self._n += len(block)
        return np.where(constant, 0.0, (centered - mean) / deviation).astype(np.float32)

    def _cumulate(self, which: int, values: np.ndarray) -> np.ndarray:
        carried = np.concatenate([self._sums[which][None], values])
        sums: np.ndarray = np.cumsum(carried, axis=0)[1:]
        if len(values):
            self._sums[which] = sums[-1]
        return sums
