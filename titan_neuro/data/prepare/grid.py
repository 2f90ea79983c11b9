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
    """Brain mask of the MNI152 template on a grid: bool `shape`, the voxels at least half of which are brain."""
    import nibabel as nib
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_img

    brain = load_mni152_brain_mask(resolution=1)
    soft = nib.Nifti1Image(np.asarray(brain.dataobj, dtype=np.float32), brain.affine)
    resampled = resample_img(soft, target_affine=affine, target_shape=shape, interpolation="linear")
    return np.asarray(resampled.dataobj) >= 0.5


def grid_points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World coordinates of the set voxels of a mask, in C order: float64 ``(voxels, 3)``, mm, RAS."""
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
