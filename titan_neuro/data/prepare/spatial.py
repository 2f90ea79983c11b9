"""Head motion, susceptibility distortion, coregistration and template warp as one step: where to look for each voxel.

A voxel of the output at the point ``x`` (mm) of the template shows what was recorded, in volume ``t``, at the voxel ::

    p = coregistration(standard(x))               point of the undistorted reference (boldref)
    v = A^-1 H_t p + s * readout * B0(p) * e      voxel of volume t

with ``A`` the affine of the recording, ``H_t`` its head motion, ``B0`` the field in Hz, `readout` the total readout
time in seconds, ``e`` the voxel axis of phase encoding and ``s`` its sign, as BIDS defines ``PhaseEncodingDirection``.
All transforms take points of the target to points of the moving image, as ITK writes them. The chain is evaluated once
per run, and each volume is interpolated once.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from titan_neuro.data.prepare.images import read_volume
from titan_neuro.errors import ImageError, MetadataError

# Cubic splines keep more of the fine detail than lines do, and ring less than higher orders.
_SPLINE_ORDER = 3
# What readers of a damaged transform raise, beside nitransforms' own error.
_UNREADABLE = (OSError, KeyError, ValueError, IndexError, TypeError, zlib.error)


class PointMap(Protocol):
    """Takes points of a target to points of the image that moves: mm, RAS."""

    def map(self, x: np.ndarray) -> np.ndarray:
        """Move points ``(n, 3)``."""
        ...


class DisplacementField:
    """A field of displacements, read between its voxels as ITK does it: linearly, and zero outside.

    `nitransforms` reads such fields with cubic splines and holds several copies of them in double precision; a
    template warp of 1 mm would take a gigabyte.

    Parameters
    ----------
    displacements : numpy.ndarray
        ``(x, y, z, 3)`` in mm, RAS.
    affine : numpy.ndarray
        ``(4, 4)``, voxel indices of the field to mm.
    """

    def __init__(self, displacements: np.ndarray, affine: np.ndarray) -> None:
        self._displacements = displacements
        self._to_voxels = np.linalg.inv(affine)

    def map(self, x: np.ndarray) -> np.ndarray:
        """Move points ``(n, 3)``, mm, RAS."""
        voxels = apply_affine(self._to_voxels, x).T
        moved = [
            ndimage.map_coordinates(self._displacements[..., axis], voxels, order=1, mode="constant", output=np.float64)
            for axis in range(3)
        ]
        return np.asarray(x + np.stack(moved, axis=1))


class Composite:
    """Transforms one after the other.

    Parameters
    ----------
    links : sequence of PointMap
        The first is applied first.
    """

    def __init__(self, links: Sequence[PointMap]) -> None:
        self._links = links

    def map(self, x: np.ndarray) -> np.ndarray:
        """Move points ``(n, 3)``, mm, RAS."""
        for link in self._links:
            x = link.map(x)
        return x


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply an affine ``(4, 4)`` to points ``(n, 3)``."""
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


def load_affine(path: Path) -> np.ndarray:
    """Read one linear transform in ITK's text format: float64 ``(4, 4)``, mm, RAS.

    Raises
    ------
    ImageError
        The file can't be read, or holds another number of transforms.
    """
    from nitransforms.io.base import TransformIOError
    from nitransforms.linear import LinearTransformsMapping

    try:
        matrices = np.atleast_3d(LinearTransformsMapping.from_filename(path, fmt="itk").matrix)
    except (*_UNREADABLE, TransformIOError) as error:
        raise _unreadable(path, error) from error
    if matrices.shape != (1, 4, 4):
        raise ImageError(f"{path}: expected one linear transform, found an array of shape {matrices.shape}.")
    return np.asarray(matrices[0], dtype=np.float64)


def load_composite(path: Path) -> Composite:
    """Read an ITK composite transform in HDF5: affine transforms and displacement fields.

    Raises
    ------
    ImageError
        The file can't be read, or holds another kind of transform.
    """
    from nitransforms.io.base import TransformIOError
    from nitransforms.io.itk import ITKCompositeH5, ITKLinearTransform
    from nitransforms.linear import Affine

    links: list[PointMap] = []
    try:
        for part in ITKCompositeH5.from_filename(path):
            # ITK applies the last of a composite first.
            if isinstance(part, ITKLinearTransform):
                links.insert(0, Affine(part.to_ras()))
            else:
                links.insert(0, DisplacementField(np.asarray(part.dataobj, dtype=np.float32), part.affine))
    except (*_UNREADABLE, TransformIOError) as error:
        raise _unreadable(path, error) from error
    return Composite(links)


def _unreadable(path: Path, error: Exception) -> ImageError:
    return ImageError(
        f"{path}: not a readable ITK transform: {error or type(error).__name__}.", "Fetch the file again."
    )


