"""Maps that are images of voxels: their values, on their own grid or at points of another one."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from titan_neuro.errors import ImageError
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.report.reading import HINT


def load_volume(path: Path) -> nibabel.Nifti1Image:
    """Open an image of a map.

    Raises
    ------
    ImageError
        The image can't be read or is not 3D.
    """
    try:
        image = nibabel.load(path)
        image.get_fdata()
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise ImageError(f"{path}: can't be read as an image: {error}.", HINT) from error
    if image.ndim != 3:
        raise ImageError(f"{path}: expected a map of 3 dimensions, found the shape {image.shape}.")
    return image


def read_volume(path: Path) -> tuple[FloatArray, FloatArray]:
    """Read an image of a map: its values ``(x, y, z)``, NaN outside the mask, and its affine ``(4, 4)``.

    Outside the mask our images are NaN. One without any NaN has zero there.

    Raises
    ------
    ImageError
        The image can't be read or is not 3D.
    """
    image = load_volume(path)
    data = np.asarray(image.get_fdata(), np.float64)
    return np.where(_inside(data), data, np.nan), np.asarray(image.affine, np.float64)


def values_at(values: FloatArray, affine: FloatArray, points_mm: FloatArray) -> FloatArray:
    """Return the values of the voxels that points lie in.

    Parameters
    ----------
    values : numpy.ndarray
        ``(x, y, z)``.
    affine : numpy.ndarray
        ``(4, 4)``, from voxels to mm.
    points_mm : numpy.ndarray
        ``(..., 3)``.

    Returns
    -------
    numpy.ndarray
        ``(...)``; NaN outside the image.
    """
    voxels = np.rint(apply_affine(np.linalg.inv(affine), points_mm)).astype(int)
    inside = ((voxels >= 0) & (voxels < values.shape)).all(axis=-1)
    found = np.full(points_mm.shape[:-1], np.nan)
    found[inside] = values[tuple(voxels[inside].T)]
    return found


def voxel_size_mm(path: Path) -> float:
    """Longest edge of a voxel of an image, in mm.

    Parameters
    ----------
    path : Path
        A ``_statmap.nii.gz``.

    Returns
    -------
    float

    Raises
    ------
    ImageError
        The image can't be read or is not 3D.
    """
    return float(max(load_volume(path).header.get_zooms()))


def _inside(data: FloatArray) -> NDArray[np.bool_]:
    finite = np.isfinite(data)
    return np.asarray(data != 0 if finite.all() else finite)
