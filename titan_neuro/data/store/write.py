"""Writing a run: shard by shard, in one pass, whatever the length of the blocks it comes in."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import ZarrUserWarning

from titan_neuro.data.store.schema import RunHeader, arrays_of, attributes_of, sha256_of
from titan_neuro.errors import ImageError, MismatchError
from titan_neuro.files import atomic

# Measured on time points of 235,000 voxels (docs/store.md): a window of 20 time points takes as long with chunks of 4,
# 8 or 16.
CHUNK_BYTES, CHUNK_TIME_POINTS = 2 * 2**20, (4, 64)
# What a writer holds in memory, a few times, and what lies in one file or object.
SHARD_BYTES = 32 * 2**20


def write_run(path: Path, header: RunHeader, blocks: Iterable[np.ndarray]) -> None:
    """Write a run, time point block by time point block, and rename it to `path` when it is whole.

    Memory is that of one block and of a few shards of 32 MiB, however long the run is.

    Parameters
    ----------
    path : Path
        Ends in ``.zarr``; what was there before is replaced.
    header : RunHeader
    blocks : iterable of numpy.ndarray
        ``(any number of series, features)`` each, finite, in order of time; together ``len(header.scored)`` time
        points.

    Raises
    ------
    MismatchError
        The blocks hold another number of time points than `header.scored`, or of features than the space; the header
        can't be written as JSON.
    ImageError
        A value is not finite, or beyond what float16 holds.
    OutputError
        The folder can't be written.
    """
    n_time_points, n_features = len(header.scored), header.space.n_features
    attributes, arrays = attributes_of(header), arrays_of(header)
    chunk, shard = layout(n_time_points, n_features)
    with atomic(path) as temporary:
        group = zarr.open_group(temporary, mode="w-", zarr_format=3)
        series = group.create_array(
            "series",
            shape=(n_time_points, n_features),
            dtype="float16",
            chunks=(chunk, n_features),
            # At the start the index is found without asking a server for the size of the shard.
            shards={"shape": (shard, n_features), "index_location": "start"},
            # Scaled noise in float16: the best codec saves a tenth and doubles the time of a window.
            compressors=Crc32cCodec(),
            # Time points are finite: a chunk that is gone reads as what no time point can be.
            fill_value=np.nan,
            dimension_names=("time", "feature"),
        )
        digest, start = hashlib.sha256(), 0
        for part in _shards(header, blocks, shard):
            digest.update(part)
            series[start : start + len(part)] = part
            start += len(part)
        for name, values in arrays.items():
            group.create_array(name, data=values)
        sums = {name: sha256_of(values) for name, values in arrays.items()}
        sums |= {"series": digest.hexdigest(), "attributes": sha256_of(attributes)}
        group.attrs.update({**attributes, "sha256": sums})
        with warnings.catch_warnings():
            # Metadata of all arrays in one file: one request opens a store. Readers that don't know of it need not.
            warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
            zarr.consolidate_metadata(group.store)


def layout(n_time_points: int, n_features: int) -> tuple[int, int]:
    """Return the time points of a chunk and of a shard, a multiple of it: about `CHUNK_BYTES` and `SHARD_BYTES`."""
    volume_bytes = 2 * n_features
    least, most = CHUNK_TIME_POINTS
    # The last chunk is as long as any other, and not compressed.
    chunk = min(max(CHUNK_BYTES // volume_bytes, least), most, n_time_points)
    chunks = min(SHARD_BYTES // (chunk * volume_bytes), -(-n_time_points // chunk))
    return chunk, chunk * max(chunks, 1)


def _shards(header: RunHeader, blocks: Iterable[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Yield float16 ``(n, features)``, the last one shorter; each is overwritten by the next."""
    n_time_points, n_features = len(header.scored), header.space.n_features
    shard = np.empty((n, n_features), dtype="<f2")
    found = filled = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != n_features:
            raise MismatchError(
                f"{header.key}: expected blocks of (time points, {n_features} features), found one of shape {block.shape}."
            )
        done = 0
        while done < len(block):
            taken = min(n - filled, len(block) - done)
            _cast(block[done : done + taken], shard[filled : filled + taken], header.key, found)
            done, filled, found = done + taken, filled + taken, found + taken
            if filled == n:
                _check_length(header.key, found, n_time_points, at_end=False)
                yield shard
                filled = 0
    _check_length(header.key, found, n_time_points, at_end=True)
    if filled:
        yield shard[:filled]


def _cast(values: np.ndarray, target: np.ndarray, key: str, first: int) -> None:
    with np.errstate(over="ignore"):
        target[...] = values
    if not np.isfinite(target).all():
        time_point, feature = np.argwhere(~np.isfinite(target))[0]
        raise ImageError(
            f"{key}: expected finite values of at most 65,504 standard deviations, found {values[time_point, feature]} in "
            f"time point {first + time_point}, feature {feature}."
        )


def _check_length(key: str, found: int, n_time_points: int, *, at_end: bool) -> None:
    if found > n_time_points or (at_end and found != n_time_points):
        raise MismatchError(f"{key}: expected {n_time_points} time points, found {found} in the recording.")
