"""Work along time: what is causal, volume by volume; what is not, said so; and the test for what was done before us.

Measured on white noise, a low-pass filter lets an autoregression "predict" at r2 0.99; a high-pass filter doesn't. So
the only filter here is a high-pass, and a series that somebody low-passed before is recognized and refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from titan_neuro.errors import ConfigError, MetadataError

_CHUNK = 4096
"""Features that `CausalRegression` takes through a block together: their sums of products stay in the CPU's cache."""

_SAMPLE = 1000
"""Features on which a spectrum is judged."""


def check_cutoff(cutoff_hz: float, repetition_time: float) -> None:
    """Check that a cut-off lies between 0 and the Nyquist frequency.

    Raises
    ------
    ConfigError
        It does not.
    """
    nyquist_hz = 0.5 / repetition_time
    if not 0 < cutoff_hz < nyquist_hz:
        raise ConfigError(
            f"The high-pass filter's cut-off must be above 0 and below the Nyquist frequency: found {cutoff_hz} Hz "
            f"at a repetition time of {repetition_time} s (Nyquist {nyquist_hz:g} Hz).",
            "Give a lower cut-off; 0.008 Hz is usual.",
        )


class CausalHighPass:
    """Second-order Butterworth high-pass of a stream, run forward only.

    The filter starts in the steady state of the first volume: its first output is 0, and a constant gives 0 for ever.
    It runs sample by sample, so that a stream may be cut into blocks anywhere and gives the same bits.

    Parameters
    ----------
    n_features : int
        Number of voxels or parcels.
    cutoff_hz : float
        Frequency at which half of the power passes, above 0 and below Nyquist.
    repetition_time : float
        Seconds between two volumes.

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
        """Filter the next volumes of the stream.

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
            # The steady state of a high-pass under a constant is its zero state under that constant taken away.
            self._origin = block[0].copy()
        filtered, self._state = sosfilt(self._sections, block - self._origin, axis=0, zi=self._state)
        return np.asarray(filtered)


