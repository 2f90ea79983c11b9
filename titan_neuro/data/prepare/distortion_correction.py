"""Susceptibility distortion: the displacement along the phase-encoding axis that a fieldmap in Hz predicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import sidecar_path
from titan_neuro.data.prepare.images import read_volume
from titan_neuro.data.prepare.readout_time import ReadoutTime, total_readout_time
from titan_neuro.data.prepare.sidecar_values import voxel_axis
from titan_neuro.data.prepare.transforms import apply_affine, interpolate_linearly, is_inside
from titan_neuro.errors import ImageError, MetadataError
from titan_neuro.files import read_json

logger = logging.getLogger(__name__)
# Of the brain, outside the fieldmap: more is worth a warning.
_MAX_UNCOVERED_FRACTION = 0.01


@dataclass(frozen=True, kw_only=True)
class PhaseEncoding:
    """The phase-encoding axis of a recording, and its total readout time.

    Attributes
    ----------
    axis : int
        0, 1 or 2: the axis of the image as it is stored.
    sign : int
        -1 where ``PhaseEncodingDirection`` ends with ``-``, else 1.
    readout : ReadoutTime
        Multiplied by the field in Hz and by `sign` it gives the displacement in voxels.
    """

    axis: int
    sign: int
    readout: ReadoutTime

    @classmethod
    def from_sidecar(cls, sidecar: Mapping[str, Any], shape: Sequence[int], path: Path) -> PhaseEncoding:
        """Read ``PhaseEncodingDirection`` and the `total_readout_time` from the sidecar of the recording `path`.

        Parameters
        ----------
        sidecar : mapping
        shape : sequence of int
            Voxels of the recording along x, y, z.
        path : Path
            For messages.

        Raises
        ------
        MetadataError
            One of them is missing or not valid.
        """
        direction = sidecar.get("PhaseEncodingDirection")
        axis_and_sign = voxel_axis(direction)
        if axis_and_sign is None:
            raise MetadataError(
                f"{path}: a fieldmap belongs to this run, but its sidecar gives no PhaseEncodingDirection: expected i, "
                f"j or k, with or without -, found {direction!r}.",
                "Write it into the sidecar.",
            )
        axis, sign = axis_and_sign
        return cls(axis=axis, sign=sign, readout=total_readout_time(sidecar, shape[axis], path))


@dataclass(frozen=True, kw_only=True, eq=False)
class DistortionShift:
    """How far susceptibility distortion moved the signal of each output voxel, along one axis of the recording.

    Attributes
    ----------
    axis : int
        The phase-encoding axis.
    voxels : numpy.ndarray
        float64 ``(voxels,)``, in voxels of the recording; 0 outside the fieldmap.
    is_covered : numpy.ndarray
        bool ``(voxels,)``: whether the output voxel lies inside the fieldmap.
    """

    axis: int
    voxels: np.ndarray
    is_covered: np.ndarray

    def apply(self, coordinates: np.ndarray) -> np.ndarray:
        """Add the shift to voxel coordinates ``(voxels, 3)`` of the recording; returns a new array."""
        shifted = coordinates.copy()
        shifted[:, self.axis] += self.voxels
        return shifted

    def select(self, keep: np.ndarray) -> DistortionShift:
        """Return the shift of the output voxels where `keep`, bool ``(voxels,)``, is true."""
        return DistortionShift(axis=self.axis, voxels=self.voxels[keep], is_covered=self.is_covered[keep])


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
        The fieldmap is not a readable 3D image of finite values, or covers no output voxel.
    MetadataError
        Its sidecar gives another unit than Hz.
    """
    _check_unit(fieldmap)
    field_hz, affine = read_volume(fieldmap, "fieldmap")
    if not np.isfinite(field_hz).all():
        raise ImageError(f"{fieldmap}: expected a fieldmap of finite values, found NaN or infinity.")
    to_voxels = np.linalg.inv(fieldmap_to_reference @ affine)
    voxels = apply_affine(to_voxels, reference_points)
    is_covered = is_inside(voxels, field_hz.shape)
    if not is_covered.any():
        raise ImageError(
            f"{fieldmap}: no voxel of the brain lies inside the fieldmap.",
            "Does it belong to this run? Fetch it again.",
        )
    if is_covered.mean() < 1 - _MAX_UNCOVERED_FRACTION:
        logger.warning(
            "%s: %.0f %% of the brain lie outside the fieldmap and stay distorted.",
            fieldmap,
            100 * (1 - is_covered.mean()),
        )
    shift = phase_encoding.sign * phase_encoding.readout.seconds * interpolate_linearly(field_hz, voxels)
    return DistortionShift(axis=phase_encoding.axis, voxels=shift, is_covered=is_covered)


def _check_unit(fieldmap: Path) -> None:
    sidecar = sidecar_path(fieldmap)
    unit = read_json(sidecar).get("Units", "Hz") if sidecar.is_file() else "Hz"
    if unit != "Hz":
        raise MetadataError(
            f"{fieldmap}: expected a fieldmap in Hz, found the unit {unit!r} in {sidecar.name}.",
            'Convert it (rad/s: divide by 2 pi), and write "Units": "Hz" into its sidecar.',
        )
