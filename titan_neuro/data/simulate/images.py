"""NIfTI images written volume by volume, with bytes that depend on nothing but the values."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_neuro.files import atomic

_REPETITION_TIME_S = 1


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the values of an image lie.

    Attributes
    ----------
    mask : numpy.ndarray
        Bool, 3D: the voxels that have values; the others are zero.
    affine : numpy.ndarray
        From voxels to RAS mm, ``(4, 4)``.
    code : str
        NIfTI's name of the space: "mni" or "scanner".
    """

    mask: np.ndarray
    affine: np.ndarray
    code: str


def write_image(path: Path, grid: Grid, volumes: Iterable[np.ndarray], n_volumes: int | None = None) -> None:
    """Write values inside the mask as gzipped NIfTI, one volume in memory at a time.

    Parameters
    ----------
    path : Path
        The image to be.
    grid : Grid
        Where the values lie.
    volumes : iterable of numpy.ndarray
        Values of a volume, ``(voxels of the mask,)`` in C order; the first says the type of all.
    n_volumes : int, optional
        How many volumes come; without it the one volume makes a 3D image.
    """
    volume = None
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        # Neither a name nor a date in the gzip header: the annex key is made of these bytes.
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as file,
    ):
        for values in volumes:
            if volume is None:
                volume = np.zeros(grid.mask.shape, dtype=values.dtype)
                file.write(_header(grid, values.dtype, n_volumes))
            volume[grid.mask] = values
            file.write(volume.tobytes(order="F"))


def _header(grid: Grid, dtype: np.dtype, n_volumes: int | None) -> bytes:
    import nibabel as nib

    header = nib.Nifti1Header()
    time = () if n_volumes is None else (n_volumes,)
    header.set_data_dtype(dtype)
    header.set_data_shape((*grid.mask.shape, *time))
    header.set_zooms((*nib.affines.voxel_sizes(grid.affine), *(_REPETITION_TIME_S for _ in time)))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(grid.affine, code=grid.code)
    header.set_qform(grid.affine, code=grid.code)
    no_extension = bytes(4)
    header["vox_offset"] = len(header.binaryblock) + len(no_extension)
    return bytes(header.binaryblock) + no_extension
