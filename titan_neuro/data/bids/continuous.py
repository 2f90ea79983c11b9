"""Continuous tables, ``*_stim.tsv.gz`` and ``*_physio.tsv.gz``: which apply to a run, their columns, resampling.

Such a table has no header: its sidecar names the columns, the sampling frequency, and the time of the first row from
the beginning of the run (BIDS 1.10, "Physiological recordings and other continuous recordings").
"""

from __future__ import annotations

import csv
import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from titan_neuro.data.bids.names import RUN_ENTITIES, BidsFile, applies_to, parse_name, run_entities
from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.files import read_json

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

CONTINUOUS_SUFFIXES = ("stim", "physio")
CONTINUOUS_EXTENSION = ".tsv.gz"

# Of BIDS's reserved columns, those that hold the scanner's pulses and the clock: nothing about what was shown.
_NO_CONTENT = ("trigger", "timestamp")
# A frequency that was rounded down in the sidecar still means one row a volume.
_MIN_ROWS_PER_VOLUME = 0.99
# Part of a volume's interval that rows with a value must cover.
_MIN_COVERED = 0.5
# Times are products and quotients of decimal fractions: positions are rounded, in rows.
_ROUNDING_DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class ContinuousFile:
    """A continuous table and its sidecars.

    Attributes
    ----------
    path : Path
    sidecars : tuple of Path
        All JSON files that apply to it by BIDS's inheritance principle; later ones take precedence.
    """

    path: Path
    sidecars: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The table's name without the entities that distinguish runs: ``stim``, ``recording-cardiac_physio``."""
        return _shared_name(parse_name(self.path))


@dataclass(frozen=True, kw_only=True, eq=False)
class ContinuousTable:
    """Regularly sampled columns.

    Attributes
    ----------
    columns : tuple of str
    values : numpy.ndarray
        float64 ``(rows, columns)``; NaN where the table has ``n/a``.
    sampling_frequency_hz : float
    start_s : float
        Time of the first row, in seconds from the beginning of the run's first volume.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    sampling_frequency_hz: float
    start_s: float


def is_continuous(path: Path) -> bool:
    """Whether a file is a continuous table, by its name."""
    file = parse_name(path)
    return file.suffix in CONTINUOUS_SUFFIXES and file.extension == CONTINUOUS_EXTENSION


def find_continuous(image: BidsFile, tables: Mapping[Path, Sequence[BidsFile]]) -> tuple[ContinuousFile, ...]:
    """Return the continuous tables of a run, one of each `ContinuousFile.name`, sorted by it.

    A table applies if the run has all of its entities and the table lies beside the run's file or in a folder above.
    The nearest table is used, and of several in one folder that with the most entities.

    Parameters
    ----------
    image : BidsFile
        The run's file in the dataset that the tables belong to.
    tables : mapping of Path to sequence of BidsFile
        The tables of the dataset by their folders.

    Raises
    ------
    MetadataError
        Two tables apply equally well.
    """
    found, rank_of = dict[str, Path](), dict[str, tuple[int, int]]()
    for file in (file for folder in image.path.parents for file in tables.get(folder, ())):
        entities = run_entities(file.entities)
        if not applies_to(entities, image.entities):
            continue
        name = _shared_name(parse_name(file.path))
        rank, best = (len(file.path.parents), len(entities)), rank_of.get(name, (-1, -1))
        if rank == best:
            raise MetadataError(
                f"{image.path}: two tables apply equally well: {found[name]} and {file.path}.",
                "Remove one of them, or tell them apart by a recording-LABEL in their names.",
            )
        if rank > best:
            found[name], rank_of[name] = file.path, rank
    # Folders are searched for the sidecars of the tables that are used, and of no other.
    return tuple(continuous_file(found[name]) for name in sorted(found))


def _shared_name(file: BidsFile) -> str:
    shared = [f"{name}-{label}" for name, label in file.entities.items() if name not in RUN_ENTITIES]
    return "_".join([*shared, file.suffix])


def continuous_file(path: Path) -> ContinuousFile:
    """Find the sidecars of a continuous table: beside it, and in the folders above up to the root of the dataset."""
    file, sidecars = parse_name(path), list[Path]()
    for folder in _folders(path):
        candidates = [parse_name(each) for each in sorted(folder.glob(f"*{file.suffix}.json"))]
        applicable = [
            each for each in candidates if each.suffix == file.suffix and applies_to(each.entities, file.entities)
        ]
        sidecars += [each.path for each in sorted(applicable, key=lambda each: len(each.entities))]
    return ContinuousFile(path=path, sidecars=tuple(sidecars))


def _folders(path: Path) -> list[Path]:
    """Folders of a file from the root of its dataset down; the file's own folder alone where there is no root."""
    folders = list[Path]()
    for folder in path.absolute().parents:
        folders.append(folder)
        if (folder / "dataset_description.json").exists():
            return folders[::-1]
    return folders[:1]