class CausalRegression:
    """Expanding least squares: from volume ``t`` is taken what the confounds explain in volumes ``0 .. t``.

    With ``x_s`` and ``y_s`` centered on their means over ``0 .. t``, volume ``t`` becomes
    ``r_t = y_t - x_t A_t^-1 sum_s x_s' y_s`` with ``A_t = sum_s x_s' x_s + n0 diag(v_t)``. The intercept is not
    penalised, and taken away too. ``v_t`` is the variance of each column so far and ``n0`` the number of columns: a
    ridge worth ``n0`` volumes, which fades as volumes come in. Without it the first ``n0`` volumes would be fitted
    perfectly, and gone. A column counts from the volume before its first change: one that starts late (a component that
    needs a calibration) fades in like the others. A column that never changed contributes nothing.

    Only sums are carried from volume to volume (Welford's, about the running means), never coefficients: volume ``t``
    is the ridge regression of volumes ``0 .. t`` solved anew. Each volume is one step of its own, so that a stream may
    be cut into blocks anywhere and gives the same bits.

    Parameters
    ----------
    n_features : int
        Number of voxels or parcels.
    n_confounds : int
        Number of columns of the confound model, the intercept not counted.
    """

    def __init__(self, n_features: int, n_confounds: int) -> None:
        self._n = 0
        self._quiet_time_points = np.zeros(n_confounds)
        self._confound_mean = np.zeros(n_confounds)
        self._confound_products = np.zeros((n_confounds, n_confounds))
        self._mean = np.zeros(n_features)
        self._products = np.zeros((n_confounds, n_features))

    def __call__(self, block: np.ndarray, confounds: np.ndarray) -> np.ndarray:
        """Take the confounds out of the next volumes of the stream.

        Parameters
        ----------
        block : numpy.ndarray
            ``(time, features)``, in any units.
        confounds : numpy.ndarray
            ``(time, confounds)`` of the same volumes, finite.

        Returns
        -------
        numpy.ndarray
            float64 ``(time, features)``, in the units of `block`, free of the mean.

        Raises
        ------
        MetadataError
            The two have another number of volumes.
        """
        if len(block) != len(confounds):
            raise MetadataError(
                f"Expected a row of confounds for each volume, found {len(confounds)} for {len(block)}."
            )
        steps = [self._advance(row) for row in np.asarray(confounds, dtype=np.float64)]
        residual = np.array(block, dtype=np.float64)
        for start in range(0, residual.shape[1], _CHUNK):
            chunk = slice(start, start + _CHUNK)
            mean, products = self._mean[chunk], self._products[:, chunk]
            for volume, (n, deviation, weights) in zip(residual[:, chunk], steps, strict=True):
                difference = volume - mean
                mean += difference / n
                products += deviation[:, None] * difference
                volume -= mean
                volume -= weights @ products
        return residual

    def _advance(self, row: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Take in one row of confounds; return the volumes so far, the factor of the products, and the weights."""
        self._n += 1
        difference = row - self._confound_mean
        self._confound_mean += difference / self._n
        deviation = difference * ((self._n - 1) / self._n)
        self._confound_products += np.outer(deviation, difference)
        squares = np.diag(self._confound_products)
        # What moves by less than a 1e-12th of itself is a constant with rounding errors.
        high_motion = squares > self._n * (1e-12 * self._confound_mean) ** 2
        self._quiet_time_points[~high_motion] = self._n - 1
        weights = np.zeros(len(row))
        if high_motion.any():
            scale = np.sqrt(squares[high_motion])
            standard = self._confound_products[np.ix_(high_motion, high_motion)] / np.outer(scale, scale)
            ridge = len(row) / (self._n - self._quiet_time_points[high_motion])
            centered = (row - self._confound_mean)[high_motion] / scale
            weights[high_motion] = np.linalg.solve(standard + np.diag(ridge), centered) / scale
        return self._n, deviation, weights


def slice_timing_shifts(slice_times_s: Sequence[float]) -> np.ndarray:
    """Return how much later than it was acquired each slice is wanted: at the middle of the acquired span.

    The reference is fMRIPrep's (``--slice-time-ref 0.5``): half way between the first and the last slice.

    Parameters
    ----------
    slice_times_s : sequence of float
        ``SliceTiming`` of the sidecar: seconds after the start of the volume, one a slice.

    Returns
    -------
    numpy.ndarray
        float64 ``(slices,)``, seconds; what `fourier_shift` takes.
    """
    times = np.asarray(slice_times_s, dtype=np.float64)
    return (times.min() + times.max()) / 2 - times


def fourier_shift(series: np.ndarray, shift_s: float, repetition_time: float) -> np.ndarray:
    """Give a series the values that it would have had `shift_s` seconds later, by a shift of its phases.

    **Not causal**: every value depends on all volumes, later ones with weights that fall as 1 / distance. White noise
    stays white, though (AR(5) on it: r2 -0.01; a linear half-frame shift gives 0.42), which is why slice timing is
    corrected with this or not at all, and recorded in the store.

    The series is continued by its mirror image at both ends (the last volume follows on itself, reversed), so that its
    end does not wrap around to its start. Exact for sums of the cosines of the discrete cosine transform.

    Parameters
    ----------
    series : numpy.ndarray
        ``(time, ...)``, in any units.
    shift_s : float
        Seconds; positive is later, negative earlier.
    repetition_time : float
        Seconds between two volumes.

    Returns
    -------
    numpy.ndarray
        float64, shaped like `series`.
    """
    series = np.asarray(series, dtype=np.float64)
    mirrored = np.concatenate([series, series[::-1]])
    spectrum = np.fft.rfft(mirrored, axis=0)
    phase = np.exp(2j * np.pi * np.fft.rfftfreq(len(mirrored)) * shift_s / repetition_time)
    spectrum *= phase.reshape(-1, *[1] * (series.ndim - 1))
    return np.asarray(np.fft.irfft(spectrum, len(mirrored), axis=0)[: len(series)])


def is_band_passed(block: np.ndarray, repetition_time: float) -> bool:
    """Say whether a whole run has been low-pass (or band-pass) filtered, or smoothed in time.

    Judged on the spectrum (Welch, segments of 128 s): the mean power density in the top fifth of the frequencies over
    the mean density from 0.01 Hz to Nyquist, median over at most 1,000 features. Scanner and parcel data carry a floor
    of white noise which only a low-pass filter removes. Measured: raw voxels 0.57 (TR 2.5 s), real parcels 0.17 (TR
    1 s), AR(1) noise at phi 0.9 and 0.95 0.085 and 0.06, hemodynamics with 5 % white noise 0.05. After a filter:
    Gaussian of 1 TR on white noise 0.002 (0.005 once rounded to integers at an amplitude of 10), on parcels 0.0002;
    causal Butterworth of order 2 at 0.2 Hz on white noise 0.0013; a zero-phase Butterworth of order 5 below 1e-6. The
    threshold is 0.01. Not recognized: mild smoothing (a mean of two or three volumes; a Gaussian of 0.85 TR or less on
    white noise).

    Parameters
    ----------
    block : numpy.ndarray
        ``(time, features)`` of a whole run, in any units.
    repetition_time : float
        Seconds between two volumes.

    Returns
    -------
    bool
        False also where it can't be told: a Nyquist frequency below 0.15 Hz, fewer than 32 volumes, nothing that
        varies.
    """
    from scipy.signal import welch

    nyquist_hz = 0.5 / repetition_time
    if nyquist_hz < 0.15 or len(block) < 32:
        return False
    every = -(-block.shape[1] // _SAMPLE)
    sample = np.asarray(block[:, ::every], dtype=np.float64)
    sample = sample[:, np.ptp(sample, axis=0) > 0]
    if not sample.size:
        return False
    segment = min(len(sample), max(32, round(128 / repetition_time)))
    frequency, density = welch(sample, fs=1 / repetition_time, nperseg=segment, detrend="linear", axis=0)
    top = density[frequency >= 0.8 * nyquist_hz].mean(axis=0)
    share = top / density[frequency >= 0.01].mean(axis=0)
    return bool(np.median(share) < 0.01)
