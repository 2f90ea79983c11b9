"""Spatial transforms as ITK, ANTs and fMRIPrep write them: read from files, and applied to points in mm.

A transform takes points of its target (the fixed image) to points of its source (the moving image).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from titan_neuro.data.prepare.itk_transforms import ItkTransform, ItkTransformError, read_field_image, read_itk_file
from titan_neuro.errors import ImageError


class PointTransform(Protocol):
    """Takes points of the target image to points of the source image, in mm, RAS."""

    def map(self, x: np.ndarray) -> np.ndarray:
        """Transform points ``(n, 3)``, mm, RAS."""
        ...


class AffineTransform:
    """A matrix.

    Parameters
    ----------
    matrix : numpy.ndarray
        ``(4, 4)``, mm, RAS.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix

    def map(self, x: np.ndarray) -> np.ndarray:
        """Transform points ``(n, 3)``, mm, RAS."""
        return apply_affine(self._matrix, x)


class DisplacementField:
    """A field of displacements, interpolated by `interpolate_linearly`; points outside it stay where they are.

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
        """Transform points ``(n, 3)``, mm, RAS."""
        voxels = apply_affine(self._to_voxels, x)
        displacement = [interpolate_linearly(self._displacements[..., axis], voxels) for axis in range(3)]
        return np.asarray(x + np.stack(displacement, axis=1))


class CompositeTransform:
    """Several transforms, applied one after the other.

    Parameters
    ----------
    transforms : sequence of PointTransform
        In the order in which they are applied.
    """

    def __init__(self, transforms: Sequence[PointTransform]) -> None:
        self._transforms = transforms

    def map(self, x: np.ndarray) -> np.ndarray:
        """Transform points ``(n, 3)``, mm, RAS."""
        for transform in self._transforms:
            x = transform.map(x)
        return x


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply an affine ``(4, 4)`` to points ``(n, 3)``; returns ``(n, 3)``."""
    # The product with a transposed view takes eight times as long.
    return np.asarray(points @ np.ascontiguousarray(affine[:3, :3].T) + affine[:3, 3])


def is_inside(voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return which voxel coordinates ``(n, 3)`` lie inside an image of `shape`, edges of its voxels included: bool."""
    return np.asarray(((voxels >= -0.5) & (voxels <= np.array(shape[:3]) - 0.5)).all(axis=1))


def interpolate_linearly(image: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Interpolate an image linearly, as ITK's linear interpolator and its displacement fields do.

    An image reaches to the edges of its voxels: over the outer half voxel the value of the edge is held. Farther out it
    is 0.

    Parameters
    ----------
    image : numpy.ndarray
        ``(x, y, z)``.
    voxels : numpy.ndarray
        ``(n, 3)``, voxel coordinates.

    Returns
    -------
    numpy.ndarray
        float64 ``(n,)``.
    """
    from scipy import ndimage

    values = ndimage.map_coordinates(image, voxels.T, order=1, mode="nearest", output=np.float64)
    return np.where(is_inside(voxels, image.shape), values, 0.0)


def load_affine(path: Path) -> np.ndarray:
    """Read a linear transform from a file of ITK's, or a composite of linear transforms.

    Parameters
    ----------
    path : Path
        Text, ``.mat`` or ``.h5``.

    Returns
    -------
    numpy.ndarray
        float64 ``(4, 4)``, mm, RAS.

    Raises
    ------
    ImageError
        The file can't be read, or holds a list of transforms, or one that is not linear.
    """
    try:
        file = read_itk_file(path)
        matrices = [transform.matrix() for transform in file.transforms]
    except ItkTransformError as error:
        raise _read_error(path, error) from error
    if len(matrices) > 1 and not file.is_composite:
        raise ImageError(f"{path}: expected one linear transform, found {len(matrices)}.")
    # Of a composite, ITK applies the last transform first.
    return np.linalg.multi_dot(matrices) if len(matrices) > 1 else matrices[0]


def load_composite(path: Path) -> CompositeTransform:
    """Read a transform that consists of linear transforms and displacement fields.

    Parameters
    ----------
    path : Path
        ITK's ``.h5``, text or ``.mat``; or ``.nii``, ``.nii.gz`` for a displacement field.

    Returns
    -------
    CompositeTransform

    Raises
    ------
    ImageError
        The file can't be read, holds a list of transforms, or another kind of transform.
    """
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            return CompositeTransform([DisplacementField(*read_field_image(path))])
        file = read_itk_file(path)
        if len(file.transforms) > 1 and not file.is_composite:
            raise ItkTransformError(f"expected one composite, found a list of {len(file.transforms)} transforms")
        # Of a composite, ITK applies the last transform first.
        return CompositeTransform([_point_transform(transform) for transform in reversed(file.transforms)])
    except ItkTransformError as error:
        raise _read_error(path, error) from error


def _point_transform(transform: ItkTransform) -> PointTransform:
    return DisplacementField(*transform.field()) if transform.is_field else AffineTransform(transform.matrix())


def _read_error(path: Path, error: ItkTransformError) -> ImageError:
    return ImageError(f"{path}: not a readable ITK transform: {error}.", error.hint)
