"""Interpolation: each volume of a recording is sampled once, at the points that the output voxels show."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from titan_neuro.data.prepare.images import read_volume
from titan_neuro.data.prepare.transforms import apply_affine, interpolate_linearly, is_inside
from titan_neuro.errors import ImageError

if TYPE_CHECKING:
    from titan_neuro.data.prepare.distortion_correction import DistortionShift

# Cubic splines preserve more fine detail than linear interpolation, and ring less than higher orders.
_SPLINE_ORDER = 3


class Resampler:
    """Sample a recording at the output voxels: head motion, distortion and all other transforms in one interpolation.

    A volume reaches to the edges of its voxels: over the outer half voxel, and farther out, the value of the edge is
    held. `count_out_of_view` finds the output voxels that head motion carries out of the field of view. Twelve voxels
    or more inside the edges the result equals fMRIPrep's, which blends towards 0 at the edges (``map_coordinates`` of
    scipy with ``mode="grid-constant"``).

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
        from scipy import ndimage

        if any(self._smoothing_voxels):
            volume = ndimage.gaussian_filter(volume, self._smoothing_voxels, mode="nearest", output=np.float32)
        # Splines of "mirror" need no padding, and reproduce the value of the edge at the edge.
        coordinates = self._coordinates_in(index)
        for axis, n_voxels in enumerate(volume.shape):
            np.clip(coordinates[:, axis], 0.0, n_voxels - 1.0, out=coordinates[:, axis])
        coefficients = ndimage.spline_filter(volume, order=_SPLINE_ORDER, mode="mirror", output=np.float32)
        return np.asarray(
            ndimage.map_coordinates(
                coefficients, coordinates.T, order=_SPLINE_ORDER, mode="mirror", prefilter=False, output=np.float32
            )
        )

    def select(self, keep: np.ndarray) -> Resampler:
        """Return a resampler of the output voxels where `keep`, bool ``(voxels,)``, is true."""
        selected = copy.copy(self)
        selected._coordinates = self._coordinates[keep]
        selected._distortion = None if self._distortion is None else self._distortion.select(keep)
        return selected

    def in_field_of_view(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return which output voxels lie inside the reference, an image of `shape`: bool ``(voxels,)``."""
        return is_inside(self._distort(self._coordinates), shape)

    def count_out_of_view(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Count where and when head motion carries output voxels out of the field of view.

        Parameters
        ----------
        shape : tuple of int
            Of the recording; the first three count.

        Returns
        -------
        n_volumes : numpy.ndarray
            int ``(voxels,)``: in how many volumes each voxel lies outside.
        n_voxels : numpy.ndarray
            int ``(volumes,)``: how many voxels lie outside each volume; empty without head motion.
        """
        n_volumes = np.zeros(len(self._coordinates), dtype=np.int64)
        if self._head_motion is None or not len(n_volumes):
            return n_volumes, np.zeros(0, dtype=np.int64)
        # Motion is affine: it moves no point of a box farther along an axis than one of the box's corners. Most voxels
        # are farther than that from the edges, and only the others are followed volume by volume.
        box = np.stack([self._coordinates.min(axis=0), self._coordinates.max(axis=0)], axis=1)
        corners = np.stack(np.meshgrid(*box), axis=-1).reshape(-1, 3)
        steps = np.concatenate([apply_affine(motion, corners) - corners for motion in self._head_motion])
        at_rest = self._distort(self._coordinates)
        is_safe = is_inside(at_rest + steps.min(axis=0), shape) & is_inside(at_rest + steps.max(axis=0), shape)
        near_edge = self.select(~is_safe)
        n_voxels = np.zeros(len(self._head_motion), dtype=np.int64)
        for index in range(len(self._head_motion)):
            is_outside = ~is_inside(near_edge._coordinates_in(index), shape)
            n_volumes[~is_safe] += is_outside
            n_voxels[index] = is_outside.sum()
        return n_volumes, n_voxels

    def _coordinates_in(self, index: int) -> np.ndarray:
        """Return the voxel coordinates of the output voxels in volume `index`: a new array ``(voxels, 3)``."""
        if self._head_motion is None:
            return self._distort(self._coordinates.copy())
        return self._distort(apply_affine(self._head_motion[index], self._coordinates))

    def _distort(self, coordinates: np.ndarray) -> np.ndarray:
        return coordinates if self._distortion is None else self._distortion.apply(coordinates)


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
    """Sample a 3D image at points, by `interpolate_linearly`.

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
        The file is not a readable 3D image, or has values that are not finite.
    """
    data, affine = read_volume(path, description)
    if not np.isfinite(data).all():
        raise ImageError(f"{path}: expected a {description} of finite values, found NaN or infinity.")
    voxels = apply_affine(np.linalg.inv(affine), points)
    return interpolate_linearly(data.astype(np.float32), voxels).astype(np.float32)
