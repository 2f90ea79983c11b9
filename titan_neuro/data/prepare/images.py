"""Reading NIfTI images: 3D images at once, 4D images (BOLD runs) a few volumes at a time."""

from __future__ import annotations

import contextlib
import gzip
import logging
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.errors import ImageError

logger = logging.getLogger(__name__)
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_CHECKSUM_READ_BYTES = 2**20
# Formats of 3D images, by the ends of their names: NIfTI, and FreeSurfer's.
_VOLUME_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mgh", ".mgz")


def read_volume(path: Path, description: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a 3D image.

    Parameters
    ----------
    path : Path
    description : str
        What the image should be, for messages: ``brain mask``.

    Returns
    -------
    data : numpy.ndarray
        ``(x, y, z)``, in the image's units.
    affine : numpy.ndarray
        float64 ``(4, 4)``, voxel indices to mm, RAS.

    Raises
    ------
    ImageError
        The file can't be read; it is in another format than NIfTI or FreeSurfer's; it is not 3D, axes of length 1 at
        the end aside; its values are not real numbers.
    """
    import nibabel as nib

    image: Any
    try:
        # nibabel reads GIFTI, AFNI and others, too, each with exceptions and attributes of its own.
        image = nib.load(path) if path.name.lower().endswith(_VOLUME_SUFFIXES) else None
        if not isinstance(image, nib.Nifti1Pair | nib.MGHImage):
            found = path.name if image is None else type(image).__name__
            raise ImageError(
                f"{path}: expected a NIfTI image of voxels as {description}, found {found}.",
                "Convert it to NIfTI (AFNI: 3dAFNItoNIFTI). Surfaces (GIFTI, CIFTI) have no voxels.",
            )
        data = np.asarray(image.dataobj)
    except _read_errors() as error:
        raise ImageError(f"{path}: not a readable {description}: {error}.", "Fetch the file again.") from error
    if data.dtype.kind not in "biuf":
        raise ImageError(f"{path}: expected a {description} of real numbers, found values of type {data.dtype}.")
    data = data.reshape(_without_trailing_ones(data.shape, 3))
    if data.ndim != 3:
        raise ImageError(
            f"{path}: expected a 3D {description}, found {data.ndim}D of shape {data.shape}.", "Give a 3D image."
        )
    return data, image_affine(image, path)


def image_affine(image: Any, path: Path) -> np.ndarray:
    """Return the affine of an image, where its header has two that disagree: the one that fMRIPrep decides for.

    The rule is that of niworkflows' ``ValidateImage``, through which fMRIPrep passes every BOLD image. An sform is
    valid if its columns are as long as a voxel (``pixdim``). A valid sform is taken where its code is above 0, else a
    qform whose code is above 0, else the voxel sizes alone (centered, x to the left).

    Parameters
    ----------
    image : nibabel image
    path : Path
        Of the image, for the message.

    Returns
    -------
    numpy.ndarray
        float64 ``(4, 4)``, voxel indices to mm, RAS. A warning says where it is not nibabel's (the sform).
    """
    from nibabel import Nifti1Pair

    affine = np.asarray(image.affine, dtype=np.float64)
    if not isinstance(image, Nifti1Pair) or not int(image.header["sform_code"]):
        return affine
    sizes_mm = np.asarray(image.header.get_zooms()[:3], dtype=np.float64)
    lengths_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if np.allclose(lengths_mm, sizes_mm) and np.linalg.det(affine[:3, :3]):
        return affine
    qform = _valid_qform(image)
    decided = image.header.get_base_affine() if qform is None else qform
    if qform is None and not _is_invertible(affine):
        # There is nothing to decide for: the image is refused.
        return affine
    if not np.allclose(decided, affine, atol=1e-3):
        logger.warning(
            "%s: the sform has voxels of %s mm, pixdim of %s mm: as in fMRIPrep, %s.",
            path,
            " x ".join(f"{length:.4g}" for length in lengths_mm),
            " x ".join(f"{size:.4g}" for size in sizes_mm),
            "the qform is used" if qform is not None else "orientation and position are ignored (there is no qform)",
        )
    return np.asarray(decided, dtype=np.float64)


def _valid_qform(image: Any) -> np.ndarray | None:
    try:
        return image.get_qform(coded=True)[0]  # type: ignore[no-any-return]
    except ValueError:
        return None


def _is_invertible(affine: np.ndarray) -> bool:
    return bool(np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]))


class BoldImage:
    """A 4D NIfTI image, opened to be read once, in the order of its volumes.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    path : Path
    shape : tuple of 3 int
        Voxels along x, y, z.
    n_volumes : int
    affine : numpy.ndarray
        float64 ``(4, 4)``, voxel indices to mm, RAS.
    header_repetition_time : float or None
        Seconds, from the header; None where the header gives none.

    Raises
    ------
    ImageError
        Not a readable NIfTI image of real numbers, not 4D, or fewer than two volumes.
    """

    def __init__(self, path: Path) -> None:
        import nibabel as nib

        self.path = path
        image: Any
        try:
            image_class = type(nib.load(path))
            if not issubclass(image_class, nib.Nifti1Image):
                raise ImageError(f"{path}: expected a NIfTI image of volumes, found {image_class.__name__}.")
            # nibabel would stop at the last voxel, before the checksum of a gzip file. And it would open the file anew
            # for each block of volumes, and decompress it from its start each time.
            self._stream = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
            weakref.finalize(self, self._stream.close)
            image = image_class.from_file_map({"image": nib.FileHolder(fileobj=self._stream)})
            seconds = _SECONDS.get(image.header.get_xyzt_units()[1])
        except _read_errors() as error:
            raise ImageError(f"{path}: not a readable NIfTI image: {error}.", "Fetch the file again.") from error
        _check_volumes(path, image)
        self.affine = image_affine(image, path)
        if not _is_invertible(self.affine):
            raise ImageError(
                f"{path}: expected an invertible affine (voxel indices to mm), found {self.affine.tolist()}.",
                "Set a valid sform or qform in the image's header.",
            )
        self.shape: tuple[int, int, int] = image.shape[:3]
        self.n_volumes: int = image.shape[3]
        self._n_trailing_ones = image.ndim - 4
        # Headers are in single precision: 0.72 s is 0.7200000286 there.
        step = float(f"{image.header.get_zooms()[3]:.6g}")
        self.header_repetition_time = (step * seconds or None) if seconds else None
        self._voxels = image.dataobj

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read volumes ``start <= t < stop``.

        Returns
        -------
        numpy.ndarray
            ``(x, y, z, time)``, in the image's units.

        Raises
        ------
        ImageError
            The file is truncated or corrupt.
        """
        try:
            volumes = np.asarray(self._voxels[(..., slice(start, stop), *(0,) * self._n_trailing_ones)])
            if stop >= self.n_volumes:
                # Read to the end of the file: the gzip checksum follows the last voxel.
                while self._stream.read(_CHECKSUM_READ_BYTES):
                    pass
        except _read_errors() as error:
            raise ImageError(
                f"{self.path}: can't be read at volumes {start} to {stop - 1}: {error}.", "Fetch the file again."
            ) from error
        return volumes

    def read_finite_volume(self, index: int, inside: np.ndarray | None = None) -> np.ndarray:
        """Read volume `index` and check that its values are finite: filters would spread NaN to other voxels.

        Parameters
        ----------
        index : int
        inside : numpy.ndarray or None
            bool ``(x, y, z)``: where values must be finite; outside, NaN and infinity are read as 0. None for
            everywhere.

        Returns
        -------
        numpy.ndarray
            ``(x, y, z)``, in the image's units.

        Raises
        ------
        ImageError
            The file is corrupt, or a value is not finite.
        """
        volume: np.ndarray = self.read(index, index + 1)[..., 0]
        if inside is not None:
            volume = np.where(inside | np.isfinite(volume), volume, np.zeros((), dtype=volume.dtype))
        check_finite(
            volume.reshape(1, -1),
            index,
            self.path,
            lambda voxel: describe_voxel(int(i) for i in np.unravel_index(voxel, volume.shape)),
        )
        return volume


def check_finite(series: np.ndarray, first_time_point: int, path: Path, describe: Callable[[int], str]) -> None:
    """Check that a series is finite.

    Parameters
    ----------
    series : numpy.ndarray
        ``(time, features)``.
    first_time_point : int
        Number, within the run, of the first row.
    path : Path
        Where the series is from, for the message.
    describe : callable
        Describes a feature in words, for the message.

    Raises
    ------
    ImageError
        A value is NaN or infinite; the message says the time point and the feature.
    """
    finite = np.isfinite(series)
    if finite.all():
        return
    row, feature = np.argwhere(~finite)[0]
    raise ImageError(
        f"{path}: expected finite values, found {series[row, feature]} in volume {first_time_point + row}, "
        f"{describe(feature)}.",
        "Repair the file, or leave the run out with --exclude.",
    )


def describe_voxel(indices: Iterable[int]) -> str:
    """Return ``voxel (x, y, z)``, for messages."""
    return f"voxel ({', '.join(map(str, indices))})"


def _without_trailing_ones(shape: tuple[int, ...], n_axes: int) -> tuple[int, ...]:
    """Shape without those axes beyond `n_axes` that have length 1: many programs write (x, y, z, 1) or (..., t, 1)."""
    while len(shape) > n_axes and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _check_volumes(path: Path, image: Any) -> None:
    n_axes = len(_without_trailing_ones(image.shape, 4))
    if n_axes != 4:
        # NIfTI's fourth axis is time; the fifth holds the components of a vector at each voxel, whatever precedes it.
        raise ImageError(
            f"{path}: expected a 4D image (x, y, z, time), found {n_axes}D of shape {image.shape}.",
            "A run is a series of volumes along the fourth axis; a fifth holds vectors. Convert the image, or leave it "
            "out with --exclude.",
        )
    if image.shape[3] < 2:
        raise ImageError(
            f"{path}: expected at least 2 volumes, found {image.shape[3]}.",
            "If the scan was aborted, leave it out with --exclude.",
        )
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"{path}: expected real numbers, found values of type {image.get_data_dtype()}.")


@contextlib.contextmanager
def reading(path: Path, content: str = "") -> Iterator[None]:
    """Turn what nibabel raises for a damaged CIFTI, GIFTI or annot file into an ImageError that names the file.

    Parameters
    ----------
    path : Path
    content : str
        What the block reads, for the message.

    Raises
    ------
    ImageError
        The block failed.
    """
    from xml.parsers.expat import ExpatError

    from nibabel.cifti2.cifti2 import Cifti2HeaderError

    try:
        yield
    except (*_read_errors(), Cifti2HeaderError, ExpatError, AttributeError, IndexError, TypeError) as error:
        part = f" at {content}" if content else ""
        raise ImageError(f"{path}: can't be read{part}: {error}.", "Fetch the file again.") from error


def _read_errors() -> tuple[type[Exception], ...]:
    """Exceptions that nibabel raises for a damaged image."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    return ImageFileError, HeaderDataError, OSError, EOFError, ValueError, KeyError, zlib.error
