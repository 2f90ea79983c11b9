"""Tables and sidecars of an output folder, checked while they are read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from titan_neuro.errors import MetadataError
from titan_neuro.evaluation.formatting import NOT_AVAILABLE
from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS
from titan_neuro.files import read_json
from titan_neuro.tables import read_text_table

HINT = "Run the stage that wrote the file again; the files of the output folder are not meant to be edited."
"""What to do about a file that can't be used."""

_WHOLE_NUMBERS = frozenset({LEAD_TIME_POINTS, "n_subjects", "n_runs", "n_time_points", "n_seeds", "n_targets", "epoch"})


def read_table(path: Path, text: Sequence[str], numbers: Sequence[str], *, separator: str = "\t") -> pd.DataFrame:
    """Read a table whose columns are known.

    Parameters
    ----------
    path : Path
    text : sequence of str
        Columns that stay text.
    numbers : sequence of str
        Columns of numbers; ``n/a`` and empty cells become NaN. Counts, lead times and epochs become integers.
    separator : str
        Between the cells of a line.

    Returns
    -------
    pandas.DataFrame
        All columns of the file, ``(rows, columns)``, with one row at least.

    Raises
    ------
    MetadataError
        The file is no table, lacks a column or has no row, or a cell is not a number where one is expected.
    """
    # Everything is read as text first: a subject named NA or 007 must stay what it is.
    table = read_text_table(path, separator=separator)
    missing = [column for column in (*text, *numbers) if column not in table]
    if missing:
        columns = ", ".join(map(str, table.columns))
        raise MetadataError(f"{path}: lacks the columns {', '.join(missing)}; found {columns}.", HINT)
    if table.empty:
        raise MetadataError(f"{path}: the table has no row.", HINT)
    for column in numbers:
        table[column] = _numbers(path, column, list(table[column]))
        if column in _WHOLE_NUMBERS:
            table[column] = table[column].astype(int)
    return table


def _numbers(path: Path, column: str, cells: Sequence[str]) -> list[float]:
    try:
        values = [math.nan if cell in {NOT_AVAILABLE, ""} else float(cell) for cell in cells]
    except ValueError as error:
        raise MetadataError(f"{path}: column {column}: expected a number or n/a: {error}.", HINT) from error
    fractions = [value for value in values if not value.is_integer()]
    if column in _WHOLE_NUMBERS and fractions:
        raise MetadataError(f"{path}: column {column}: expected a whole number, found {fractions[0]}.", HINT)
    return values


def read_parcels(path: Path) -> pd.DataFrame:
    """Read a map of parcels.

    Parameters
    ----------
    path : Path
        A ``_statmap.tsv``.

    Returns
    -------
    pandas.DataFrame
        Columns ``parcel`` (text) and ``value`` (float; NaN where ``n/a``), in the order of the atlas.

    Raises
    ------
    MetadataError
        A column is missing, or a value is no number.
    """
    return read_table(path, ("parcel",), ("value",))


def read_sidecar(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read the JSON beside a table or an image.

    Parameters
    ----------
    path : Path
        The table or image.
    keys : sequence of str
        Keys that the sidecar must have.

    Returns
    -------
    dict

    Raises
    ------
    MetadataError
        The sidecar is missing, is no JSON object, or lacks a key.
    """
    sidecar = path.with_name(re.sub(r"(\.nii\.gz|\.tsv)$", ".json", path.name))
    if not sidecar.is_file():
        raise MetadataError(f"{path}: its sidecar {sidecar.name} is missing.", HINT)
    return read_json(sidecar, keys=keys, hint=HINT)
