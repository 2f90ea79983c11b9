"""Spatial transforms as ITK, ANTs and fMRIPrep write them: read from files, and applied to points in mm.

A transform takes points of its target (the fixed image) to points of its source (the moving image).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import ndimage

from titan_neuro.errors import ImageError

# Exceptions of the readers for a damaged transform, besides nitransforms' own.
_READ_ERRORS = (OSError, KeyError, ValueError, IndexError, TypeError, zlib.error)


class PointTransform(Protocol):
    """Takes points of the target image to points of the source image, in mm, RAS."""

    def map(self, x: np.ndarray) -> np.ndarray:
        """Transform points ``(n, 3)``, mm, RAS."""
        ...


class DisplacementField:
    """A field of displacements, interpolated linearly between its voxels and zero outside, as in ITK.

    `nitransforms` interpolates such fields with cubic splines and holds several copies in double precision: a template
    warp of 1 mm would take a gigabyte.

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
        voxels = apply_affine(self._to_voxels, x).T
        displacement = [
            ndimage.map_coordinates(self._displacements[..., axis], voxels, order=1, mode="constant", output=np.float64)
            for axis in range(3)
        ]
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
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


def load_affine(path: Path) -> np.ndarray:
    """Read one linear transform in ITK's text format.

    Parameters
    ----------
    path : Path

    Returns
    -------
    numpy.ndarray
        float64 ``(4, 4)``, mm, RAS.

    Raises
    ------
    ImageError
        The file can't be read, or holds another number of transforms.
    """
    from nitransforms.io.base import TransformIOError
    from nitransforms.linear import LinearTransformsMapping

    try:
        matrices = np.atleast_3d(LinearTransformsMapping.from_filename(path, fmt="itk").matrix)
    except (*_READ_ERRORS, TransformIOError) as error:
        raise _read_error(path, error) from error
    if matrices.shape != (1, 4, 4):
        raise ImageError(f"{path}: expected one linear transform, found an array of shape {matrices.shape}.")
    return np.asarray(matrices[0], dtype=np.float64)


def load_composite(path: Path) -> CompositeTransform:
    """Read an ITK composite transform in HDF5, which consists of affine transforms and displacement fields.

    Parameters
    ----------
    path : Path

    Returns
    -------
    CompositeTransform

    Raises
    ------
    ImageError
        The file can't be read, or holds another kind of transform.
    """
    from nitransforms.io.base import TransformIOError
    from nitransforms.io.itk import ITKCompositeH5, ITKLinearTransform
    from nitransforms.linear import Affine

    transforms: list[PointTransform] = []
    try:
        for part in ITKCompositeH5.from_filename(path):
            # ITK applies the last transform of a composite first.
            if isinstance(part, ITKLinearTransform):
                transforms.insert(0, Affine(part.to_ras()))
            else:
                transforms.insert(0, DisplacementField(np.asarray(part.dataobj, dtype=np.float32), part.affine))
    except (*_READ_ERRORS, TransformIOError) as error:
        raise _read_error(path, error) from error
    return CompositeTransform(transforms)


def _read_error(path: Path, error: Exception) -> ImageError:
    return ImageError(
        f"{path}: not a readable ITK transform: {error or type(error).__name__}.", "Fetch the file again."
    )
