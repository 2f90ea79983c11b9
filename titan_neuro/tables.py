"""Tab-separated tables (TSV) as BIDS defines them: one reader and one writer for the whole project.

TSV has no quoting: a quotation mark is an ordinary character, and a cell ends at the next tab or end of line. Readers
of CSV, pandas' among them, take a cell that begins with a quotation mark for one that extends to the next mark, over as
many lines as that takes (BIDS 1.10, "Tabular files"; pandas issue 39857).

Spreadsheets take a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, and compute it. Text of that kind
(the name of a parcel, a trial type) is written behind an apostrophe, as spreadsheets themselves mark text; the readers
here take it off again. Numbers are no text: -0.5 stays -0.5.
"""

from __future__ import annotations

import csv
import gzip
import logging
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from titan_neuro.errors import InputNotFoundError, MetadataError, TitanNeuroError
from titan_neuro.files import atomic

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

MISSING = frozenset({"n/a", "", "NA", "N/A"})
"""Cells without a value: BIDS' ``n/a``, an empty cell, and what R and spreadsheets write."""

# What a spreadsheet would compute, some of them also of wide characters; and such text behind apostrophes.
_FORMULA = re.compile(r"'*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# As pandas writes a number. A label such as 007 is none.
_WRITTEN_NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?(e[+-]\d+)?|inf)|nan")

# The name that pandas gives to a column without one, and writes when it saves the table again.
_UNNAMED = re.compile(r"(Unnamed: \d+)?")


def read_tsv(
    path: Path,
    *,
    required: Sequence[str] = (),
    blank_lines: bool = False,
    hint: str = "Correct the table: tab-separated cells, as many in every line as in the header, in UTF-8.",
    error: type[TitanNeuroError] = MetadataError,
) -> pd.DataFrame:
    """Read a table with a header; every cell stays text.

    A column without a name (row numbers, as pandas and R write them) is left out. An apostrophe that keeps spreadsheets
    from computing a cell (see `write_tsv`) is not part of its text.

    Parameters
    ----------
    path : Path
        ``*.tsv``, or compressed ``*.tsv.gz``.
    required : sequence of str
        Columns that the table must have.
    blank_lines : bool
        Whether blank lines are skipped. At the end of the table they always are; elsewhere they would shift the rows of
        a time series.
    hint : str
        What to do about a table that can't be used, for the message.
    error : type of TitanNeuroError
        Class of the error for content that can't be used.

    Returns
    -------
    pandas.DataFrame
        ``(rows, columns)`` of str; the index holds the number of each row's line in the file, counted from 1.

    Raises
    ------
    InputNotFoundError
        The file is missing, or this user may not read it.
    MetadataError
        The file is not text in UTF-8; it is empty; a line has another number of cells than the header; two columns have
        one name; a required column is missing. (Or `error`, where given.)
    """
    import pandas as pd

    lines = _read_lines(path, hint, error)
    line_numbers = [number for number, line in enumerate(lines, start=1) if line or not blank_lines]
    lines = [line for line in lines if line or not blank_lines]
    if not lines:
        raise error(f"{path}: expected a table with a header, found an empty file.", hint)
    header, *rows = lines
    names, cells = _read_cells(header), _read_cells("\t".join(rows)) if rows else []
    n_cells = _cells_per_row(path, names, rows, line_numbers[1:], hint, error)
    if n_cells > len(names):
        # Every row has one cell more: a tab at the end of the line, or the name of the row, as R writes tables.
        names = ["", *names] if any(cells[n_cells - 1 :: n_cells]) else [*names, ""]
    columns = {name: cells[position::n_cells] for position, name in _named(path, names, cells, hint, error).items()}
    missing = [name for name in required if name not in columns]
    if missing:
        raise error(
            f"{path}: expected the columns {', '.join(required)}, found {', '.join(columns)}.",
            "TSV has no quoting: write names without quotation marks." if '"' in header else hint,
        )
    return pd.DataFrame(columns, index=pd.Index(line_numbers[1:], dtype=np.int64), dtype=object)


def _read_lines(path: Path, hint: str, error: type[TitanNeuroError]) -> list[str]:
    """Lines of a file, without blank ones at its end."""
    if path.exists() and not path.is_file():
        # A named pipe, say: reading it would wait for ever.
        raise InputNotFoundError(f"{path}: can't be read: it is no file.", hint)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read().decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise error(f"{path}: is not a readable table: {cause}.", hint) from cause
    except OSError as cause:
        raise InputNotFoundError(f"{path}: can't be read: {cause.strerror or cause}.", hint) from cause
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _read_cells(line: str) -> list[str]:
    return [_unguard(cell) for cell in line.split("\t")]


