"""Interpolation: each volume of a recording is sampled once, at the points that the output voxels show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from titan_neuro.data.prepare.images import read_volume
from titan_neuro.data.prepare.transforms import apply_affine

if TYPE_CHECKING:
    from titan_neuro.data.prepare.distortion_correction import DistortionShift

# Cubic splines preserve more fine detail than linear interpolation, and ring less than higher orders.
_SPLINE_ORDER = 3


class Resampler:
    """Sample a recording at the output voxels: head motion, distortion and all other transforms in one interpolation.

    Parameters
    ----------
    reference_points : numpy.ndarray
        ``(voxels, 3)``: the output voxels as points of the reference, mm.
    affine : numpy.ndarray
        ``(4, 4)`` of the recording.
    head_motion : numpy.ndarray or None
        ``(volumes, 4, 4)``: points of the reference to points of each volume, mm; None for no correction.
    distortion : DistortionShift or None
        From a fieldmap; None for no correction.
    smoothing_voxels : tuple of 3 float
        Standard deviation, along each axis of the recording and in its voxels, of the Gaussian that is applied before a
        coarser grid is sampled (:func:`antialiasing`); 0 where the output is as fine as the recording.
    """

    def __init__(
        self,
        reference_points: np.ndarray,
        affine: np.ndarray,
        *,
        head_motion: np.ndarray | None = None,
        distortion: DistortionShift | None = None,
        smoothing_voxels: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        to_voxels = np.linalg.inv(affine)
        self._coordinates = apply_affine(to_voxels, reference_points)
        self._head_motion = None if head_motion is None else to_voxels @ head_motion @ affine
        self._distortion = distortion
        self._smoothing_voxels = smoothing_voxels

    def __call__(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Sample one volume.

        Parameters
        ----------
        volume : numpy.ndarray
            ``(x, y, z)``.
        index : int
            Number of the volume, which selects its head motion.

        Returns
        -------
        numpy.ndarray
            float32 ``(voxels,)``, in the units of `volume`.
        """
        coordinates = self._coordinates
        if self._head_motion is not None:
            coordinates = apply_affine(self._head_motion[index], coordinates)
        if self._distortion is not None:
            coordinates = self._distortion.apply(coordinates)
        if any(self._smoothing_voxels):
            volume = ndimage.gaussian_filter(volume, self._smoothing_voxels, mode="nearest", output=np.float32)
        # All points lie inside the field of view up to head motion, so the boundary mode has hardly any weight;
        # "mirror" needs no padding.
        coefficients = ndimage.spline_filter(volume, order=_SPLINE_ORDER, mode="mirror", output=np.float32)
        return np.asarray(
            ndimage.map_coordinates(
                coefficients, coordinates.T, order=_SPLINE_ORDER, mode="mirror", prefilter=False, output=np.float32
            )
        )

    def in_field_of_view(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return which output voxels lie inside the reference, an image of `shape`: bool ``(voxels,)``."""
        coordinates = self._coordinates
        if self._distortion is not None:
            coordinates = self._distortion.apply(coordinates)
        return np.asarray(((coordinates >= -0.5) & (coordinates <= np.array(shape[:3]) - 0.5)).all(axis=1))


def antialiasing(affine: np.ndarray, resolution_mm: float) -> tuple[float, float, float]:
    """Return the width of the Gaussian that a coarser output grid requires.

    Its full width at half maximum ``w`` satisfies ``w^2 = output^2 - recorded^2``, with the edges of an output voxel
    and of a recorded one in mm. Up to 1.5 recorded voxels no smoothing is applied.

    Parameters
    ----------
    affine : numpy.ndarray
        ``(4, 4)`` of the recording.
    resolution_mm : float
        Edge of an output voxel.

    Returns
    -------
    tuple of 3 float
        Standard deviation along each axis of the recording, in its voxels.
    """
    sizes_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    squared_width = np.where(resolution_mm > 1.5 * sizes_mm, (resolution_mm / sizes_mm) ** 2 - 1, 0.0)
    x, y, z = np.sqrt(squared_width) / np.sqrt(8 * np.log(2))
    return float(x), float(y), float(z)


def sample_image(path: Path, points: np.ndarray, description: str) -> np.ndarray:
    """Sample a 3D image at points, by linear interpolation.

    Parameters
    ----------
    path : Path
    points : numpy.ndarray
        ``(n, 3)``, mm, RAS.
    description : str
        What the image should be, for messages: ``fieldmap``.

    Returns
    -------
    numpy.ndarray
        float32 ``(n,)``; zero outside the image.

    Raises
    ------
    ImageError
        The file is not a readable 3D image.
    """
    data, affine = read_volume(path, description)
    coordinates = apply_affine(np.linalg.inv(affine), points).T
    return np.asarray(
        ndimage.map_coordinates(data.astype(np.float32), coordinates, order=1, mode="constant", output=np.float32)
    )
