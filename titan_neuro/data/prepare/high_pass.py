"""Causal high-pass filter.

There is no low-pass filter: a low-pass lets an autoregression "predict" white noise with r2 = 0.99, a high-pass does
not.
"""

from __future__ import annotations

import numpy as np

from titan_neuro.errors import ConfigError

_USUAL_HZ = 0.008


def check_cutoff(cutoff_hz: float, repetition_time: float) -> None:
    """Check that a cut-off lies between 0 and the Nyquist frequency.

    Parameters
    ----------
    cutoff_hz : float
    repetition_time : float
        Seconds.

    Raises
    ------
    ConfigError
        The cut-off lies outside.
    """
    nyquist_hz = 0.5 / repetition_time
    if not 0 < cutoff_hz < nyquist_hz:
        raise ConfigError(
            f"The high-pass filter's cut-off must be above 0 and below the Nyquist frequency: found {cutoff_hz} Hz "
            f"at a repetition time of {repetition_time} s (Nyquist {nyquist_hz:g} Hz).",
            f"Use --set prepare.high_pass_hz={min(_USUAL_HZ, nyquist_hz / 10):g}.",
        )


class CausalHighPass:
    """Second-order Butterworth high-pass of a stream, run forward only.

    The filter starts in the steady state of the first time point: the first output is 0, and the output of a constant
    series is always 0. It runs sample by sample, so that the result does not depend, bit for bit, on how the stream is
    cut into blocks.

    Parameters
    ----------
    n_features : int
        Number of voxels or parcels.
    cutoff_hz : float
        Frequency at which half of the power passes, above 0 and below Nyquist.
    repetition_time : float
        Seconds from one time point to the next.

    Raises
    ------
    ConfigError
        The cut-off is not between 0 and the Nyquist frequency.
    """

    def __init__(self, n_features: int, cutoff_hz: float, repetition_time: float) -> None:
        from scipy.signal import butter

        check_cutoff(cutoff_hz, repetition_time)
        self._sections = butter(2, cutoff_hz, btype="highpass", fs=1 / repetition_time, output="sos")
        self._state = np.zeros((len(self._sections), 2, n_features))
        self._origin: np.ndarray | None = None

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Filter the next time points of the stream.

        Parameters
        ----------
        block : numpy.ndarray
            ``(time, features)``, in any units.

        Returns
        -------
        numpy.ndarray
            float64 ``(time, features)``, in the same units.
        """
        from scipy.signal import sosfilt

        block = np.asarray(block, dtype=np.float64)
        if not len(block):
            return block
        if self._origin is None:
            # The steady state of a high-pass for a constant equals its zero state once the constant is subtracted.
            self._origin = block[0].copy()
        filtered, self._state = sosfilt(self._sections, block - self._origin, axis=0, zi=self._state)
        return np.asarray(filtered)
