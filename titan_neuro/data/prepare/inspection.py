"""Checks of a run while it is read: refuse band-passed or constant data, count constant features, mean and tSNR."""

from __future__ import annotations

import numpy as np

from titan_neuro.errors import ImageError

# Part of a run on which its spectrum is judged.
_INSPECTED_TIME_POINTS, _INSPECTED_FEATURES = 256, 1000
# Power in the top fifth of the frequencies, relative to the mean from 0.01 Hz on: lower means low-passed.
_MIN_HIGH_FREQUENCY_POWER = 0.01
# Scanners and their reconstructions give values above 0; what was scaled or demeaned has means on both sides of it.
_MOST_BELOW_ZERO = 0.05


class Inspection:
    """Inspects the time points of a run as they are read.

    Parameters
    ----------
    name : str
        Of the run, for messages.
    n_features : int
    repetition_time : float
        Seconds.
    """

    def __init__(self, name: str, n_features: int, repetition_time: float) -> None:
        self._name, self._repetition_time = name, repetition_time
        self._step = -(-n_features // _INSPECTED_FEATURES)
        self._sample: list[np.ndarray] = []
        self._n_sampled = 0
        self._first: np.ndarray | None = None
        self._is_constant = np.ones(n_features, dtype=bool)
        self._sum, self._n_time_points = np.zeros(n_features), 0
        # Of differences from the first time point: small fluctuations on a large baseline stay.
        self._squares = np.zeros(n_features)

    @property
    def mean(self) -> np.ndarray:
        """Mean of the time points so far, before any temporal cleaning: float64 ``(features,)``."""
        return self._sum / max(self._n_time_points, 1)

    @property
    def temporal_snr(self) -> np.ndarray | None:
        """Temporal signal-to-noise ratio so far: mean over standard deviation in time, before any temporal cleaning.

        float64 ``(features,)``, NaN for those that do not vary; drifts count as noise. None where the mean of a feature
        says nothing: more than 5 % of the means are not above 0, so that the recording was scaled or demeaned before.
        """
        mean, varies = self.mean, ~self._is_constant
        if self._first is None or not varies.any() or (mean[varies] <= 0).mean() > _MOST_BELOW_ZERO:
            return None
        variance = self._squares / self._n_time_points - (mean - self._first) ** 2
        return np.where(varies, mean / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny)), np.nan)

    @property
    def n_constant(self) -> int:
        """Number of features that have not changed so far."""
        return int(self._is_constant.sum())

    def inspect(self, block: np.ndarray) -> None:
        """Inspect the next time points, ``(time, features)``.

        Raises
        ------
        ImageError
            The first 256 time points are low-passed or band-passed.
        """
        if self._first is None:
            self._first = np.array(block[0])
        self._is_constant &= (block == self._first).all(axis=0)
        self._sum += block.sum(axis=0, dtype=np.float64)
        difference = np.empty(self._first.shape, np.result_type(self._first, np.float32))
        for time_point in block:
            # Row by row: no second block in memory.
            np.subtract(time_point, self._first, out=difference, dtype=difference.dtype)
            self._squares += np.square(difference, out=difference)
        self._n_time_points += len(block)
        if self._n_sampled < _INSPECTED_TIME_POINTS:
            self._sample.append(np.array(block[: _INSPECTED_TIME_POINTS - self._n_sampled, :: self._step]))
            self._n_sampled += len(self._sample[-1])
            if self._n_sampled == _INSPECTED_TIME_POINTS:
                self._check_spectrum()

    def finish(self) -> None:
        """Judge the run as a whole, after its last time point.

        Raises
        ------
        ImageError
            Every feature is constant, or the run is low-passed or band-passed.
        """
        if self._is_constant.all():
            raise ImageError(
                f"{self._name}: expected values that change over time, found every one of {len(self._is_constant)} "
                "voxels or parcels constant.",
                "Check that the mask lies on the brain, and that the file is a time series.",
            )
        if self._n_sampled < _INSPECTED_TIME_POINTS:
            self._check_spectrum()

    def _check_spectrum(self) -> None:
        if is_band_passed(np.concatenate(self._sample), self._repetition_time):
            raise ImageError(
                f"{self._name}: expected a time series without a low-pass filter, found one that was low-passed or "
                "band-passed: such a filter lets the past predict even white noise (r2 = 0.99).",
                "Prepare the data without a temporal filter; a high-pass is fine (--set prepare.high_pass_hz=0.008).",
            )


def is_band_passed(series: np.ndarray, repetition_time: float) -> bool:
    """Return whether a run has been low-passed, band-passed, or smoothed in time.

    The criterion is the spectrum (Welch, segments of 128 s): the mean power density in the top fifth of the frequencies
    divided by the mean density from 0.01 Hz to Nyquist, median over at most 1,000 features. Recorded voxels and parcels
    contain white noise, which only a low-pass filter removes. The threshold is 0.01.

    Measured without a filter: raw voxels 0.57 (TR 2.5 s), real parcels 0.17 (TR 1 s), AR(1) noise at phi 0.9 and 0.95
    0.085 and 0.06, hemodynamics with 5 % white noise 0.05. Measured after a filter: Gaussian of 1 TR on white noise
    0.002 (0.005 once rounded to integers at an amplitude of 10), on parcels 0.0002; causal Butterworth of order 2 at
    0.2 Hz on white noise 0.0013; a zero-phase Butterworth of order 5 below 1e-6. Mild smoothing is not recognized: a
    mean of two or three volumes; a Gaussian of 0.85 TR or less on white noise.

    Parameters
    ----------
    series : numpy.ndarray
        ``(time, features)`` of a whole run, in any units.
    repetition_time : float
        Seconds from one time point to the next.

    Returns
    -------
    bool
        False also where the criterion can't be computed: a Nyquist frequency below 0.15 Hz, fewer than 32 time points,
        no feature that varies.
    """
    from scipy.signal import welch

    nyquist_hz = 0.5 / repetition_time
    if nyquist_hz < 0.15 or len(series) < 32:
        return False
    step = -(-series.shape[1] // _INSPECTED_FEATURES)
    sample = np.asarray(series[:, ::step], dtype=np.float64)
    sample = sample[:, np.ptp(sample, axis=0) > 0]
    if not sample.size:
        return False
    segment = min(len(sample), max(32, round(128 / repetition_time)))
    frequency, density = welch(sample, fs=1 / repetition_time, nperseg=segment, detrend="linear", axis=0)
    high_frequency_density = density[frequency >= 0.8 * nyquist_hz].mean(axis=0)
    relative_power = high_frequency_density / density[frequency >= 0.01].mean(axis=0)
    return bool(np.median(relative_power) < _MIN_HIGH_FREQUENCY_POWER)
