"""Read a run from a store: a folder or a URL, in any number of processes, without writing."""

from __future__ import annotations

import contextlib
import math
import os
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from titan_neuro.data.space import Space
from titan_neuro.data.store.address import is_url, open_group
from titan_neuro.data.store.arrays import StoredArray, check_sha256, get_array, read_errors, sha256_of_blocks
from titan_neuro.data.store.schema import SCHEMA, SCHEMA_VERSION, Event, check_names, events_of, sha256_of
from titan_neuro.data.store.spaces import read_space
from titan_neuro.data.store.view import RunView
from titan_neuro.errors import ImageError, MismatchError

# A run up to this size is kept once it is read. An open run takes as much anyway, and a study reads each run twenty
# times or more, in pieces: finding them took longer than all that is computed from such short runs.
_SHORT_BYTES = 64 * 2**10


class RunStore:
    """A prepared run, opened for reading.

    It can be pickled, and passed to a forked process: each process opens the files itself.

    Parameters
    ----------
    path : Path or str
        A folder written by :func:`write_run`, or its URL (a str: ``https://``, ``s3://``, any scheme of fsspec).

    Attributes
    ----------
    path : Path or str
    key, entities, repetition_time, record
        As in :class:`RunHeader`.
    events : tuple of (float, float, str)
        Onset and duration in seconds from the first time point (NaN: unknown), and the ``trial_type``.
    event_columns : dict of str to list of str
        Further columns of the events table: a text for each event, ``""`` where there is no value.
    sha256 : dict of str
        Checksums of each array, and of the ``attributes`` (``docs/store.md``).
    n_time_points : int

    Raises
    ------
    InputNotFoundError
        There is no store at `path`, or it can't be reached.
    MismatchError
        `path` is no store, has another schema version, its attributes were changed, or its labels are none of BIDS.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Path | str = path if is_url(path) else Path(path)
        self._group: zarr.Group
        self._process = os.getpid()
        self._group = open_group(self.path)
        # Looking an array up takes as long as reading a short run.
        self._arrays: dict[str, StoredArray] = {}
        attributes: dict[str, Any] = dict(self._group.attrs)
        schema, version = attributes.get("schema"), attributes.get("schema_version")
        if (schema, version) != (SCHEMA, SCHEMA_VERSION):
            found = f"{schema} {version}" if schema else "a Zarr group without a schema"
            raise MismatchError(
                f"{path}: this store can't be read: expected the schema {SCHEMA} {SCHEMA_VERSION}, found {found}.",
                "Prepare the run again with this version of Titan-Neuro: `titan-neuro prepare BIDS_DIR OUTPUT_DIR`.",
            )
        self.sha256: dict[str, str] = attributes.pop("sha256", {})
        self._attributes = attributes
        self._check("attributes", sha256_of(attributes))
        check_names(path, attributes)
        self.key: str = attributes["key"]
        self.entities: dict[str, str] = attributes["entities"]
        self.repetition_time: float = attributes["repetition_time"]
        self.record: dict[str, Any] = attributes["record"]
        self.events: tuple[Event, ...] = events_of(attributes)
        self.event_columns: dict[str, list[str]] = attributes.get("event_columns", {})
        with self._read_errors("series"):
            series = self._array("series")
        self.n_time_points: int = series.shape[0]
        self._is_short = series.nbytes <= _SHORT_BYTES and not is_url(path)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_group": None, "_process": None, "_arrays": {}}
        state.pop("_whole", None)
        return state

    @property
    def subject(self) -> str:
        """Label of the subject, without ``sub-``."""
        return self.entities["subject"]

    @property
    def stimulus(self) -> str:
        """Name of the stimulus, from the labels that subjects share: session, task, run (``task-movie_run-02``)."""
        labels = ((name, self.entities.get(name)) for name in ("session", "task", "run"))
        return "_".join(f"{name}-{label}" for name, label in labels if label is not None)

    @property
    def stimulus_events(self) -> list[Event]:
        """Events whose time points are scored, according to the settings of the preparation."""
        kinds = self.record.get("settings", {}).get("scored_trial_types", ("movie",))
        return [event for event in self.events if event[2] in kinds]

    @property
    def stimulus_start(self) -> int:
        """Time point nearest to the onset of the first stimulus event, scored or not; 0 if there is none."""
        first_s = min((onset for onset, _, _ in self.stimulus_events), default=0.0)
        # Python rounds halves to even numbers, which could give two runs one time point apart the same start.
        return math.floor(first_s / self.repetition_time + 0.5)

    @property
    def preparation(self) -> dict[str, Any]:
        """The settings of the preparation that must agree among the runs of a study: JSON, by name of the setting."""
        return {**{name: self.record.get(name) for name in ("route", "normalizer")}, **self.record.get("settings", {})}

    @property
    def caveats(self) -> list[str]:
        """Warnings for every table made from this run; none if it is causal and fully registered."""
        caveats = []
        if steps := self.record.get("whole_run"):
            caveats.append(
                f"Preparation used the whole run ({', '.join(steps)}): earlier time points depend on later ones, and "
                "forecasts may look better than they are."
            )
        if self.record.get("route") == "rough registration":
            caveats.append(
                "ROUGH REGISTRATION: the recordings were registered from the images alone, and distortion was not "
                "corrected. Use these results for exploration only."
            )
        return caveats

    @cached_property
    def scored(self) -> np.ndarray:
        """Time points that a loss or a score may use as a target: bool ``(time,)``."""
        return self._read_whole("scored")

    @cached_property
    def framewise_displacement(self) -> np.ndarray | None:
        """float32 ``(time,)``, mm from the previous time point, NaN at time point 0; None if motion is unknown."""
        return self._read_whole("framewise_displacement") if "framewise_displacement" in self.sha256 else None

    @cached_property
    def continuous(self) -> dict[str, np.ndarray]:
        """Columns of continuous tables, float32 ``(time,)`` by name, as in :class:`RunHeader`."""
        names = self._attributes.get("continuous", ())
        return dict(zip(names, self._read_whole("continuous").T, strict=True)) if names else {}

    @cached_property
    def space(self) -> Space:
        """The run's own mask and grid, its points of surfaces, or its parcels."""
        return read_space(self._attributes, self._read_whole)

    def series(self, start: int, stop: int) -> np.ndarray:
        """Return time points ``start <= t < stop``: float16 ``(time, features)``, in standard deviations.

        Raises
        ------
        ImageError
            The time points are damaged or missing.
        """
        if self._is_short:
            # Where a part is damaged, the rest can be read.
            with contextlib.suppress(ImageError):
                return self._whole[start:stop].copy()
        return self._read_series(start, stop)

    @cached_property
    def _whole(self) -> np.ndarray:
        return self._read_series(0, self.n_time_points)

    def _read_series(self, start: int, stop: int) -> np.ndarray:
        with self._read_errors(f"time points {start} to {stop - 1}"):
            values = np.asarray(self._array("series")[start:stop])
        # Missing chunks are read as NaN (the fill value), which no time point contains.
        if np.isnan(values[:, :1]).any():
            first = start + int(np.isnan(values[:, 0]).argmax())
            raise ImageError(
                f"{self.path}: time point {first} is missing: a shard was removed or truncated.", self._hint
            )
        return values

    def verify(self) -> None:
        """Read everything, and compare it with the checksums that were recorded when it was written.

        Raises
        ------
        MismatchError
            An array was changed; the message names it, the expected and the found checksum.
        ImageError
            An array is damaged or missing.
        """
        for name in self.sha256.keys() - {"series", "attributes"}:
            self._read_whole(name)
        series = self._array("series")
        step = (series.shards or series.chunks)[0]
        starts = range(0, self.n_time_points, step)
        self._check("series", sha256_of_blocks(self._read_series(start, start + step) for start in starts))

    def within(self, space: Space) -> RunView:
        """Return the run restricted to the features of a study; see :class:`RunView`."""
        return RunView(self, space)

    def _array(self, name: str) -> StoredArray:
        # Connections and event loops survive neither a fork nor a pickle.
        if self._process != os.getpid():
            self._group, self._process, self._arrays = open_group(self.path), os.getpid(), {}
        if name not in self._arrays:
            self._arrays[name] = get_array(self._group, name)
        return self._arrays[name]

    def _read_whole(self, name: str) -> np.ndarray:
        with self._read_errors(name):
            values = np.asarray(self._array(name)[:])
        self._check(name, sha256_of(values))
        return values

    def _check(self, name: str, found: str) -> None:
        check_sha256(self.path, name, self.sha256.get(name), found, self._hint)

    def _read_errors(self, content: str) -> AbstractContextManager[None]:
        return read_errors(self.path, content, self._hint)

    @property
    def _hint(self) -> str:
        if is_url(self.path):
            return "Check that the server supports requests for byte ranges, or copy the store there again."
        return "The store is damaged: remove it and prepare the run again, or copy it again."
