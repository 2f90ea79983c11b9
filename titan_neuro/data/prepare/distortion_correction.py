"""Susceptibility distortion: the displacement along the phase-encoding axis that a fieldmap in Hz predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.prepare.resampling import sample_image
from titan_neuro.data.prepare.sidecar_values import is_finite_number, voxel_axis
from titan_neuro.data.prepare.transforms import apply_affine
from titan_neuro.errors import MetadataError


@dataclass(frozen=True, kw_only=True)
class PhaseEncoding:
    """The phase-encoding axis of a recording, and its total readout time.

    Attributes
    ----------
    axis : int
        0, 1 or 2: the axis of the image as it is stored.
    readout_s : float
        Total readout time in seconds. Multiplied by the field in Hz it gives the displacement in voxels. It is negative
        where ``PhaseEncodingDirection`` ends with ``-``.
    """

    axis: int
    readout_s: float

    @classmethod
    def from_sidecar(cls, sidecar: Mapping[str, Any], path: Path) -> PhaseEncoding:
        """Read ``PhaseEncodingDirection`` and ``TotalReadoutTime`` from the sidecar of the recording `path`.

        Raises
        ------
        MetadataError
            One of them is missing or not valid.
        """
        direction, readout = sidecar.get("PhaseEncodingDirection"), sidecar.get("TotalReadoutTime")
        axis_and_sign = voxel_axis(direction)
        if axis_and_sign is None:
            raise MetadataError(
                f"{path}: a fieldmap belongs to this run, but its sidecar gives no PhaseEncodingDirection: expected i, "
                f"j or k, with or without -, found {direction!r}.",
                "Write it into the sidecar.",
            )
        if readout is None or not is_finite_number(readout) or not 0 < readout < 1:
            raise MetadataError(
                f"{path}: a fieldmap belongs to this run, but its sidecar gives no TotalReadoutTime: expected seconds, "
                f"above 0 and below 1, found {readout!r}.",
                "Write it into the sidecar.",
            )
        axis, sign = axis_and_sign
        return cls(axis=axis, readout_s=sign * readout)


@dataclass(frozen=True, kw_only=True, eq=False)
class DistortionShift:
    """How far susceptibility distortion moved the signal of each output voxel, along one axis of the recording.

    Attributes
    ----------
    axis : int
        The phase-encoding axis.
    voxels : numpy.ndarray
        float64 ``(voxels,)``, in voxels of the recording.
    """

    axis: int
    voxels: np.ndarray

    def apply(self, coordinates: np.ndarray) -> np.ndarray:
        """Add the shift to voxel coordinates ``(voxels, 3)`` of the recording; returns a new array."""
        shifted = coordinates.copy()
        shifted[:, self.axis] += self.voxels
        return shifted

    def select(self, keep: np.ndarray) -> DistortionShift:
        """Return the shift of the output voxels where `keep`, bool ``(voxels,)``, is true."""
        return replace(self, voxels=self.voxels[keep])


def distortion_shift(
    fieldmap: Path, fieldmap_to_reference: np.ndarray, phase_encoding: PhaseEncoding, reference_points: np.ndarray
) -> DistortionShift:
    """Compute from a fieldmap the shift of each output voxel, ``readout time x field``; `resampling` applies it.

    Parameters
    ----------
    fieldmap : Path
        Image of the field in Hz.
    fieldmap_to_reference : numpy.ndarray
        ``(4, 4)``: points of the fieldmap to points of the reference, mm.
    phase_encoding : PhaseEncoding
        Of the recording.
    reference_points : numpy.ndarray
        ``(voxels, 3)``: the output voxels as points of the undistorted reference, mm.

    Returns
    -------
    DistortionShift

    Raises
    ------
    ImageError
        The fieldmap is not a readable 3D image.
    """
    fieldmap_points = apply_affine(np.linalg.inv(fieldmap_to_reference), reference_points)
    field_hz = sample_image(fieldmap, fieldmap_points, "fieldmap").astype(np.float64)
    return DistortionShift(axis=phase_encoding.axis, voxels=phase_encoding.readout_s * field_hz)
