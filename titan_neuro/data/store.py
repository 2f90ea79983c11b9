"""The store: one Zarr group a run, written once under a temporary name, read by everybody (``docs/store.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec

from titan_neuro.data.bids import join_entities
from titan_neuro.data.space import Space
from titan_neuro.errors import InputNotFoundError, MismatchError
from titan_neuro.files import atomic

SCHEMA = "titan-neuro-run"
SCHEMA_VERSION = 1
FRAMES_A_CHUNK = 16
FRAMES_A_SHARD = 256


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """What a store says of its run beside the frames.

    Attributes
    ----------
    key : str
        ``sub-01_task-movie_run-02``.
    entities : dict of str
        BIDS entities by their long names.
    repetition_time : float
        Seconds.
    space : Space
    scored : numpy.ndarray
        bool ``(n_frames,)``.
    record : dict
        Normaliser, events, source file and its fingerprint: plain JSON.
    """

    key: str
    entities: Mapping[str, str]
    repetition_time: float
    space: Space
    scored: np.ndarray
    record: Mapping[str, Any] = field(default_factory=dict)


def write_run(path: Path, header: RunHeader, blocks: Iterable[np.ndarray]) -> None:
    """Write a run, frame block by frame block, and rename it to `path` when it is whole.

    Parameters
    ----------
    path : Path
        Ends in ``.zarr``; what was there before is replaced.
    header : RunHeader
    blocks : iterable of numpy.ndarray
        ``(FRAMES_A_SHARD, features)`` each but the last, in order of time; together ``len(header.scored)`` frames.

    Raises
    ------
    MismatchError
        The blocks hold another number of frames than `header.scored`.
    OutputError
        The folder can't be written.
    """
    n_frames, n_features = len(header.scored), header.space.n_features
    with atomic(path) as temporary:
        group = zarr.open_group(temporary, mode="w-", zarr_format=3)
        frames = group.create_array(
            "frames",
            shape=(n_frames, n_features),
            dtype="float16",
            chunks=(FRAMES_A_CHUNK, n_features),
            shards=(FRAMES_A_SHARD, n_features),
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            dimension_names=("time", "feature"),
        )
        start = 0
        for block in blocks:
            frames[start : start + len(block)] = block.astype(np.float16)
            start += len(block)
        if start != n_frames:
            raise MismatchError(f"{header.key}: expected {n_frames} frames, found {start} in the recording.")
        group.create_array("scored", data=header.scored.astype(bool))
        if header.space.mask is not None:
            group.create_array("mask", data=header.space.mask)
        group.attrs.update(_attributes(header))


def _attributes(header: RunHeader) -> dict[str, Any]:
    space = header.space
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "key": header.key,
        "entities": dict(header.entities),
        "repetition_time": header.repetition_time,
        "kind": space.kind,
        "space": space.name,
        "affine": None if space.affine is None else space.affine.tolist(),
        "parcels": list(space.parcels),
        "record": dict(header.record),
    }


class RunStore:
    """A prepared run, opened for reading.

    Parameters
    ----------
    path : Path
        A folder written by :func:`write_run`.

    Raises
    ------
    InputNotFoundError
        There is no store at `path`.
    MismatchError
        The folder is no store, or one of another schema version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "zarr.json").is_file():
            raise InputNotFoundError(f"{path}: no prepared run is stored here.", "Run `titan-neuro prepare` first.")
        self._group = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = dict(self._group.attrs)
        found = (attributes.get("schema"), attributes.get("schema_version"))
        if found != (SCHEMA, SCHEMA_VERSION):
            raise MismatchError(
                f"{path}: expected the schema {SCHEMA} {SCHEMA_VERSION}, found {found[0]} {found[1]}.",
                "Prepare the run again with this version of Titan-Neuro.",
            )
        self.key: str = attributes["key"]
        self.entities: dict[str, str] = attributes["entities"]
        self.repetition_time: float = attributes["repetition_time"]
        self.record: dict[str, Any] = attributes["record"]
        self.scored: np.ndarray = np.asarray(self._group["scored"][:])
        self.n_frames: int = len(self.scored)

    @property
    def subject(self) -> str:
        """Label of the subject, without ``sub-``."""
        return self.entities["subject"]

    @cached_property
    def space(self) -> Space:
        """The run's own mask and grid, or its parcels."""
        attributes = self._group.attrs
        volume = attributes["kind"] == "volume"
        return Space(
            kind=attributes["kind"],
            name=attributes["space"],
            mask=np.asarray(self._group["mask"][:]) if volume else None,
            affine=np.asarray(attributes["affine"], dtype=np.float64) if volume else None,
            parcels=tuple(attributes["parcels"]),
        )

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Return frames ``start <= t < stop``: float16 ``(time, features)``, in standard deviations."""
        return np.asarray(self._group["frames"][start:stop])

    def within(self, space: Space) -> RunView:
        """See the run through the mask of a study."""
        return RunView(self, space)


class RunView:
    """A stored run reduced to the features of a study: a :class:`titan_neuro.typing.FrameRun`.

    Parameters
    ----------
    store : RunStore
    space : Space
        Its features must all be in the store.
    """

    def __init__(self, store: RunStore, space: Space) -> None:
        self.store = store
        self.key, self.subject, self.n_frames, self.scored = store.key, store.subject, store.n_frames, store.scored
        self.n_features = space.n_features
        columns = space.columns_in(store.space)
        self._columns = None if len(columns) == store.space.n_features else columns

    @property
    def repetition_time(self) -> float:
        """Seconds."""
        return self.store.repetition_time

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return frames ``start <= t < stop``: float32 ``(time, features)``, in standard deviations."""
        frames = self.store.frames(start, stop)
        if self._columns is not None:
            frames = frames[:, self._columns]
        return torch.from_numpy(frames.astype(np.float32))


def store_name(entities: Mapping[str, str], kind: str) -> str:
    """Name of a run's store: ``sub-01_task-x_run-01_desc-prepared_bold.zarr``."""
    kept = {name: value for name, value in entities.items() if name not in {"desc", "statistic", "stat"}}
    suffix = "bold" if kind == "volume" else "timeseries"
    return f"{join_entities(kept)}_desc-prepared_{suffix}.zarr"


def open_runs(output_dir: Path, subjects: Sequence[str] | None = None) -> list[RunStore]:
    """Open all prepared runs of an output folder, sorted by name.

    Parameters
    ----------
    output_dir : Path
    subjects : sequence of str, optional
        Labels to keep, without ``sub-``.

    Raises
    ------
    InputNotFoundError
        Nothing has been prepared there.
    """
    paths = sorted(output_dir.glob("sub-*/**/func/*_desc-prepared_*.zarr"))
    stores = [RunStore(path) for path in paths]
    stores = [store for store in stores if not subjects or store.subject in subjects]
    if not stores:
        raise InputNotFoundError(
            f"{output_dir}: holds no prepared run"
            + (f" of {', '.join('sub-' + subject for subject in subjects)}." if subjects else "."),
            "Run `titan-neuro prepare BIDS_DIR OUTPUT_DIR` (or `titan-neuro run ... participant`) first.",
        )
    return sorted(stores, key=lambda store: store.key)
