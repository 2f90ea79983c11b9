"""What all figures share: fonts, colors and markers, and their way into the page.

Figures are `matplotlib.figure.Figure` objects, not registered with pyplot: they need no display and no closing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from titan_neuro.evaluation.metrics_and_rows import (
    ANALOGS,
    AR,
    DAMPED,
    GRU,
    INTERSUBJECT_AVERAGE,
    INTERSUBJECT_AVERAGE_AR,
    LINEAR_ONLINE,
    MEAN,
    PERSISTENCE,
    SOFT_ANALOGS,
    TRANSFORMER_20,
    VAR,
    VAR_ONLINE,
    Kind,
)

INK, MUTED, RULE = "#1f2933", "#616e7c", "#d9dee4"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    # Text as outlines: the page looks the same on a machine without these fonts.
    "svg.fonttype": "path",
    "svg.hashsalt": "titan-neuro",
}


class RowStyle(NamedTuple):
    """Hexadecimal color and matplotlib marker of a row."""

    color: str
    marker: str


# Okabe and Ito's palette (2008), which the usual color-vision deficiencies don't confuse; markers repeat it.
_BLUE, _SKY, _GREEN, _ORANGE, _RED, _PINK = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7"
_WINDOW_MARKERS = ("<", "s", ">")
_ROW_STYLES = {
    MEAN: RowStyle("#7b8794", "s"),
    PERSISTENCE: RowStyle(_ORANGE, "^"),
    DAMPED: RowStyle(_ORANGE, "v"),
    AR: RowStyle(_BLUE, "D"),
    VAR: RowStyle(_BLUE, "P"),
    VAR_ONLINE: RowStyle(_SKY, "P"),
    LINEAR_ONLINE: RowStyle(_SKY, "D"),
    GRU: RowStyle(_PINK, "X"),
    TRANSFORMER_20: RowStyle(_PINK, "d"),
    **{name: RowStyle("#7fbfa8", marker) for name, marker in zip(ANALOGS, _WINDOW_MARKERS, strict=True)},
    **{name: RowStyle(_GREEN, marker) for name, marker in zip(SOFT_ANALOGS, _WINDOW_MARKERS, strict=True)},
    INTERSUBJECT_AVERAGE: RowStyle(INK, "*"),
    INTERSUBJECT_AVERAGE_AR: RowStyle(INK, "p"),
}
_OTHER_STYLES = (
    *(RowStyle(_RED, "o"), RowStyle(_GREEN, "v"), RowStyle(_PINK, "P"), RowStyle(_SKY, "X")),
    *(RowStyle(_ORANGE, "D"), RowStyle(_BLUE, "^"), RowStyle(INK, "s"), RowStyle(_RED, "d")),
)

AR_COLOR = _ROW_STYLES[AR].color
"""Color of linear autoregression, and of the zero line that stands for it."""
MODEL_COLOR = _OTHER_STYLES[0].color
"""Color of the study's model, the first of the rows without a style of their own."""
BASELINE_COLOR, CEILING_COLOR = _BLUE, INK
"""Colors of the best baseline and of the noise ceiling beside the study's model."""
LINE_STYLES: dict[Kind, Any] = {
    Kind.MODEL: "-",
    Kind.CONTROL: (0, (4, 2)),
    Kind.COMPARISON_MODEL: "-",
    Kind.BASELINE: "-",
    Kind.ORACLE_REFERENCE: (0, (1, 1.5)),
}
"""Dashes of the lines: controls and oracle references are not forecasters in their own right."""


def row_styles(models: Sequence[str]) -> dict[str, RowStyle]:
    """Color and marker of each row, the same in every figure of a report.

    Parameters
    ----------
    models : sequence of str
        Names in the order of the table.
    """
    others = iter(_OTHER_STYLES * (1 + len(models) // len(_OTHER_STYLES)))
    return {model: _ROW_STYLES.get(model) or next(others) for model in models}


def svg_uri(figure: Figure) -> str:
    """Draw `figure` as SVG and wrap it as a ``data:`` URI."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def png_uri(figure: Figure) -> str:
    """Draw `figure` as PNG at two pixels per CSS pixel and wrap it as a ``data:`` URI."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=192)
    return _png_data(buffer)


def pixels_uri(pixels: np.ndarray) -> str:
    """Wrap pixels, uint8 ``(rows, columns, 3)``, as the ``data:`` URI of a PNG, one pixel each."""
    from PIL import Image

    buffer = io.BytesIO()
    # A palette: a third of the size, and colors of maps are few.
    Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return _png_data(buffer)


def _png_data(buffer: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def plain(text: str) -> str:
    """Escape `text` for matplotlib: no formulas, no letters that the font lacks, no hidden label."""
    escaped = text.encode("ascii", "backslashreplace").decode("ascii").replace("$", r"\$")
    # matplotlib leaves a label that begins with an underscore out of the legend.
    return f" {escaped}" if escaped.startswith("_") else escaped
