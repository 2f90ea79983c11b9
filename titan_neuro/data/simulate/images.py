"""NIfTI images, written volume by volume; equal values give equal bytes."""

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
    """The voxels of an image that have values.

    Attributes
    ----------
    mask : numpy.ndarray
        Bool ``(x, y, z)``: the voxels that have values; the others are zero.
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
        Ends in ``.nii.gz``.
    grid : Grid
    volumes : iterable of numpy.ndarray
        Values of each volume, ``(voxels of the mask,)`` in C order; all have the data type of the first.
    n_volumes : int, optional
        Number of volumes; None writes the single volume as a 3D image.

    Raises
    ------
    OutputError
        `path` can't be written.
    """
    volume = None
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        # No name and no date in the gzip header: the annex key is the checksum of these bytes.
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
    from nibabel.affines import voxel_sizes

    header = nib.Nifti1Header()
    time = () if n_volumes is None else (n_volumes,)
    header.set_data_dtype(dtype)
    header.set_data_shape((*grid.mask.shape, *time))
    header.set_zooms((*voxel_sizes(grid.affine), *(_REPETITION_TIME_S for _ in time)))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(grid.affine, code=grid.code)
    header.set_qform(grid.affine, code=grid.code)
    no_extension = bytes(4)
    header["vox_offset"] = len(header.binaryblock) + len(no_extension)
    return bytes(header.binaryblock) + no_extension
