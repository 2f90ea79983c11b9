"""Images of one moment, read whole: masks, tissue maps, fieldmaps, atlases."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from titan_neuro.errors import ImageError


def read_volume(path: Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a 3D image.

    Parameters
    ----------
    path : Path
    what : str
        What it should be, for messages: ``brain mask``.

    Returns
    -------
    data : numpy.ndarray
        ``(x, y, z)``, in the image's units.
    affine : numpy.ndarray
        float64 ``(4, 4)``, voxel indices to mm, RAS.

    Raises
    ------
    ImageError
        The file can't be read, or is not 3D.
    """
    import nibabel as nib

    try:
        image = nib.load(path)
        data = np.asarray(image.dataobj)
    except unreadable() as error:
        raise ImageError(f"{path}: not a readable {what}: {error}.", "Fetch the file again.") from error
    if data.ndim != 3:
        raise ImageError(
            f"{path}: expected a 3D {what}, found {data.ndim}D of shape {data.shape}.", "Name an image of one moment."
        )
    return data, np.asarray(image.affine, dtype=np.float64)


def unreadable() -> tuple[type[Exception], ...]:
    """What reading a damaged image raises."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    return ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error
