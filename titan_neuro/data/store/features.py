"""Features of a frozen encoder, stored beside the run that they were computed from (``docs/store.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from titan_neuro.data.store.address import open_group
from titan_neuro.data.store.arrays import check_sha256, create_array, get_array, read_errors, sha256_of_blocks
from titan_neuro.errors import ImageError, MismatchError
from titan_neuro.files import atomic

if TYPE_CHECKING:
    import torch

SCHEMA = "titan-neuro-features"
SCHEMA_VERSION = 2
_HINT = "Remove it: the next training computes it again."


class FeatureStore:
    """Features of one run, opened for reading.

    Parameters
    ----------
    path : Path
        A folder written by :func:`write_features`.
    source : mapping
        What the features must have been computed from: as given to :func:`write_features`.

    Attributes
    ----------
    n_time_points : int
    shape : tuple of int
        Shape of the features of one time point.

    Raises
    ------
    InputNotFoundError
        There is nothing at `path`.
    MismatchError
        `path` holds something else, or features of another source; the message names both.
    """

    def __init__(self, path: Path, source: Mapping[str, Any]) -> None:
        self.path = path
        group = open_group(path)
        attributes: dict[str, Any] = dict(group.attrs)
        self._sha256 = attributes.pop("sha256", None)
        expected = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **source}
        for name in sorted(expected.keys() | attributes.keys()):
            if expected.get(name) != attributes.get(name):
                raise MismatchError(
                    f"{path}: {name}: expected {expected.get(name)}, found {attributes.get(name)}.", _HINT
                )
        try:
            self._features = get_array(group, "features")
        except (KeyError, ValueError) as error:
            raise MismatchError(f"{path}: contains no array of features: {error}.", _HINT) from error
        self.n_time_points: int = self._features.shape[0]
        self.shape: tuple[int, ...] = self._features.shape[1:]

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return the features of time points ``start <= t < stop``: float32 ``(time, *shape)``.

        Raises
        ------
        ImageError
            They are damaged or missing.
        """
        # Imported here: the preparation of runs needs no torch.
        import torch

        return torch.from_numpy(self._read(start, stop)).float()

    def verify(self) -> None:
        """Read all features, and compare them with the checksum that was recorded when they were written.

        Raises
        ------
        MismatchError
            They were changed.
        ImageError
            They are damaged or missing.
        """
        step = (self._features.shards or self._features.chunks)[0]
        starts = range(0, self.n_time_points, step)
        found = sha256_of_blocks(self._read(start, start + step) for start in starts)
        check_sha256(self.path, "features", self._sha256, found, _HINT)

    def _read(self, start: int, stop: int) -> np.ndarray:
        with read_errors(self.path, f"features of time points {start} to {stop - 1}", _HINT):
            values = np.asarray(self._features[start:stop])
        if np.isnan(values.reshape(len(values), -1)[:, :1]).any():
            raise ImageError(
                f"{self.path}: features of time points {start} to {stop - 1} are missing: a file was removed.", _HINT
            )
        return values


def feature_name(store_name: str, encoder: str) -> str:
    """Return the file name of the features that an encoder computes from a store.

    Parameters
    ----------
    store_name : str
        File name of the run's store.
    encoder : str
        Hexadecimal digest of the encoder; its first 12 digits are part of the name.

    Returns
    -------
    str
        Such as ``sub-01_task-x_desc-features0123456789ab_bold.zarr``.
    """
    description = f"_desc-features{encoder[:12]}"
    if "_desc-prepared" in store_name:
        return store_name.replace("_desc-prepared", description)
    return f"{store_name.removesuffix('.zarr')}{description}.zarr"


def write_features(
    path: Path, source: Mapping[str, Any], blocks: Iterable[np.ndarray], n_time_points: int, shape: tuple[int, ...]
) -> None:
    """Write a run's features under a temporary name, and rename them to `path` when they are complete.

    Parameters
    ----------
    path : Path
        Ends in ``.zarr``; an existing store is replaced.
    source : mapping
        JSON that says what the features were computed from; a reader must name the same.
    blocks : iterable of numpy.ndarray
        ``(time, *shape)``, of any lengths, in order; together `n_time_points` long. They are stored as float16.
    n_time_points : int
    shape : tuple of int
        Shape of the features of one time point.

    Raises
    ------
    MismatchError
        The blocks have another number of time points.
    ImageError
        A value is not finite, or exceeds the range of float16.
    OutputError
        The folder can't be written.
    """
    with atomic(path) as temporary:
        group = zarr.open_group(temporary, mode="w-", zarr_format=3)
        features = create_array(group, "features", (n_time_points, *shape), dimensions=("time", *(None for _ in shape)))
        # All at once: a few MB for each hundred time points, where the time points themselves may be gigabytes.
        values = np.concatenate([_to_float16(block, path) for block in blocks])
        if values.shape != (n_time_points, *shape):
            raise MismatchError(f"{path}: expected features of {(n_time_points, *shape)}, found {values.shape}.")
        features[...] = values
        group.attrs.update(
            {
                "schema": SCHEMA,
                "schema_version": SCHEMA_VERSION,
                **source,
                "sha256": sha256_of_blocks([values]),
            }
        )


def _to_float16(block: np.ndarray, path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = block.astype("<f2")
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: expected finite features of at most 65,504, found others: the encoder diverged.")
    return values
