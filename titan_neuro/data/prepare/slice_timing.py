"""Slice timing: every slice as if it had been acquired in the middle of its volume."""

from __future__ import annotations

from typing import Any

import numpy as np

from titan_neuro.data.bids import Recording
from titan_neuro.data.prepare.scratch import Scratch
from titan_neuro.data.prepare.sources import Volumes, require_finite
from titan_neuro.data.prepare.temporal import fourier_shift, slice_timing_shifts
from titan_neuro.errors import MetadataError


class ShiftedVolumes(Volumes):
    """Volumes whose slices were shifted in time; they lie in a scratch file, slice after slice."""

    def __init__(self, volumes: Volumes, axis: int, scratch: Scratch) -> None:
        self.path, self.shape, self.affine = volumes.path, volumes.shape, volumes.affine
        self.n_frames, self.header_repetition_time = volumes.n_frames, volumes.header_repetition_time
        self._axis, self._scratch = axis, scratch

    def read(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``: float32 ``(x, y, z, time)``."""
        sliced = [self.shape[self._axis], *np.delete(self.shape, self._axis)]
        frames = self._scratch.frames(start, stop).reshape(stop - start, *sliced)
        return np.moveaxis(np.moveaxis(frames, 1, self._axis + 1), 0, -1)


def shift_slices(volumes: Volumes, recording: Recording, repetition_time: float, scratch: Scratch) -> ShiftedVolumes:
    """Shift every slice to the middle of its volume.

    Uses the whole run: see `titan_neuro.data.prepare.temporal.fourier_shift`.

    Parameters
    ----------
    volumes : Volumes
    recording : Recording
        Its sidecar gives ``SliceTiming`` in seconds, and ``SliceEncodingDirection`` where it is not ``k``.
    repetition_time : float
        Seconds.
    scratch : Scratch
        Empty; holds the whole run afterwards.

    Raises
    ------
    MetadataError
        No slice timing, or one of another number of slices, or longer than the repetition time.
    """
    axis, times = _slice_times(recording, volumes.shape, repetition_time)
    for index in range(volumes.n_frames):
        volume = volumes.read(index, index + 1)[..., 0]
        require_finite(volume.reshape(1, -1), index, volumes.path, "voxel {} of the volume")
        scratch.append(np.moveaxis(volume, axis, 0).reshape(1, -1))
    size = scratch.n_columns // len(times)
    for number, shift_s in enumerate(slice_timing_shifts(times)):
        if shift_s:
            series = scratch.columns(number * size, (number + 1) * size)
            scratch.replace_columns(number * size, fourier_shift(series, shift_s, repetition_time))
    return ShiftedVolumes(volumes, axis, scratch)


def _slice_times(recording: Recording, shape: tuple[int, ...], repetition_time: float) -> tuple[int, np.ndarray]:
    direction: Any = recording.sidecar.get("SliceEncodingDirection", "k")
    if direction not in {f"{axis}{sign}" for axis in "ijk" for sign in ("", "-")}:
        raise MetadataError(f"{recording.path}: expected a SliceEncodingDirection i, j or k, found {direction!r}.")
    axis = "ijk".index(direction[0])
    given = recording.sidecar.get("SliceTiming")
    if not isinstance(given, list) or not all(isinstance(time, int | float) for time in given):
        raise MetadataError(
            f"{recording.path}: slice timing was asked for, but the sidecar gives no SliceTiming: found {given!r}.",
            "Leave prepare.slice_timing out, or write the times into the sidecar.",
        )
    if len(given) != shape[axis]:
        raise MetadataError(
            f"{recording.path}: expected {shape[axis]} entries in SliceTiming, one a slice, found {len(given)}."
        )
    times = np.array(given[::-1] if direction.endswith("-") else given, dtype=np.float64)
    if times.min() < 0 or times.max() > repetition_time:
        raise MetadataError(
            f"{recording.path}: expected slice times from 0 to the repetition time of {repetition_time} s, found "
            f"{times.min()} to {times.max()} s."
        )
    return axis, times
