"""Arrays over time in a store: their layout, their creation, and reads that notice damage."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from titan_neuro.errors import ImageError, InputNotFoundError, MismatchError

if TYPE_CHECKING:
    import zarr
    from zarr.core.array import ShardsConfigParam
    from zarr.core.metadata import ArrayV3Metadata

StoredArray: TypeAlias = "zarr.Array[ArrayV3Metadata]"

# Measured on time points of 235,000 voxels (docs/store.md): a window of 20 time points takes as long with chunks of 4,
# 8 or 16.
CHUNK_BYTES, CHUNK_TIME_POINTS = 2 * 2**20, (4, 64)
# A writer holds a few shards in memory; each is one file or object.
SHARD_BYTES = 32 * 2**20


def layout(n_time_points: int, n_values: int) -> tuple[int, int]:
    """Return the time points per chunk and per shard: about `CHUNK_BYTES` and `SHARD_BYTES` of float16.

    Parameters
    ----------
    n_time_points : int
        Length of the run.
    n_values : int
        Values per time point.

    Returns
    -------
    tuple of int
        Of the chunk, and of the shard: a multiple of the chunk.
    """
    bytes_per_time_point = 2 * n_values
    least, most = CHUNK_TIME_POINTS
    # The last chunk is stored at full length, and is not compressed.
    chunk = min(max(CHUNK_BYTES // bytes_per_time_point, least), most, n_time_points)
    chunks = min(SHARD_BYTES // (chunk * bytes_per_time_point), -(-n_time_points // chunk))
    return chunk, chunk * max(chunks, 1)


def create_array(
    group: zarr.Group, name: str, shape: tuple[int, ...], dimensions: tuple[str | None, ...]
) -> StoredArray:
    """Create a float16 array whose first dimension is time, in chunks and shards of whole time points.

    Parameters
    ----------
    group : zarr.Group
    name : str
    shape : tuple of int
        ``(time, ...)``.
    dimensions : tuple of str or None
        Names of the dimensions.
    """
    from zarr.codecs import Crc32cCodec, ShardingCodecIndexLocation

    chunk, shard = layout(shape[0], int(np.prod(shape[1:])))
    # An index at the start of a shard is found without asking a server for the size of the shard.
    shards: ShardsConfigParam = {"shape": (shard, *shape[1:]), "index_location": ShardingCodecIndexLocation.start}
    return group.create_array(
        name,
        shape=shape,
        dtype="float16",
        chunks=(chunk, *shape[1:]),
        shards=shards,
        # Scaled noise in float16: the best codec saves a tenth and doubles the time of a window.
        compressors=Crc32cCodec(),
        # Values are finite: a missing chunk is read as NaN, which no time point contains.
        fill_value=np.nan,
        dimension_names=dimensions,
    )


def get_array(group: zarr.Group, name: str) -> StoredArray:
    """Return an array of a group.

    Raises
    ------
    KeyError
        The group has no such array.
    """
    import zarr

    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return array


@contextlib.contextmanager
def read_errors(path: Path | str, content: str, hint: str) -> Iterator[None]:
    """Turn the errors of codecs and drivers into an ImageError that names the store.

    Parameters
    ----------
    path : Path or str
        The store.
    content : str
        The content that the block reads, for the message.
    hint : str
        What to do about it, for the message.

    Raises
    ------
    ImageError
        The block failed.
    """
    try:
        yield
    except (InputNotFoundError, MemoryError):
        raise
    # Each codec and each driver has its own errors.
    except Exception as error:
        raise ImageError(f"{path}: {content} can't be read: {type(error).__name__}: {error}.", hint) from error


def sha256_of_blocks(blocks: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of the values of successive blocks, in C order."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def check_sha256(path: Path | str, name: str, expected: str | None, found: str, hint: str) -> None:
    """Compare a checksum with the recorded one.

    Raises
    ------
    MismatchError
        They differ: the content was changed.
    """
    if expected != found:
        raise MismatchError(f"{path}: {name}: expected SHA-256 {expected}, found {found}.", hint)