def read_continuous(file: ContinuousFile) -> ContinuousTable:
    """Read a continuous table. Columns of text, and those of the scanner's pulses and the clock, are left out.

    Parameters
    ----------
    file : ContinuousFile

    Raises
    ------
    InputNotFoundError
        The table does not exist.
    MetadataError
        The sidecar lacks ``Columns``, ``SamplingFrequency`` or ``StartTime``; the table is damaged or has a header row;
        the two have different numbers of columns.
    """
    import pandas as pd

    sidecar = dict[str, Any]()
    for path in file.sidecars:
        sidecar |= read_json(path)
    names = _column_names(file.path, sidecar)
    frequency, start_s = (_number(file.path, sidecar, key) for key in ("SamplingFrequency", "StartTime"))
    if frequency <= 0:
        raise MetadataError(
            f"{file.path}: expected a SamplingFrequency above 0 Hz in its sidecar, found {frequency:g}.",
            "Correct the JSON sidecar.",
        )
    table = _read_rows(file.path, names)
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in names if name not in _NO_CONTENT}
    texts = [name for name in numbers if (numbers[name].isna() & table[name].notna()).any()]
    if texts:
        logger.warning("%s: holds text in the columns %s: they are left out.", file.path, ", ".join(texts))
    kept = [name for name in numbers if name not in texts]
    values = np.column_stack([numbers[name].to_numpy(float) for name in kept]) if kept else np.empty((len(table), 0))
    return ContinuousTable(
        columns=tuple(kept),
        values=np.where(np.isfinite(values), values, np.nan),
        sampling_frequency_hz=frequency,
        start_s=start_s,
    )


def _column_names(path: Path, sidecar: dict[str, Any]) -> list[str]:
    names = sidecar.get("Columns")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise MetadataError(
            f"{path}: expected the names of its columns as `Columns` in its JSON sidecar, found {names!r}.",
            'Write {"Columns": ["NAME", ...], "SamplingFrequency": HZ, "StartTime": SECONDS} into the sidecar.',
        )
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise MetadataError(f"{path}: `Columns` in its sidecar repeats {', '.join(repeated)}.", "Correct the sidecar.")
    return names


def _number(path: Path, sidecar: dict[str, Any], key: str) -> float:
    value = sidecar.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MetadataError(
            f"{path}: expected a number as `{key}` in its JSON sidecar, found {value!r}.",
            "BIDS requires Columns, SamplingFrequency (Hz) and StartTime (s from the first volume); write them there.",
        )
    return float(value)


def _read_rows(path: Path, names: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such table.", "Check the path.")
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            header=None,
            quoting=csv.QUOTE_NONE,
            na_values=["n/a"],
            # An empty row is a row: without it all later ones would move.
            skip_blank_lines=False,
            low_memory=False,
        )
    # A truncated file raises EOFError, a damaged one zlib's error.
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise MetadataError(
            f"{path}: not a readable table: {error}.", "Expected gzipped, tab-separated text."
        ) from error
    if table.shape[1] != len(names):
        raise MetadataError(
            f"{path}: expected {len(names)} columns, as `Columns` of its sidecar has, found {table.shape[1]}.",
            "Correct the sidecar or the table; columns are separated by tabs.",
        )
    if [str(value) for value in table.iloc[0]] == list(names):
        raise MetadataError(
            f"{path}: its first row repeats the names of the columns; in BIDS such a table has no header row.",
            "Remove the first row.",
        )
    table.columns = pd.Index(names)
    return table


def resample(table: ContinuousTable, times_s: np.ndarray, repetition_time_s: float) -> np.ndarray:
    """Resample the columns of a table to volumes.

    From one row a volume on, each volume has the mean of what the rows say during it, ``[t, t + TR)``; a row holds from
    its time until the next one. Slower tables are interpolated linearly between rows, at ``t``.

    Parameters
    ----------
    table : ContinuousTable
    times_s : numpy.ndarray
        Beginning of each volume (less the delay of the response), ``(time,)``, in seconds.
    repetition_time_s : float

    Returns
    -------
    numpy.ndarray
        float64 ``(time, columns)``; NaN before the table begins and after it ends, in gaps (``n/a``) that take more
        than half of a volume, and between two rows of a slow table of which one has no value.
    """
    first = np.round((times_s - table.start_s) * table.sampling_frequency_hz, _ROUNDING_DECIMALS)
    rows_per_volume = repetition_time_s * table.sampling_frequency_hz
    if rows_per_volume < _MIN_ROWS_PER_VOLUME:
        return _interpolate(table.values, first)
    return _interval_means(table.values, first, np.round(first + rows_per_volume, _ROUNDING_DECIMALS))


def _interval_means(values: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Mean of each column from position `first` to position `stop`, in rows, weighted by what is covered of a row."""
    edges, means = np.arange(len(values) + 1), np.full((len(first), values.shape[1]), np.nan)
    for column, series in enumerate(values.T):
        present = np.isfinite(series)
        if not present.any():
            continue
        # Less the mean: sums over long tables keep their digits.
        center = series[present].mean()
        sums = np.append(0, np.cumsum(np.where(present, series - center, 0)))
        counts = np.append(0, np.cumsum(present))
        covered = np.interp(stop, edges, counts) - np.interp(first, edges, counts)
        enough = covered >= _MIN_COVERED * (stop - first)
        total = np.interp(stop, edges, sums) - np.interp(first, edges, sums)
        means[enough, column] = center + total[enough] / covered[enough]
    return means


def _interpolate(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Value of each column at a position in rows; NaN outside the table."""
    inside = (position >= 0) & (position <= len(values) - 1)
    below = np.floor(position[inside]).astype(int)
    above, weight = np.ceil(position[inside]).astype(int), (position[inside] - below)[:, None]
    interpolated = np.full((len(position), values.shape[1]), np.nan)
    # On a row, its neighbors don't count.
    interpolated[inside] = np.where(weight > 0, (1 - weight) * values[below] + weight * values[above], values[below])
    return interpolated
