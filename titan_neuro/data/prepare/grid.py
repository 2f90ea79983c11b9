"""The output grid in MNI space, and masks on it."""

from __future__ import annotations

import functools
import math

import numpy as np

from titan_neuro.data.prepare.transforms import apply_affine

# TemplateFlow's MNI152NLin2009cAsym at 1 mm: position of the first voxel, and size in voxels.
_FIRST_VOXEL_MM = np.array([-96.0, -132.0, -78.0])
EXTENT_MM = (193, 229, 193)
DEFAULT_RESOLUTION_MM = 2.0


def standard_grid(resolution_mm: float) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return a grid over the field of view of MNI152NLin2009cAsym.

    At 1 and 2 mm it is TemplateFlow's (``res-01``, ``res-02``), on which fMRIPrep's output lies.

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
    shape = tuple(math.ceil(extent / resolution_mm) for extent in EXTENT_MM)
    affine = np.diag([resolution_mm, resolution_mm, resolution_mm, 1.0])
    affine[:3, 3] = _FIRST_VOXEL_MM - (resolution_mm - 1) / 2
    return (shape[0], shape[1], shape[2]), affine


def template_brain(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Return the brain mask of the MNI152 template on a grid of `shape` and `affine`: bool ``(x, y, z)``."""
    mask, mask_affine = _template_brain_1mm()
    return regrid_mask(mask, mask_affine, shape, affine)


@functools.cache
def _template_brain_1mm() -> tuple[np.ndarray, np.ndarray]:
    from nilearn.datasets import load_mni152_brain_mask

    brain = load_mni152_brain_mask(resolution=1)
    return np.asarray(brain.dataobj) > 0, np.asarray(brain.affine)


def regrid_mask(
    mask: np.ndarray, mask_affine: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray
) -> np.ndarray:
    """Resample a mask to another grid of the same space: linear interpolation, threshold 0.5.

    Outside its image a mask is 0, so that one which fills its image ends at the edges of the outer voxels.

    Parameters
    ----------
    mask : numpy.ndarray
        bool ``(x, y, z)``.
    mask_affine : numpy.ndarray
        ``(4, 4)``, voxel indices of `mask` to mm.
    shape : tuple of 3 int
        Of the other grid.
    affine : numpy.ndarray
        ``(4, 4)`` of the other grid.

    Returns
    -------
    numpy.ndarray
        bool ``(x, y, z)``, of `shape`.
    """
    from scipy.ndimage import affine_transform

    to_mask = np.linalg.inv(mask_affine) @ affine
    coverage = affine_transform(
        mask.astype(np.float32),
        to_mask[:3, :3],
        to_mask[:3, 3],
        output_shape=shape,
        order=1,
        # "constant" would read 0 in the whole outer half voxel.
        mode="grid-constant",
    )
    return np.asarray(coverage) >= 0.5


def grid_points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the coordinates of the voxels in a mask, in C order: float64 ``(voxels in mask, 3)``, mm, RAS."""
    return apply_affine(affine, np.argwhere(mask))
