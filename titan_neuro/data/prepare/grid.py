"""The grid in MNI space that volumes are brought to."""

from __future__ import annotations

import math

import numpy as np

# TemplateFlow's MNI152NLin2009cAsym at 1 mm: where its first voxel lies, and how many there are.
_FIRST_MM = np.array([-96.0, -132.0, -78.0])
_EXTENT_MM = (193, 229, 193)
DEFAULT_RESOLUTION_MM = 2.0


def standard_grid(resolution_mm: float) -> tuple[tuple[int, int, int], np.ndarray]:
    """Grid over the field of view of MNI152NLin2009cAsym.

    At 1 and 2 mm it is TemplateFlow's (``res-01``, ``res-02``), which fMRIPrep writes to.

    Parameters
    ----------
    resolution_mm : float
        Edge of a voxel.

    Returns
    -------
    shape : tuple of int
        Voxels along x, y, z.
    affine : numpy.ndarray
        ``(4, 4)``, voxel indices to mm, RAS.
    """
    shape = tuple(math.ceil(extent / resolution_mm) for extent in _EXTENT_MM)
    affine = np.diag([resolution_mm, resolution_mm, resolution_mm, 1.0])
    affine[:3, 3] = _FIRST_MM - (resolution_mm - 1) / 2
    return (shape[0], shape[1], shape[2]), affine


def template_brain(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Brain mask of the MNI152 template on a grid: bool `shape`."""
    from nilearn.datasets import load_mni152_brain_mask

    brain = load_mni152_brain_mask(resolution=1)
    return regrid_mask(np.asarray(brain.dataobj) > 0, brain.affine, shape, affine)


def regrid_mask(
    mask: np.ndarray, mask_affine: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray
) -> np.ndarray:
    """Bring a mask to another grid of the same space: the voxels whose center it covers at least half.

    Parameters
    ----------
    mask : numpy.ndarray
        bool ``(x, y, z)``.
    mask_affine : numpy.ndarray
        ``(4, 4)``, its voxel indices to mm.
    shape, affine
        Of the grid wanted.

    Returns
    -------
    numpy.ndarray
        bool `shape`.
    """
    from scipy.ndimage import affine_transform

    between = np.linalg.inv(mask_affine) @ affine
    soft = affine_transform(mask.astype(np.float32), between[:3, :3], between[:3, 3], output_shape=shape, order=1)
    return np.asarray(soft) >= 0.5


def grid_points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World coordinates of the set voxels of a mask, in C order: float64 ``(voxels, 3)``, mm, RAS."""
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
