"""Slice-timing correction: every slice as if it had been acquired in the middle of its volume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.sidecar_values import is_finite_number, voxel_axis
from titan_neuro.errors import MetadataError

# `fourier_shift` holds a series, its mirror image, their spectrum and the result, in double precision.
_BYTES_PER_VALUE = 64
MEMORY_BYTES = 64 * 2**20


class SliceTimeCorrectedImage(BoldImage):
    """A 4D image whose slices were shifted in time; it is read from a scratch file, in which a slice is contiguous.

    Parameters
    ----------
    image : BoldImage
        The recorded image.
    axis : int
        The axis of its slices.
    scratch : ScratchSeries
        The corrected image, with the slice axis first.
    """

    def __init__(self, image: BoldImage, axis: int, scratch: ScratchSeries) -> None:
        self.path, self.shape, self.affine = image.path, image.shape, image.affine
        self.n_volumes, self.header_repetition_time = image.n_volumes, image.header_repetition_time
        self._axis, self._scratch = axis, scratch

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read volumes ``start <= t < stop``: float32 ``(x, y, z, time)``."""
        slice_axis_first = [self.shape[self._axis], *np.delete(self.shape, self._axis)]
        volumes = self._scratch.read(start, stop).reshape(stop - start, *slice_axis_first)
        return np.moveaxis(np.moveaxis(volumes, 1, self._axis + 1), 0, -1)


def correct_slice_timing(
    image: BoldImage,
    recording: Recording,
    repetition_time: float,
    scratch: ScratchSeries,
    n_before_steady_state: int = 0,
) -> SliceTimeCorrectedImage:
    """Shift every slice to the middle of its volume. Not causal: see :func:`fourier_shift`.

    Parameters
    ----------
    image : BoldImage
    recording : Recording
        Its sidecar gives ``SliceTiming`` in seconds, and ``SliceEncodingDirection`` where it is not ``k``.
    repetition_time : float
        Seconds.
    scratch : ScratchSeries
        Empty; holds the corrected run afterwards.
    n_before_steady_state : int
        First volumes, which are not shifted, and don't spread into those after them.

    Returns
    -------
    SliceTimeCorrectedImage

    Raises
    ------
    MetadataError
        The sidecar gives no slice timing, or one for another number of slices, or times beyond the repetition time.
    ImageError
        A value is not finite: it would spread over the whole run.
    """
    axis, times_s = _slice_times(recording.sidecar, recording.path, image.shape, repetition_time)
    for index in range(image.n_volumes):
        scratch.append(np.moveaxis(image.read_finite_volume(index), axis, 0).reshape(1, -1))
    size = scratch.n_columns // len(times_s)
    width = max(1, MEMORY_BYTES // (_BYTES_PER_VALUE * image.n_volumes))
    for number, shift_s in enumerate(slice_timing_shifts(times_s)):
        end = (number + 1) * size
        for first in range(number * size, end, width):
            series = scratch.read_columns(first, min(first + width, end))
            steady = series[n_before_steady_state:]
            series[n_before_steady_state:] = fourier_shift(steady, shift_s, repetition_time)
            scratch.replace_columns(first, series)
    return SliceTimeCorrectedImage(image, axis, scratch)


def slice_timing_shifts(slice_times_s: np.ndarray) -> np.ndarray:
    """Return the shift of each slice from its acquisition to the reference time.

    The reference is fMRIPrep's (``--slice-time-ref 0.5``): half way between the first and the last slice.

    Parameters
    ----------
    slice_times_s : numpy.ndarray
        ``(slices,)``, ``SliceTiming`` of the sidecar: seconds after the start of the volume.

    Returns
    -------
    numpy.ndarray
        float64 ``(slices,)``, seconds; the argument of `fourier_shift`.
    """
    times_s = np.asarray(slice_times_s, dtype=np.float64)
    return np.asarray((times_s.min() + times_s.max()) / 2 - times_s)


def fourier_shift(series: np.ndarray, shift_s: float, repetition_time: float) -> np.ndarray:
    """Evaluate a series `shift_s` seconds later, by shifting the phases of its Fourier transform.

    **Not causal**: every value depends on all time points, with weights that fall as 1 / distance. White noise stays
    white, though (AR(5) on it: r2 = -0.01; linear interpolation half way between time points gives r2 = 0.42). So no
    other method of slice-timing correction is offered, and the store records that it was applied.

    The series is extended by its mirror image at both ends (after the last time point come the last, the one before,
    ...), so that its end does not wrap around to its start. Exact for sums of the cosines of the discrete cosine
    transform.

    Parameters
    ----------
    series : numpy.ndarray
        ``(time, ...)``, in any units.
    shift_s : float
        Seconds; positive is later, negative earlier.
    repetition_time : float
        Seconds from one time point to the next.

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


def _slice_times(
    sidecar: Mapping[str, Any], path: Path, shape: tuple[int, ...], repetition_time: float
) -> tuple[int, np.ndarray]:
    """Return the axis of the slices, and their acquisition times in the order in which they are stored."""
    direction = sidecar.get("SliceEncodingDirection", "k")
    parsed = voxel_axis(direction)
    if parsed is None:
        raise MetadataError(
            f"{path}: expected a SliceEncodingDirection of i, j or k, with or without -, found {direction!r}.",
            "Correct the sidecar.",
        )
    axis, sign = parsed
    slice_timing = sidecar.get("SliceTiming")
    if not isinstance(slice_timing, list) or not all(map(is_finite_number, slice_timing)):
        raise MetadataError(
            f"{path}: slice-timing correction was asked for, but the sidecar gives no SliceTiming in seconds: found "
            f"{slice_timing!r}.",
            "Omit prepare.slice_timing, or write the times into the sidecar.",
        )
    if len(slice_timing) != shape[axis]:
        raise MetadataError(
            f"{path}: expected {shape[axis]} entries in SliceTiming, one a slice along {'ijk'[axis]}, found "
            f"{len(slice_timing)}.",
            "Correct the sidecar (SliceTiming, SliceEncodingDirection).",
        )
    times_s = np.array(slice_timing[::sign], dtype=np.float64)
    if times_s.min() < 0 or times_s.max() > repetition_time:
        raise MetadataError(
            f"{path}: expected slice times from 0 to the repetition time of {repetition_time} s, found "
            f"{times_s.min():g} to {times_s.max():g} s.",
            "SliceTiming is in seconds, not in milliseconds.",
        )
    return axis, times_s
