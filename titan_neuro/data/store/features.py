"""Features of a frozen encoder, kept beside the run that they were computed from (``docs/store.md``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from titan_neuro.data.store.address import open_group
from titan_neuro.data.store.write import layout
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
        What the features must follow from, as it was given to :func:`write_features`.

    Attributes
    ----------
    n_time_points : int
    shape : tuple of int
        Of a time point's features.

    Raises
    ------
    InputNotFoundError
        There is nothing at `path`.
    MismatchError
        It is something else, or follows from something else: what was expected and what was found.
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
            self._features: Any = group["features"]
        except (KeyError, ValueError) as error:
            raise MismatchError(f"{path}: holds no features: {error}.", _HINT) from error
        self.n_time_points: int = self._features.shape[0]
        self.shape: tuple[int, ...] = self._features.shape[1:]

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return the features of time points ``start <= t < stop``: float32 ``(time, *shape)``.

        Raises
        ------
        ImageError
            They are damaged, or gone.
        """
        # Imported here: the preparation of runs needs no torch.
        import torch

        return torch.from_numpy(self._values(start, stop)).float()

    def verify(self) -> None:
        """Read everything and compare it with the checksum that was taken when it was written.

        Raises
        ------
        MismatchError
            Something was changed.
        ImageError
            Something can't be read.
        """
        digest = hashlib.sha256()
        for start in range(0, self.n_time_points, self._features.shards[0]):
            digest.update(np.ascontiguousarray(self._values(start, start + self._features.shards[0])))
        if digest.hexdigest() != self._sha256:
            raise MismatchError(
                f"{self.path}: features: expected SHA-256 {self._sha256}, found {digest.hexdigest()}.", _HINT
            )

    def _values(self, start: int, stop: int) -> np.ndarray:
        try:
            values = np.asarray(self._features[start:stop])
        except MemoryError:
            raise
        # Each codec has errors of its own.
        except Exception as error:
            raise ImageError(
                f"{self.path}: features {start} to {stop - 1} can't be read: {type(error).__name__}: {error}.", _HINT
            ) from error
        if np.isnan(values.reshape(len(values), -1)[:, :1]).any():
            raise ImageError(f"{self.path}: features of {start} to {stop - 1} are not there: a file is missing.", _HINT)
        return values


def feature_name(store_name: str, encoder: str) -> str:
    """Name of the features that `encoder` (a digest) makes of a store: ``..._desc-features0123456789ab_bold.zarr``."""
    description = f"_desc-features{encoder[:12]}"
    if "_desc-prepared" in store_name:
        return store_name.replace("_desc-prepared", description)
    return f"{store_name.removesuffix('.zarr')}{description}.zarr"


def write_features(
    path: Path, source: Mapping[str, Any], blocks: Iterable[np.ndarray], n_time_points: int, shape: tuple[int, ...]
) -> None:
    """Write a run's features block by block, and rename them to `path` when they are whole.

    Parameters
    ----------
    path : Path
        Ends in ``.zarr``; what was there before is replaced.
    source : mapping
        What the features follow from, JSON: reading asks for the same.
    blocks : iterable of numpy.ndarray
        ``(any number of series, *shape)``, in order of time; together `n_time_points`. They are kept as float16.
    n_time_points : int
    shape : tuple of int

    Raises
    ------
    MismatchError
        The blocks hold another number of time points.
    ImageError
        A value is not finite, or beyond what float16 holds.
    OutputError
        The folder can't be written.
    """
    chunk, shard = layout(n_time_points, int(np.prod(shape)))
    with atomic(path) as temporary:
        group = zarr.open_group(temporary, mode="w-", zarr_format=3)
        features = group.create_array(
            "features",
            shape=(n_time_points, *shape),
            dtype="float16",
            chunks=(chunk, *shape),
            shards={"shape": (shard, *shape), "index_location": "start"},
            compressors=Crc32cCodec(),
            fill_value=np.nan,
            dimension_names=("time", *(None for _ in shape)),
        )
        # A few MB for each hundred time points, where those themselves may be gigabytes.
        whole = np.concatenate([_half(block, path) for block in blocks])
        if whole.shape != (n_time_points, *shape):
            raise MismatchError(f"{path}: expected features of {(n_time_points, *shape)}, found {whole.shape}.")
        features[...] = whole
        group.attrs.update(
            {
                "schema": SCHEMA,
                "schema_version": SCHEMA_VERSION,
                **source,
                "sha256": hashlib.sha256(np.ascontiguousarray(whole)).hexdigest(),
            }
        )


def _half(block: np.ndarray, path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = block.astype("<f2")
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: the encoder gives features that are not finite, or beyond 65,504.")
    return values
