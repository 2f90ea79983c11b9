"""The time series of a run, block after block, whatever it is read from: images, resampled images, parcels, tables."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas import Atlas, match_table
from titan_neuro.data.prepare.images import BoldImage, check_finite, describe_voxel
from titan_neuro.data.prepare.resampling import Resampler
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.surfaces import read_parcel_series
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.errors import ImageError, list_names
from titan_neuro.tables import numbers, read_tsv

logger = logging.getLogger(__name__)
# Steps from row to row after which a column that only rises is no recording: equal ones (within 1 %), and any.
_MIN_EVEN_STEPS, _MIN_STEPS = 4, 20


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
    """Parcel time series from a table (``*_timeseries.tsv``) or from CIFTI (``*_timeseries.ptseries.nii``).

    Parameters
    ----------
    recording : Recording
    atlas : Path, optional
        Labels that say where the parcels lie, and what they are called (:func:`match_table`). CIFTI says so itself.

    Attributes
    ----------
    header_repetition_time : float or None
        Seconds, from the header of a CIFTI file.

    Raises
    ------
    InputNotFoundError
        The file can't be read.
    ImageError
        Not a table of numbers with a header, fewer than two time points, or no parcel with values.
    MetadataError
        The parcels are not those of the atlas.
    """

    def __init__(self, recording: Recording, atlas: Path | None = None) -> None:
        self._path = recording.path
        self.header_repetition_time: float | None = None
        layout: ParcelLayout | None = None
        if recording.path.name.endswith(".ptseries.nii"):
            series, layout, self.header_repetition_time = read_parcel_series(recording.path)
            columns = dict(zip(layout.names, series.T, strict=True))
        else:
            columns = _read_table(recording.path)
        if atlas is not None:
            names, layout = match_table(atlas, list(columns))
            columns = dict(zip(names, columns.values(), strict=True))
        if not columns or len(next(iter(columns.values()))) < 2:
            raise ImageError(f"{recording.path}: expected at least 2 time points of at least one parcel.")
        # XCP-D writes n/a for a parcel that the field of view covers too little.
        lost = tuple(name for name, values in columns.items() if np.isnan(values).all())
        if len(lost) == len(columns):
            raise ImageError(f"{recording.path}: expected parcels, found no column with values.")
        warn_of_lost_parcels(recording.path, lost, len(columns), "n/a in the whole run")
        parcels = tuple(name for name in columns if name not in lost)
        self._series = np.column_stack([columns[name] for name in parcels])
        name = recording.entities.get("segmentation", recording.entities.get("atlas", "unknown"))
        self.space = Space(kind="parcels", name=name, parcels=parcels, lost_parcels=lost, layout=layout)
        self.n_time_points, self.n_values_read = self._series.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: float64 ``(time, parcels)``."""
        series: np.ndarray = self._series[start:stop]
        check_finite(series, start, self._path, lambda parcel: f"parcel {self.space.parcels[parcel]}")
        return series


def warn_of_lost_parcels(path: Path, lost: Sequence[str], n_parcels: int, reason: str) -> None:
    """Say which parcels of a run are lost, if any; a study takes the parcels that all of its runs have.

    Parameters
    ----------
    path : Path
        The table or the atlas.
    lost : sequence of str
    n_parcels : int
        Of the atlas.
    reason : str
        What became of them, in words.
    """
    if lost:
        logger.warning(
            "%s: %d of its %d parcels are %s, and are left out: %s.",
            *(path, len(lost), n_parcels, reason, list_names(lost)),
        )


def _read_table(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a table that are parcels, by name: float64 ``(time,)`` each."""
    table = read_tsv(path, error=ImageError)
    if any(re.fullmatch(r"-?\d+\.\d*(e-?\d+)?", name) for name in table.columns):
        raise ImageError(
            f"{path}: expected the names of parcels in its first line, found numbers: "
            f"{', '.join(table.columns[:2])}, ...",
            "Write a header.",
        )
    if len(table) < 2:
        raise ImageError(f"{path}: expected at least 2 time points (rows), found {len(table)}.")
    columns = {str(name): numbers(path, table[name], error=ImageError) for name in table}
    return {name: values for name, values in columns.items() if not _is_count(path, name, values)}


def _is_count(path: Path, name: str, values: np.ndarray) -> bool:
    """Whether a column counts the rows or gives their times: it rises (or falls) at every row, as no recording does."""
    steps = np.diff(values) if np.isfinite(values).all() else np.zeros(1)
    is_even = len(steps) >= _MIN_EVEN_STEPS and np.ptp(steps) <= 0.01 * abs(steps[0])
    counts = bool((steps > 0).all() or (steps < 0).all()) and (is_even or len(steps) >= _MIN_STEPS)
    if counts:
        logger.warning(
            "%s: the column %r %s from row to row: it is an index or a time, no parcel, and is left out.",
            *(path, name, "rises" if steps[0] > 0 else "falls"),
        )
    return counts


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
        Of voxels, or of points of surfaces.
    atlas : Atlas
        For the space of `series`.
    """

    def __init__(self, series: TimeSeries, atlas: Atlas) -> None:
        from scipy import sparse

        features = np.flatnonzero(np.isin(atlas.labels, list(atlas.names)))
        position = {label: number for number, label in enumerate(atlas.names)}
        parcels = np.array([position[label] for label in atlas.labels[features]])
        # Each row sums to 1, so that the product with a time point is the mean over the parcel.
        weights = 1 / np.bincount(parcels)[parcels]
        shape = (len(atlas.names), len(atlas.labels))
        self._averaging = sparse.csr_array((weights, (parcels, features)), shape=shape)
        self._series, self.n_time_points = series, series.n_time_points
        # Beside what is read, the features that are averaged.
        self.n_values_read = series.n_values_read + series.space.n_features
        self.space = Space(
            kind="parcels",
            name=atlas.name,
            parcels=tuple(atlas.names.values()),
            lost_parcels=atlas.lost,
            layout=atlas.layout,
        )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: ``(time, parcels)``."""
        return np.asarray((self._averaging @ self._series.read(start, stop).T).T)
