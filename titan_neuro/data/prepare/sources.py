"""Frames in order of time, from whatever a run was found as: images, resampled images, tables, parcels of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from titan_neuro.data.bids import Recording
from titan_neuro.data.prepare.spatial import Resampler
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


class Source(Protocol):
    """Frames of a run, read once in order of time.

    Attributes
    ----------
    space : Space
    n_frames : int
    """

    space: Space
    n_frames: int

    def block(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start <= t < stop``, ``(time, features)``."""
        ...


class Volumes:
    """A 4D image, opened for one pass.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ImageError
        No readable image, not 4D, or fewer than two volumes.
    """

    def __init__(self, path: Path) -> None:
        import nibabel as nib

        try:
            # The file stays open: a gzip stream that is opened anew for each block is read from its start each time.
            image = nib.load(path, keep_file_open=True)
        except (nib.filebasedimages.ImageFileError, OSError, EOFError) as error:
            raise ImageError(f"{path}: not a readable NIfTI image: {error}.", "Fetch the file again.") from error
        if image.ndim != 4:
            raise ImageError(
                f"{path}: expected a 4D image (x, y, z, time), found {image.ndim}D of shape {image.shape}.",
                "A run is a series of volumes; leave single images out with --bids-filter-file.",
            )
        if image.shape[3] < 2:
            raise ImageError(f"{path}: expected at least 2 volumes, found {image.shape[3]}.")
        self.path = path
        self.shape: tuple[int, int, int] = image.shape[:3]
        self.n_frames: int = image.shape[3]
        self.affine = np.asarray(image.affine, dtype=np.float64)
        unit = _SECONDS.get(image.header.get_xyzt_units()[1])
        self.header_repetition_time = (float(image.header.get_zooms()[3]) * unit or None) if unit else None
        self._data = image.dataobj

    def read(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``: ``(x, y, z, time)``, in the image's units.

        Raises
        ------
        ImageError
            The file is truncated or corrupt.
        """
        try:
            return np.asarray(self._data[..., start:stop])
        except (OSError, EOFError, ValueError) as error:
            raise ImageError(
                f"{self.path}: can't be read at frames {start} to {stop - 1}: {error}.", "Fetch the file again."
            ) from error


class MaskedVolumes:
    """The voxels inside a mask, as they were recorded (or preprocessed)."""

    def __init__(self, volumes: Volumes, space: Space) -> None:
        self._volumes, self.space, self.n_frames = volumes, space, volumes.n_frames

    def block(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start <= t < stop``, ``(time, voxels)``."""
        block = self._volumes.read(start, stop)[self.space.mask].T
        require_finite(block, start, self._volumes.path, "voxel {} of the mask")
        return block


class ResampledVolumes:
    """The voxels of another grid, each read from the recorded volumes by one interpolation."""

    def __init__(self, volumes: Volumes, space: Space, resampler: Resampler) -> None:
        self._volumes, self._resampler = volumes, resampler
        self.space, self.n_frames = space, volumes.n_frames

    def block(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start <= t < stop``, float32 ``(time, voxels)``."""
        frames = np.empty((stop - start, self.space.n_features), dtype=np.float32)
        for index in range(start, stop):
            volume = self._volumes.read(index, index + 1)[..., 0]
            # One value that is not finite would spread over the whole volume.
            require_finite(volume.reshape(1, -1), index, self._volumes.path, "voxel {} of the volume")
            frames[index - start] = self._resampler(volume, index)
        return frames


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
        except (ValueError, pd.errors.ParserError) as error:
            raise ImageError(
                f"{recording.path}: expected a table of numbers, a column for each parcel under its name: {error}."
            ) from error
        if len(self._values) < 2:
            raise ImageError(f"{recording.path}: expected at least 2 frames (rows), found {len(self._values)}.")
        atlas = recording.entities.get("segmentation", recording.entities.get("atlas", "unknown"))
        self.space = Space(kind="parcels", name=atlas, parcels=tuple(map(str, table.columns)))
        self.n_frames = len(self._values)

    def block(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start <= t < stop``, ``(time, parcels)``."""
        block = self._values[start:stop]
        require_finite(block, start, self._path, "parcel {}", self.space.parcels)
        return block


class Stored:
    """Frames that another pass has put on disk (anything with ``frames(start, stop)``)."""

    def __init__(self, frames: Any, space: Space, n_frames: int) -> None:
        self._frames, self.space, self.n_frames = frames, space, n_frames

    def block(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start <= t < stop``, float32 ``(time, features)``."""
        return np.asarray(self._frames.frames(start, stop))


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

        values = np.array(list(names))
        member = labels[None, :] == values[:, None]
        # Rows add up to 1: a product with the frames is the mean over each parcel.
        self._means = sparse.csr_matrix(member / member.sum(axis=1, keepdims=True))
        self._source, self.n_frames = source, source.n_frames
        self.space = Space(kind="parcels", name=atlas, parcels=tuple(names.values()))

    def block(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start <= t < stop``, ``(time, parcels)``."""
        return np.asarray((self._means @ self._source.block(start, stop).T).T)


def require_finite(
    block: np.ndarray, first_frame: int, path: Path, place: str, names: tuple[str, ...] | None = None
) -> None:
    """Refuse frames ``(time, features)`` with NaN or infinity, naming the first.

    Raises
    ------
    ImageError
    """
    finite = np.isfinite(block)
    if finite.all():
        return
    frame, feature = np.argwhere(~finite)[0]
    where = place.format(names[feature] if names else feature)
    raise ImageError(
        f"{path}: expected finite values, found {block[frame, feature]} in frame {first_frame + frame}, {where}.",
        "Repair the file or leave the run out.",
    )