@dataclass(frozen=True, kw_only=True)
class PhaseEncoding:
    """How a field off resonance moves what is recorded: `readout_s` voxels for each Hz along `axis`, with its sign.

    Attributes
    ----------
    axis : int
        0, 1 or 2: the axis of the image as it is stored.
    readout_s : float
        Total readout time in seconds; negative where `PhaseEncodingDirection` ends with ``-``.
    """

    axis: int
    readout_s: float

    @classmethod
    def from_sidecar(cls, sidecar: Mapping[str, Any], path: Path) -> PhaseEncoding:
        """Read ``PhaseEncodingDirection`` and ``TotalReadoutTime``.

        Raises
        ------
        MetadataError
            One of them is missing or means nothing.
        """
        direction, readout = sidecar.get("PhaseEncodingDirection"), sidecar.get("TotalReadoutTime")
        if str(direction) not in {f"{axis}{sign}" for axis in "ijk" for sign in ("", "-")}:
            raise MetadataError(
                f"{path}: a fieldmap belongs to this run, but its sidecar gives no PhaseEncodingDirection: expected i, "
                f"j or k, with or without -, found {direction!r}.",
                "Write it into the sidecar.",
            )
        if isinstance(readout, bool) or not isinstance(readout, int | float) or not 0 < readout < 1:
            raise MetadataError(
                f"{path}: a fieldmap belongs to this run, but its sidecar gives no TotalReadoutTime: expected seconds, "
                f"above 0 and below 1, found {readout!r}.",
                "Write it into the sidecar.",
            )
        return cls(axis="ijk".index(direction[0]), readout_s=-readout if direction.endswith("-") else readout)


class Resampler:
    """Read the output's voxels from recorded volumes, each by one interpolation.

    Parameters
    ----------
    reference_points : numpy.ndarray
        ``(voxels, 3)``: the output's voxels as points of the reference, mm.
    affine : numpy.ndarray
        ``(4, 4)`` of the recording.
    head_motion : numpy.ndarray or None
        ``(volumes, 4, 4)``: points of the reference to points of each volume, mm; None where there was none.
    shift_voxels : numpy.ndarray or None
        ``(voxels,)``: displacement along `shift_axis`, in voxels of the recording.
    shift_axis : int
    smoothing_voxels : sequence of 3 float
        Standard deviation of a Gaussian along each axis of the recording, before it is read on a coarser grid; 0 where
        the output is as fine as the recording.
    """

    def __init__(
        self,
        reference_points: np.ndarray,
        affine: np.ndarray,
        *,
        head_motion: np.ndarray | None = None,
        shift_voxels: np.ndarray | None = None,
        shift_axis: int = 0,
        smoothing_voxels: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        to_voxels = np.linalg.inv(affine)
        self._voxels = apply_affine(to_voxels, reference_points)
        self._motion = None if head_motion is None else to_voxels @ head_motion @ affine
        self._shift_voxels, self._shift_axis = shift_voxels, shift_axis
        self._smoothing_voxels = smoothing_voxels

    def __call__(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Interpolate volume number `index`, ``(x, y, z)``: float32 ``(voxels,)``."""
        voxels = self._voxels if self._motion is None else apply_affine(self._motion[index], self._voxels)
        if self._shift_voxels is not None:
            voxels = voxels.copy() if voxels is self._voxels else voxels
            voxels[:, self._shift_axis] += self._shift_voxels
        if any(self._smoothing_voxels):
            volume = ndimage.gaussian_filter(volume, self._smoothing_voxels, mode="nearest", output=np.float32)
        # Sampled at the edge at most, so how the image goes on beyond it has no weight; mirroring needs no padding.
        coefficients = ndimage.spline_filter(volume, order=_SPLINE_ORDER, mode="mirror", output=np.float32)
        return np.asarray(
            ndimage.map_coordinates(
                coefficients, voxels.T, order=_SPLINE_ORDER, mode="mirror", prefilter=False, output=np.float32
            )
        )

    def inside(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which voxels of the output lie in the field of view of the reference: bool ``(voxels,)``."""
        voxels = self._voxels.copy()
        if self._shift_voxels is not None:
            voxels[:, self._shift_axis] += self._shift_voxels
        return np.asarray(((voxels >= -0.5) & (voxels <= np.array(shape[:3]) - 0.5)).all(axis=1))


def antialiasing(affine: np.ndarray, resolution_mm: float) -> tuple[float, float, float]:
    """Return the Gaussian that a coarser grid calls for, along each axis of the recording, in its voxels.

    Its width at half height is what is missing, in squares, from a recorded voxel to one of the output; zero below one
    and a half recorded voxels.
    """
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    missing = np.where(resolution_mm > 1.5 * sizes, (resolution_mm / sizes) ** 2 - 1, 0.0)
    x, y, z = np.sqrt(missing) / np.sqrt(8 * np.log(2))
    return float(x), float(y), float(z)


def sample_image(path: Path, points: np.ndarray, what: str) -> np.ndarray:
    """Read a 3D image at points ``(n, 3)``, mm, linearly: float32 ``(n,)``, zero outside.

    Raises
    ------
    ImageError
        The file is no readable 3D image.
    """
    data, affine = read_volume(path, what)
    voxels = apply_affine(np.linalg.inv(affine), points).T
    return np.asarray(
        ndimage.map_coordinates(data.astype(np.float32), voxels, order=1, mode="constant", output=np.float32)
    )
