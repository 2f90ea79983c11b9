"""Write a run to a store: shard by shard, in one pass, from blocks of any length."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from titan_neuro.data.store.arrays import create_array, layout
from titan_neuro.data.store.schema import RunHeader, arrays_of, attributes_of, sha256_of
from titan_neuro.errors import ImageError, MismatchError
from titan_neuro.files import atomic


def write_run(path: Path, header: RunHeader, blocks: Iterable[np.ndarray]) -> None:
    """Write a run under a temporary name, and rename it to `path` when it is complete.

    Memory is that of one block and of a few shards of 32 MiB, however long the run is.

    Parameters
    ----------
    path : Path
        Ends in ``.zarr``; an existing store is replaced.
    header : RunHeader
    blocks : iterable of numpy.ndarray
        ``(time, features)`` each, of any lengths, finite, in order; together ``len(header.scored)`` time points.

    Raises
    ------
    MismatchError
        The blocks have another number of time points than `header.scored`, or of features than the space; the header
        can't be written as JSON.
    ImageError
        A value is not finite, or exceeds the range of float16.
    OutputError
        The folder can't be written.
    """
    n_time_points, n_features = len(header.scored), header.space.n_features
    attributes, arrays = attributes_of(header), arrays_of(header)
    _, shard = layout(n_time_points, n_features)
    with atomic(path) as temporary:
        group = zarr.open_group(temporary, mode="w-", zarr_format=3)
        series = create_array(group, "series", (n_time_points, n_features), dimensions=("time", "feature"))
        digest, start = hashlib.sha256(), 0
        for part in _shards(header, blocks, shard):
            digest.update(part.data)
            series[start : start + len(part)] = part
            start += len(part)
        for name, values in arrays.items():
            group.create_array(name, data=values)
        sums = {name: sha256_of(values) for name, values in arrays.items()}
        sums |= {"series": digest.hexdigest(), "attributes": sha256_of(attributes)}
        with warnings.catch_warnings():
            # The metadata of all arrays in one file: one request opens a store. Other readers may ignore it.
            warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
            zarr.consolidate_metadata(group.store)
        _write_attributes(temporary / "zarr.json", {**attributes, "sha256": sums})


def _write_attributes(metadata: Path, attributes: Mapping[str, Any]) -> None:
    """Add a group's attributes to its metadata; zarr copies them element by element: a minute for 300,000 events."""
    content = json.loads(metadata.read_text(encoding="utf-8"))
    metadata.write_text(json.dumps({**content, "attributes": attributes}, allow_nan=False), encoding="utf-8")


def _shards(header: RunHeader, blocks: Iterable[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Yield float16 ``(n, features)``, the last one shorter; each is overwritten by the next."""
    n_time_points, n_features = len(header.scored), header.space.n_features
    shard = np.empty((n, n_features), dtype="<f2")
    total = filled = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != n_features:
            raise MismatchError(
                f"{header.key}: expected blocks of shape (time points, {n_features} features), found {block.shape}."
            )
        used = 0
        while used < len(block):
            count = min(n - filled, len(block) - used)
            _cast(block[used : used + count], shard[filled : filled + count], header.key, total)
            used, filled, total = used + count, filled + count, total + count
            if filled == n:
                _check_length(header.key, total, n_time_points, at_end=False)
                yield shard
                filled = 0
    _check_length(header.key, total, n_time_points, at_end=True)
    if filled:
        yield shard[:filled]


def _cast(values: np.ndarray, target: np.ndarray, key: str, first: int) -> None:
    with np.errstate(over="ignore"):
        target[...] = values
    if not np.isfinite(target).all():
        time_point, feature = np.argwhere(~np.isfinite(target))[0]
        raise ImageError(
            f"{key}: expected finite values of at most 65,504 standard deviations, found "
            f"{values[time_point, feature]} in time point {first + time_point}, feature {feature}."
        )


def _check_length(key: str, found: int, n_time_points: int, *, at_end: bool) -> None:
    if found > n_time_points or (at_end and found != n_time_points):
        raise MismatchError(f"{key}: expected {n_time_points} time points, found {found} in the recording.")
