"""Tables as text: aligned Markdown that reads well on a terminal, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS, LEAD_TIME_S, METRICS, Kind

NOT_AVAILABLE = "n/a"
"""A missing value, in files and on pages alike."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose columns are aligned.

    Parameters
    ----------
    header : sequence of str
        Titles of the columns.
    rows : sequence of sequence of str
        Cells, as many in each row as there are titles.

    Returns
    -------
    str
        The header, a rule, and a line for each row; no line break at the end.

    Raises
    ------
    ValueError
        A row has more or fewer cells than there are titles.
    """
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (header, rule, *rows)
    )


def format_interval(row: Mapping[str, Any] | pd.Series, metric: str, decimals: int = 3) -> str:
    """Write a mean and its 95 % interval: ``0.030 [0.010, 0.050]``.

    Parameters
    ----------
    row : mapping or pandas.Series
        With `metric`, and the ends of its interval in ``<metric>_low`` and ``<metric>_high``.
    metric : str
        Name of the column.
    decimals : int
        Of each number.

    Returns
    -------
    str
        The mean alone where there is no interval; ``n/a`` where there is no mean.
    """
    mean, low, high = (float(row[f"{metric}{end}"]) for end in ("", "_low", "_high"))
    if math.isnan(mean):
        return NOT_AVAILABLE
    # No negative zero.
    mean, low, high = (round(value, decimals) + 0.0 for value in (mean, low, high))
    interval = "" if math.isnan(low) else f" [{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{mean:.{decimals}f}{interval}"


def format_table(table: pd.DataFrame, metrics: Sequence[str] = METRICS) -> str:
    """Lay out the forecast table as Markdown: a line for each row and lead time.

    Parameters
    ----------
    table : pandas.DataFrame
        Returned by `scores_table`, or read from its file.
    metrics : sequence of str
        Columns that have an interval.

    Returns
    -------
    str
        Aligned lines; 95 % intervals in brackets.
    """
    header = ["model", "kind", "lead time (time points)", "lead time (s)", *metrics]
    rows = [
        [
            str(row["model"]),
            Kind(row["kind"]).label,
            f"{row[LEAD_TIME_POINTS]:g}",
            f"{row[LEAD_TIME_S]:g}",
            *(format_interval(row, metric) for metric in metrics),
        ]
        for _, row in table.iterrows()
    ]
    return markdown_table(header, rows)
