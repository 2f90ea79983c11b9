"""The time series of a run, block after block, whatever it is read from: images, resampled images, parcels, tables."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.images import BoldImage, check_finite, describe_voxel
from titan_neuro.data.prepare.resampling import Resampler
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError


class TimeSeries(Protocol):
    """The time series of a run, which is read once, in the order of time.

    Attributes
    ----------
    space : Space
    n_time_points : int
    n_values_read : int
        Values that are in memory for each time point while it is read: all voxels of an image, although few may lie
        inside the mask.
    """

    space: Space
    n_time_points: int
    n_values_read: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: ``(time, features)``."""
        ...


class MaskedVolumes:
    """The voxels of an image inside a mask, on the image's own grid.

    Parameters
    ----------
    image : BoldImage
    space : Space
        Of kind ``volume``, on the grid of the image.
    """

    def __init__(self, image: BoldImage, space: Space) -> None:
        if space.mask is None:
            raise ImageError(f"{image.path}: expected a mask on its grid, found parcels.")
        self._image, self._mask = image, space.mask
        self.space, self.n_time_points = space, image.n_volumes
        self.n_values_read = math.prod(image.shape)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read volumes ``start <= t < stop``: ``(time, voxels in mask)``."""
        series: np.ndarray = self._image.read(start, stop)[self._mask].T
        check_finite(series, start, self._image.path, lambda voxel: describe_voxel(np.argwhere(self._mask)[voxel]))
        return series


class ResampledVolumes:
    """The voxels of the output grid, each volume interpolated once from the recorded image.

    Parameters
    ----------
    image : BoldImage
    space : Space
        Of kind ``volume``.
    resampler : Resampler
        Samples the voxels of `space`.
    recorded_mask : numpy.ndarray or None
        bool ``(x, y, z)``, on the grid of the image: only outside may values be not finite; they are read as 0.
    """

    def __init__(
        self, image: BoldImage, space: Space, resampler: Resampler, recorded_mask: np.ndarray | None = None
    ) -> None:
        self._image, self._resampler, self._recorded_mask = image, resampler, recorded_mask
        self.space, self.n_time_points, self.n_values_read = space, image.n_volumes, space.n_features

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read and resample volumes ``start <= t < stop``: float32 ``(time, voxels in mask)``."""
        series = np.empty((stop - start, self.space.n_features), dtype=np.float32)
        for index in range(start, stop):
            series[index - start] = self._resampler(self._image.read_finite_volume(index, self._recorded_mask), index)
        return series


class ParcelTable:
    """Parcel time series from a table (``*_timeseries.tsv``).

    Parameters
    ----------
    recording : Recording

    Raises
    ------
    ImageError
        Not a table of numbers with a header, or fewer than two rows.
    """

    def __init__(self, recording: Recording) -> None:
        self._path = recording.path
        try:
            table = pd.read_csv(recording.path, sep="\t", na_values="n/a")
            self._series = table.to_numpy(dtype=np.float64)
        except (OSError, ValueError) as error:
            raise ImageError(
                f"{recording.path}: expected a table of numbers, one column a parcel, with a header: {error}.",
                "Correct the table.",
            ) from error
        if any(re.fullmatch(r"-?\d+\.\d*(e-?\d+)?", name) for name in table.columns):
            raise ImageError(
                f"{recording.path}: expected the names of parcels in its first line, found numbers: "
                f"{', '.join(table.columns[:2])}, ...",
                "Write a header.",
            )
        if len(self._series) < 2:
            raise ImageError(f"{recording.path}: expected at least 2 time points (rows), found {len(self._series)}.")
        atlas = recording.entities.get("segmentation", recording.entities.get("atlas", "unknown"))
        self.space = Space(kind="parcels", name=atlas, parcels=tuple(map(str, table.columns)))
        self.n_time_points, self.n_values_read = self._series.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: float64 ``(time, parcels)``."""
        series: np.ndarray = self._series[start:stop]
        check_finite(series, start, self._path, lambda parcel: f"parcel {self.space.parcels[parcel]}")
        return series


class StoredSeries:
    """A time series that an earlier pass wrote to disk.

    Parameters
    ----------
    scratch : ScratchSeries
        Written completely.
    space : Space
        Its columns.
    """

    def __init__(self, scratch: ScratchSeries, space: Space) -> None:
        self._scratch, self.space = scratch, space
        self.n_time_points, self.n_values_read = scratch.n_time_points, space.n_features

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: float32 ``(time, features)``."""
        return self._scratch.read(start, stop)


class ParcelMeans:
    """The mean over each parcel of an atlas.

    Parameters
    ----------
    series : TimeSeries
        Of kind ``volume``.
    labels : numpy.ndarray
        int ``(voxels in mask,)``: the label of each voxel of `series`; 0 for voxels outside all parcels.
    names : mapping of int to str
        Name of each label, which has at least one voxel.
    atlas : str
        Name of the atlas.
    """

    def __init__(self, series: TimeSeries, labels: np.ndarray, names: Mapping[int, str], atlas: str) -> None:
        from scipy import sparse

        voxels = np.flatnonzero(np.isin(labels, list(names)))
        position = {label: number for number, label in enumerate(names)}
        parcels = np.array([position[label] for label in labels[voxels]])
        # Each row sums to 1, so that the product with a volume is the mean over the parcel.
        weights = 1 / np.bincount(parcels)[parcels]
        self._averaging = sparse.csr_array((weights, (parcels, voxels)), shape=(len(names), len(labels)))
        self._series, self.n_time_points, self.n_values_read = series, series.n_time_points, series.n_values_read
        self.space = Space(kind="parcels", name=atlas, parcels=tuple(names.values()))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: ``(time, parcels)``."""
        return np.asarray((self._averaging @ self._series.read(start, stop).T).T)