def _guard(cell: object) -> object:
    """Put an apostrophe before text that a spreadsheet would compute."""
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def _unguard(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def _cells_per_row(
    path: Path,
    names: Sequence[str],
    rows: Sequence[str],
    line_numbers: Sequence[int],
    hint: str,
    error: type[TitanNeuroError],
) -> int:
    """Check that all rows have as many cells as the header, or all of them one more."""
    counts = [row.count("\t") + 1 for row in rows]
    expected = len(names) + 1 if set(counts) == {len(names) + 1} else len(names)
    for number, count in zip(line_numbers, counts, strict=True):
        if count != expected:
            raise error(f"{path}: line {number}: expected {expected} cells, found {count}.", hint)
    return expected


def _named(
    path: Path, names: Sequence[str], cells: Sequence[str], hint: str, error: type[TitanNeuroError]
) -> dict[int, str]:
    """Names of the columns that have one, by their position."""
    named = {position: name for position, name in enumerate(names) if not _UNNAMED.fullmatch(name)}
    for position in range(len(names)):
        if position not in named and any(cells[position :: len(names)]):
            logger.warning("%s: column %d has no name; it is left out.", path, position + 1)
    name, count = Counter(named.values()).most_common(1)[0] if named else ("", 0)
    if count > 1:
        raise error(f"{path}: expected each column once, found {count} of the name {name!r}.", hint)
    return named


def numbers(
    path: Path,
    column: pd.Series,
    *,
    hint: str = "Correct the table.",
    error: type[TitanNeuroError] = MetadataError,
) -> np.ndarray:
    """Convert a column of text to numbers.

    Parameters
    ----------
    path : Path
        Of the table, for messages.
    column : pandas.Series
        A column of `read_tsv`.
    hint : str
        What to do about a cell that is no number, for the message.
    error : type of TitanNeuroError
        Its class.

    Returns
    -------
    numpy.ndarray
        float64 ``(rows,)``; NaN for the cells in `MISSING`, and where the table says ``nan``.

    Raises
    ------
    MetadataError
        A cell is neither a number nor missing; the message names line and column. (Or `error`, where given.)
    """
    values = []
    for text in column:
        try:
            # Python reads 1_000 as a number, too.
            values.append(math.nan if text in MISSING else float(text.replace("_", "?")))
        except ValueError as cause:
            line = column.index[len(values)]
            raise error(
                f"{path}: line {line}, column {column.name!r}: expected a number or n/a, found {text!r}.", hint
            ) from cause
    return np.array(values, dtype=np.float64)


def read_text_table(path: Path, *, separator: str = "\t") -> pd.DataFrame:
    """Read a table that Titan-Neuro wrote; every cell stays text, as it was before `write_tsv` guarded it.

    Raises
    ------
    MetadataError
        The file is empty or no table.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)
    except ValueError as error:  # also pandas' errors of a parser, of an empty file, and of text that is not UTF-8
        raise MetadataError(
            f"{path}: can't be read as a table that Titan-Neuro wrote: {error}.",
            "Remove the file, and run the command that makes it again.",
        ) from error
    return table.map(_unguard).rename(columns=_unguard)


def read_written_tsv(path: Path) -> pd.DataFrame:
    """Read a table of `write_tsv`; columns of numbers become numbers, those of True and False become booleans.

    Raises
    ------
    MetadataError
        The file is empty or no table.
    """
    table = read_text_table(path)
    for name, column in table.items():
        if len(column) and set(column) <= {"True", "False"}:
            table[name] = column == "True"
        elif all(cell == "n/a" or _WRITTEN_NUMBER.fullmatch(cell) for cell in column):
            kind = int if all(cell.lstrip("-").isdecimal() for cell in column) else float
            table[name] = [np.nan if cell == "n/a" else kind(cell) for cell in column]
        else:
            table[name] = column.replace("n/a", np.nan)
    return table


def write_tsv(path: Path, table: pd.DataFrame, *, float_format: str | None = None) -> None:
    """Write a table that `read_tsv` reads back, atomically: without index, ``n/a`` for missing values.

    Names and text that a spreadsheet would take for a formula begin with an apostrophe in the file.

    Parameters
    ----------
    path : Path
    table : pandas.DataFrame
        Its text must not contain tabs or ends of lines.
    float_format : str, optional
        ``%.6g``; by default all digits.

    Raises
    ------
    OutputError
        The folder can't be written.
    """
    import pandas as pd

    guarded = table.set_axis([_guard(name) for name in table.columns], axis="columns")
    for position, dtype in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            guarded.isetitem(position, [_guard(cell) for cell in table.iloc[:, position]])
    with atomic(path) as temporary:
        guarded.to_csv(
            temporary, sep="\t", index=False, na_rep="n/a", float_format=float_format, quoting=csv.QUOTE_NONE
        )
