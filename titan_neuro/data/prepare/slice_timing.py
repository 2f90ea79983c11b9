"""Slice timing: every slice as if it had been acquired in the middle of its volume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.scratch import Scratch
from titan_neuro.data.prepare.sources import Volumes, finite_volume
from titan_neuro.data.prepare.temporal import fourier_shift, slice_timing_shifts
from titan_neuro.errors import MetadataError

# What `fourier_shift` holds of a series: it, its mirror image, their spectrum and the result, in double precision.
_BYTES_A_VALUE = 64
_MEMORY_BYTES = 64 * 2**20


class ShiftedVolumes(Volumes):
    """Volumes whose slices were shifted in time; they lie in a scratch file, slice after slice."""

    def __init__(self, volumes: Volumes, axis: int, scratch: Scratch) -> None:
        self.path, self.shape, self.affine = volumes.path, volumes.shape, volumes.affine
        self.n_time_points, self.header_repetition_time = volumes.n_time_points, volumes.header_repetition_time
        self._axis, self._scratch = axis, scratch

    def read(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``: float32 ``(x, y, z, time)``."""
        sliced = [self.shape[self._axis], *np.delete(self.shape, self._axis)]
        volumes = self._scratch.volumes(start, stop).reshape(stop - start, *sliced)
        return np.moveaxis(np.moveaxis(volumes, 1, self._axis + 1), 0, -1)


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
    ImageError
        A value is not finite: it would spread over the whole run.
    """
    axis, times = _slice_times(recording.sidecar, recording.path, volumes.shape, repetition_time)
    for index in range(volumes.n_time_points):
        scratch.append(np.moveaxis(finite_volume(volumes, index), axis, 0).reshape(1, -1))
    size = scratch.n_columns // len(times)
    width = max(1, _MEMORY_BYTES // (_BYTES_A_VALUE * volumes.n_time_points))
    for number, shift_s in enumerate(slice_timing_shifts(times)):
        end = (number + 1) * size
        for first in range(number * size, end, width):
            series = scratch.columns(first, min(first + width, end))
            scratch.replace_columns(first, fourier_shift(series, shift_s, repetition_time))
    return ShiftedVolumes(volumes, axis, scratch)


def _slice_times(
    sidecar: Mapping[str, Any], path: Path, shape: tuple[int, ...], repetition_time: float
) -> tuple[int, np.ndarray]:
    """Axis of the slices, and when each was acquired, in the order in which they are stored."""
    direction = sidecar.get("SliceEncodingDirection", "k")
    if direction not in [f"{axis}{sign}" for axis in "ijk" for sign in ("", "-")]:
        raise MetadataError(
            f"{path}: expected a SliceEncodingDirection of i, j or k, with or without -, found {direction!r}.",
            "Mend the sidecar.",
        )
    axis = "ijk".index(direction[0])
    given = sidecar.get("SliceTiming")
    if not isinstance(given, list) or not all(map(_is_number, given)):
        raise MetadataError(
            f"{path}: slice timing was asked for, but the sidecar gives no SliceTiming in seconds: found {given!r}.",
            "Leave prepare.slice_timing out, or write the times into the sidecar.",
        )
    if len(given) != shape[axis]:
        raise MetadataError(
            f"{path}: expected {shape[axis]} entries in SliceTiming, one a slice along {direction[0]}, found "
            f"{len(given)}.",
            "Mend the sidecar (SliceTiming, SliceEncodingDirection).",
        )
    times = np.array(given[::-1] if direction.endswith("-") else given, dtype=np.float64)
    if times.min() < 0 or times.max() > repetition_time:
        raise MetadataError(
            f"{path}: expected slice times from 0 to the repetition time of {repetition_time} s, found {times.min():g} "
            f"to {times.max():g} s.",
            "SliceTiming counts seconds, not milliseconds.",
        )
    return axis, times


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
