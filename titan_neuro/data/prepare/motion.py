"""Head motion: rigid transforms of a run, the six motion parameters (as in MCFLIRT), framewise displacement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from titan_neuro.data.prepare.itk_transforms import ItkTransformError, read_itk_file
from titan_neuro.errors import MetadataError

if TYPE_CHECKING:
    import pandas as pd

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
"""Names of the six parameters in a confound table: translations in mm, rotations in rad."""


def read_head_motion(path: Path) -> np.ndarray:
    """Read the rigid transforms of a run, one a volume, from an ITK text file (fMRIPrep's ``desc-hmc_xfm.txt``).

    Parameters
    ----------
    path : Path

    Returns
    -------
    numpy.ndarray
        float64 ``(volumes, 4, 4)``, RAS, mm: points of the reference to points of each volume.

    Raises
    ------
    MetadataError
        The file does not exist, is not an ITK transform, or has values that are not finite.
    """
    try:
        file = read_itk_file(path)
        if file.is_composite:
            raise ItkTransformError("found a composite")
        return np.stack([transform.matrix() for transform in file.transforms])
    except ItkTransformError as error:
        raise MetadataError(
            f"{path}: expected head-motion transforms as ITK text, one a volume: {error}.", error.hint
        ) from error


def center_of_mass(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the center of mass of a reference volume: the center of rotation in MCFLIRT and fMRIPrep.

    Parameters
    ----------
    volume : numpy.ndarray
        ``(x, y, z)``, the reference of head-motion correction.
    affine : numpy.ndarray
        ``(4, 4)``, voxels to RAS, mm.

    Returns
    -------
    numpy.ndarray
        float64 ``(3,)``, RAS, mm.
    """
    from scipy.ndimage import center_of_mass

    return np.asarray(affine[:3, :3] @ center_of_mass(np.asarray(volume)) + affine[:3, 3], dtype=np.float64)


def motion_parameters(head_motion: np.ndarray, affine: np.ndarray, center_mm: np.ndarray) -> pd.DataFrame:
    """Return the six motion parameters of each volume, as defined by MCFLIRT (and so by fMRIPrep).

    They describe the rigid transform that brings volume ``t`` back to the reference, in FSL's axes: along the voxel
    axes of the image, in mm, with the first axis flipped where the affine has a positive determinant. Rotations are
    about `center_mm`, with the matrix ``Rx Ry Rz`` of left-handed angles; translations are those of `center_mm`
    (``rotmat2euler`` and ``decompose_aff`` of FSL's miscmaths). fMRIPrep from 23.2 on derives them from its transforms
    with the transposed matrix, which is equal to first order in the angles: the difference is about angle^2 x center,
    0.01 mm at 0.6 degrees.

    Parameters
    ----------
    head_motion : numpy.ndarray
        ``(volumes, 4, 4)`` from `read_head_motion`.
    affine : numpy.ndarray
        ``(4, 4)`` of the images, voxels to RAS, mm.
    center_mm : numpy.ndarray
        ``(3,)``, RAS: the `center_of_mass` of the reference.

    Returns
    -------
    pandas.DataFrame
        One row a volume; columns `MOTION`.
    """
    import pandas as pd
    from scipy.spatial.transform import Rotation

    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.det(axes) > 0:
        axes = axes * [-1, 1, 1]
    to_axes = np.linalg.inv(axes)
    to_reference = np.linalg.inv(head_motion)
    translation = to_reference[:, :3, :3] @ center_mm + to_reference[:, :3, 3] - center_mm
    # A left-handed angle is a negative right-handed one.
    angles = -Rotation.from_matrix(to_axes @ to_reference[:, :3, :3] @ axes).as_euler("XYZ")
    return pd.DataFrame(np.hstack([translation @ to_axes.T, angles]), columns=list(MOTION))


def framewise_displacement(motion: pd.DataFrame, radius_mm: float = 50.0) -> np.ndarray:
    """Return the framewise displacement (FD; Power et al., NeuroImage 59, 2012).

    It is the sum of the absolute changes of the six motion parameters from one volume to the next, with rotations as
    arcs on the surface of a sphere.

    Parameters
    ----------
    motion : pandas.DataFrame
        Columns `MOTION`, one row a volume.
    radius_mm : float
        Radius of the sphere.

    Returns
    -------
    numpy.ndarray
        float64 ``(volumes,)``, mm; NaN at volume 0.
    """
    steps = np.abs(np.diff(motion[list(MOTION)].to_numpy(dtype=np.float64), axis=0))
    steps[:, 3:] *= radius_mm
    return np.concatenate([[np.nan], steps.sum(axis=1)])
