"""Volumes in order of time, from whatever a run was found as: images, resampled images, tables, parcels of images."""

from __future__ import annotations

import gzip
import math
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.images import unreadable
from titan_neuro.data.prepare.spatial import Resampler
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_REST_BYTES = 2**20


class Source(Protocol):
    """Volumes of a run, read once in order of time.

    Attributes
    ----------
    space : Space
    n_time_points : int
    width : int
        Values that are held for each volume while it is read: all voxels of an image, also where few are kept.
    """

    space: Space
    n_time_points: int
    width: int

    def block(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``, ``(time, features)``."""
        ...


class Volumes:
    """A 4D image, opened for one pass.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ImageError
        No readable image of real numbers, not 4D, or fewer than two volumes.
    """

    def __init__(self, path: Path) -> None:
        import nibabel as nib

        try:
            kind = type(nib.load(path))
            if not issubclass(kind, nib.Nifti1Image):
                raise ImageError(f"{path}: expected a NIfTI image of volumes, found {kind.__name__}.")
            # Opened here, for what nibabel opens stops at the last voxel, before the checksum of a gzip file; and kept
            # open, for a gzip stream that is opened anew for each block is read from its start each time.
            stream = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
            weakref.finalize(self, stream.close)
            image = kind.from_file_map({"image": nib.FileHolder(fileobj=stream)})
            unit = _SECONDS.get(image.header.get_xyzt_units()[1])
        except (*unreadable(), KeyError) as error:
            raise ImageError(f"{path}: not a readable NIfTI image: {error}.", "Fetch the file again.") from error
        _check_header(path, image)
        self.path = path
        self.shape: tuple[int, int, int] = image.shape[:3]
        self.n_time_points: int = image.shape[3]
        self.affine = np.asarray(image.affine, dtype=np.float64)
        # Headers hold single precision: 0.72 s is 0.7200000286 there.
        step = float(f"{image.header.get_zooms()[3]:.6g}")
        self.header_repetition_time = (step * unit or None) if unit else None
        self._stream, self._data = stream, image.dataobj

    def read(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``: ``(x, y, z, time)``, in the image's units.

        Raises
        ------
        ImageError
            The file is truncated or corrupt.
        """
        try:
            volumes = np.asarray(self._data[..., start:stop])
            if stop >= self.n_time_points:
                # Behind the last voxel lies the checksum.
                while self._stream.read(_REST_BYTES):
                    pass
        except unreadable() as error:
            raise ImageError(
                f"{self.path}: can't be read at volumes {start} to {stop - 1}: {error}.", "Fetch the file again."
            ) from error
        return volumes


def _check_header(path: Path, image: Any) -> None:
    if image.ndim != 4:
        raise ImageError(
            f"{path}: expected a 4D image (x, y, z, time), found {image.ndim}D of shape {image.shape}.",
            "A run is a series of volumes; leave single images out with --bids-filter-file.",
        )
    if image.shape[3] < 2:
        raise ImageError(
            f"{path}: expected at least 2 volumes, found {image.shape[3]}.",
            "Was the scan broken off? Leave it out with --bids-filter-file.",
        )
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"{path}: expected real numbers, found values of type {image.get_data_dtype()}.")
    if not np.isfinite(image.affine).all() or not np.linalg.det(image.affine[:3, :3]):
        raise ImageError(
            f"{path}: expected an affine that says where the voxels lie, found {image.affine.tolist()}.",
            "Mend the header.",
        )


