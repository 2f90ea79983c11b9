"""Reading runs: from a folder or an address, in any number of processes, and never writing."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from titan_neuro.data.space import Space
from titan_neuro.data.store.address import is_url, open_group
from titan_neuro.data.store.schema import SCHEMA, SCHEMA_VERSION, Event, events_of, sha256_of
from titan_neuro.data.store.view import RunView
from titan_neuro.errors import ImageError, InputNotFoundError, MismatchError


class RunStore:
    """A prepared run, opened for reading.

    It may be pickled, and may pass to a forked process: each process opens the files for itself.

    Parameters
    ----------
    path : Path or str
        A folder written by :func:`write_run`, or its URL (a str: ``https://``, ``s3://``, whatever fsspec knows).

    Attributes
    ----------
    path : Path or str
        As it was given.
    key, entities, repetition_time, record
        As in :class:`RunHeader`.
    events : tuple of (float, float, str)
        Onset and duration in seconds from the first time point (NaN: unknown), and the ``trial_type``.
    sha256 : dict of str
        Checksums by name: each array's, and ``attributes`` (``docs/store.md``).
    n_time_points : int

    Raises
    ------
    InputNotFoundError
        There is no store at `path`, or it can't be reached.
    MismatchError
        It is no store, or one of another schema version, or its attributes were changed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Path | str = path if is_url(path) else Path(path)
        self._group: zarr.Group
        self._process = os.getpid()
        self._group = open_group(self.path)
        attributes: dict[str, Any] = dict(self._group.attrs)
        found = (attributes.get("schema"), attributes.get("schema_version"))
        if found != (SCHEMA, SCHEMA_VERSION):
            raise MismatchError(
                f"{path}: expected the schema {SCHEMA} {SCHEMA_VERSION}, found {found[0]} {found[1]}.",
                "Prepare the run again with this version of Titan-Neuro.",
            )
        self.sha256: dict[str, str] = attributes.pop("sha256", {})
        self._attributes = attributes
        self._compare("attributes", sha256_of(attributes))
        self.key: str = attributes["key"]
        self.entities: dict[str, str] = attributes["entities"]
        self.repetition_time: float = attributes["repetition_time"]
        self.record: dict[str, Any] = attributes["record"]
        self.events: tuple[Event, ...] = events_of(attributes)
        with self._readable("series"):
            self.n_time_points: int = self._group["series"].shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": None, "_process": None}

    @property
    def subject(self) -> str:
        """Label of the subject, without ``sub-``."""
        return self.entities["subject"]

    @property
    def stimulus(self) -> str:
        """What was shown, by the labels that subjects share: session, task and run, such as ``task-movie_run-02``."""
        labels = ((name, self.entities.get(name)) for name in ("session", "task", "run"))
        return "_".join(f"{name}-{label}" for name, label in labels if label is not None)

    @property
    def stimulus_events(self) -> list[Event]:
        """Events whose time points are scored, as the preparation was told."""
        kinds = self.record.get("settings", {}).get("scored_trial_types", ("movie",))
        return [event for event in self.events if event[2] in kinds]

    @property
    def stimulus_start(self) -> int:
        """Time point nearest to the onset of the first stimulus event, whatever is scored of it; 0 where there is none."""
        first_s = min((onset for onset, _, _ in self.stimulus_events), default=0.0)
        # Not Python's rounding to even numbers, by which runs a time point apart could start at the same one.
        return math.floor(first_s / self.repetition_time + 0.5)

    @property
    def preparation(self) -> dict[str, Any]:
        """How the time points were made, as far as runs that are used together must agree: JSON, by name of setting."""
        return {**{name: self.record.get(name) for name in ("route", "normalizer")}, **self.record.get("settings", {})}

    @property
    def caveats(self) -> list[str]:
        """Sentences that every table made from this run must bear: none where it is causal and properly registered."""
        found = []
        if used := self.record.get("whole_run"):
            found.append(
                f"Preparation used the whole run ({', '.join(used)}): later time points have touched earlier ones, and "
                "forecasts may look better than they are."
            )
        if self.record.get("route") == "rough registration":
            found.append(
                "ROUGH REGISTRATION: head motion and position were estimated from the images alone, and distortion was not "
                "corrected. Use these results for a first look, not for conclusions."
            )
        return found

    @cached_property
    def scored(self) -> np.ndarray:
        """Time points that a loss or a score may use as a target: bool ``(time,)``."""
        return self._small("scored")

    @cached_property
    def framewise_displacement(self) -> np.ndarray | None:
        """float32 ``(time,)``, mm from the time point before, NaN at time point 0; None where it is not known."""
        return self._small("framewise_displacement") if "framewise_displacement" in self.sha256 else None

    @cached_property
    def space(self) -> Space:
        """The run's own mask and grid, or its parcels."""
        attributes = self._attributes
        volume = attributes["kind"] == "volume"
        return Space(
            kind=attributes["kind"],
            name=attributes["space"],
            mask=self._small("mask") if volume else None,
            affine=np.asarray(attributes["affine"], dtype=np.float64) if volume else None,
            parcels=tuple(attributes["parcels"]),
        )

    def series(self, start: int, stop: int) -> np.ndarray:
        """Return time points ``start <= t < stop``: float16 ``(time, features)``, in standard deviations.

        Raises
        ------
        ImageError
            The time points are damaged, or gone.
        """
        with self._readable(f"time points {start} to {stop - 1}"):
            values = np.asarray(self._array("series")[start:stop])
        # What is gone reads as NaN (the fill value), which no time point holds.
        if np.isnan(values[:, :1]).any():
            lost = start + int(np.isnan(values[:, 0]).argmax())
            raise ImageError(
                f"{self.path}: time point {lost} is not there: a shard is missing or cut short.", self._hint
            )
        return values

    def verify(self) -> None:
        """Read everything and compare it with the checksums that were taken when it was written.

        Raises
        ------
        MismatchError
            Something was changed: which array, what was expected and what was found.
        ImageError
            Something can't be read.
        """
        for name in self.sha256.keys() - {"series", "attributes"}:
            self._small(name)
        digest = hashlib.sha256()
        step = self._array("series").shards[0]
        for start in range(0, self.n_time_points, step):
            digest.update(np.ascontiguousarray(self.series(start, start + step)))
        self._compare("series", digest.hexdigest())

    def within(self, space: Space) -> RunView:
        """See the run through the mask of a study."""
        return RunView(self, space)

    def _array(self, name: str) -> Any:
        # Connections and event loops don't survive a fork, nor a pickle.
        if self._process != os.getpid():
            self._group, self._process = open_group(self.path), os.getpid()
        return self._group[name]

    def _small(self, name: str) -> np.ndarray:
        with self._readable(name):
            values = np.asarray(self._array(name)[:])
        self._compare(name, sha256_of(values))
        return values

    def _compare(self, name: str, found: str) -> None:
        expected = self.sha256.get(name)
        if expected != found:
            raise MismatchError(f"{self.path}: {name}: expected SHA-256 {expected}, found {found}.", self._hint)

    @contextlib.contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        try:
            yield
        except (InputNotFoundError, MemoryError):
            raise
        # Each codec and each driver has errors of its own.
        except Exception as error:
            raise ImageError(
                f"{self.path}: {what} can't be read: {type(error).__name__}: {error}.", self._hint
            ) from error

    @property
    def _hint(self) -> str:
        if is_url(self.path):
            return "Check that the server answers requests for byte ranges; otherwise copy the store there again."
        return "The store is damaged: remove it and prepare the run again, or copy it again."