class MaskedVolumes:
    """The voxels inside a mask, as they were recorded (or preprocessed)."""

    def __init__(self, volumes: Volumes, space: Space) -> None:
        self._volumes, self.space, self.n_time_points = volumes, space, volumes.n_time_points
        self.width = math.prod(volumes.shape)

    def block(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``, ``(time, voxels)``."""
        block = self._volumes.read(start, stop)[self.space.mask].T
        require_finite(block, start, self._volumes.path, lambda voxel: _voxel(np.argwhere(self.space.mask)[voxel]))
        return block


class ResampledVolumes:
    """The voxels of another grid, each read from the recorded volumes by one interpolation."""

    def __init__(self, volumes: Volumes, space: Space, resampler: Resampler) -> None:
        self._volumes, self._resampler = volumes, resampler
        self.space, self.n_time_points, self.width = space, volumes.n_time_points, space.n_features

    def block(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``, float32 ``(time, voxels)``."""
        volumes = np.empty((stop - start, self.space.n_features), dtype=np.float32)
        for index in range(start, stop):
            volumes[index - start] = self._resampler(finite_volume(self._volumes, index), index)
        return volumes


class Table:
    """Time series of parcels.

    Parameters
    ----------
    recording : Recording

    Raises
    ------
    ImageError
        No table of numbers, or fewer than two rows.
    """

    def __init__(self, recording: Recording) -> None:
        self._path = recording.path
        try:
            table = pd.read_csv(recording.path, sep="\t", na_values="n/a")
            self._values = table.to_numpy(dtype=np.float64)
        except (OSError, ValueError) as error:
            raise ImageError(
                f"{recording.path}: expected a table of numbers, a column for each parcel under its name: {error}.",
                "Mend the table.",
            ) from error
        if any(re.fullmatch(r"-?\d+\.\d*(e-?\d+)?", name) for name in table.columns):
            raise ImageError(
                f"{recording.path}: expected the names of parcels in its first line, found numbers: "
                f"{', '.join(table.columns[:2])}, ...",
                "Write a header.",
            )
        if len(self._values) < 2:
            raise ImageError(f"{recording.path}: expected at least 2 volumes (rows), found {len(self._values)}.")
        atlas = recording.entities.get("segmentation", recording.entities.get("atlas", "unknown"))
        self.space = Space(kind="parcels", name=atlas, parcels=tuple(map(str, table.columns)))
        self.n_time_points, self.width = self._values.shape

    def block(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``, ``(time, parcels)``."""
        block = self._values[start:stop]
        require_finite(block, start, self._path, lambda parcel: f"parcel {self.space.parcels[parcel]}")
        return block


class Stored:
    """Volumes that another pass has put on disk (anything with ``volumes(start, stop)``)."""

    def __init__(self, volumes: Any, space: Space, n_time_points: int) -> None:
        self._volumes, self.space, self.n_time_points, self.width = volumes, space, n_time_points, space.n_features

    def block(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``, float32 ``(time, features)``."""
        return np.asarray(self._volumes.volumes(start, stop))


class Parcels:
    """Means over the parcels of an atlas, of a source of volumes.

    Parameters
    ----------
    source : Source
        Of kind ``volume``.
    labels : numpy.ndarray
        ``(voxels,)``: the label of each voxel of the source; 0 belongs to none.
    names : mapping of int to str
        Name of each label; those without a voxel must have been refused before.
    atlas : str
    """

    def __init__(self, source: Source, labels: np.ndarray, names: Mapping[int, str], atlas: str) -> None:
        from scipy import sparse

        voxels = np.flatnonzero(np.isin(labels, list(names)))
        position = {label: number for number, label in enumerate(names)}
        parcels = np.array([position[label] for label in labels[voxels]])
        # Rows add up to 1: a product with the volumes is the mean over each parcel.
        shares = 1 / np.bincount(parcels)[parcels]
        self._means = sparse.csr_array((shares, (parcels, voxels)), shape=(len(names), len(labels)))
        self._source, self.n_time_points, self.width = source, source.n_time_points, source.width
        self.space = Space(kind="parcels", name=atlas, parcels=tuple(names.values()))

    def block(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``, ``(time, parcels)``."""
        return np.asarray((self._means @ self._source.block(start, stop).T).T)


def finite_volume(volumes: Volumes, index: int) -> np.ndarray:
    """Read one volume, ``(x, y, z)``, of which one value that is not finite would spread over the rest.

    Raises
    ------
    ImageError
        There is one.
    """
    volume = volumes.read(index, index + 1)[..., 0]
    require_finite(
        volume.reshape(1, -1), index, volumes.path, lambda voxel: _voxel(np.unravel_index(voxel, volume.shape))
    )
    return volume


def require_finite(block: np.ndarray, first_time_point: int, path: Path, place: Callable[[int], str]) -> None:
    """Refuse volumes ``(time, features)`` with NaN or infinity; the message has the first volume, and `place` in it.

    Raises
    ------
    ImageError
    """
    finite = np.isfinite(block)
    if finite.all():
        return
    volume, feature = np.argwhere(~finite)[0]
    raise ImageError(
        f"{path}: expected finite values, found {block[volume, feature]} in volume {first_time_point + volume}, "
        f"{place(feature)}.",
        "Repair the file or leave the run out.",
    )


def _voxel(indices: Sequence[int]) -> str:
    return f"voxel ({', '.join(map(str, indices))})"
