"""Figures of the probes: values over a course, or condition by condition, beside their null distribution."""

from __future__ import annotations

import math
import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from titan_neuro.report.style import MUTED, RULE, STYLE, plain

_COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2933")
_MARKERS = "osD^vPX*<>"
# Longer labels would leave the figure where two stand side by side.
_LETTERS_OF_TWO_COLUMNS = 34


@matplotlib.rc_context(STYLE)
def probe_figure(rows: pd.DataFrame, title: str, x_label: str) -> Figure:
    """Draw rows of a probe: lines over `x` where there are several values of it, else one condition below the other.

    Parameters
    ----------
    rows : pandas.DataFrame
        Columns of `titan_neuro.probing.tools.results.SCORES`, and `label`, the name of each row.
    title : str
    x_label : str
        Title of `x`, with its unit.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = rows[rows["value"].notna()]
    is_course = rows["x"].nunique() > 1
    n_columns = 1 if rows["label"].str.len().max() > _LETTERS_OF_TWO_COLUMNS else 2
    legend_height = 0.19 * math.ceil(rows["label"].nunique() / n_columns)
    figure = Figure(figsize=(4.9, 3.0 + legend_height if is_course else 1.2 + 0.36 * len(rows)))
    axes = figure.add_subplot()
    if is_course:
        _draw_courses(axes, rows)
        axes.set(xlabel=textwrap.fill(plain(x_label), 58))
        figure.legend(loc="outside lower center", ncols=n_columns, fontsize=8, handlelength=1.6)
    else:
        _draw_conditions(axes, rows)
    # Above the whole figure: the axes beside long labels are narrow.
    figure.suptitle(textwrap.fill(plain(title), 52), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _draw_courses(axes: Axes, rows: pd.DataFrame) -> None:
    for rank, (label, course) in enumerate(rows.groupby("label", sort=False)):
        course = course.sort_values("x")
        is_control = bool(course["is_control"].iloc[0])
        color = MUTED if is_control else _COLORS[rank % len(_COLORS)]
        if not is_control:
            axes.fill_between(course["x"], course["low"], course["high"], color=color, alpha=0.12, linewidth=0)
        axes.plot(
            course["x"],
            course["value"],
            linestyle="--" if is_control else "-",
            marker=_MARKERS[rank % len(_MARKERS)],
            color=color,
            markersize=4.5,
            label=plain(str(label)),
        )
        if course["null"].notna().any():
            axes.fill_between(
                course["x"], course["null_low"], course["null_high"], color=RULE, alpha=0.6, linewidth=0, zorder=0
            )
    ticks = sorted(set(rows["x"].dropna()))
    if ticks[0] > 0:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    _show_the_model(axes, rows[~rows["is_control"].astype(bool)])
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    axes.grid(axis="y", color=RULE, linewidth=0.6)


def _show_the_model(axes: Axes, rows: pd.DataFrame) -> None:
    """End the axis at twice the range of the model's intervals: an untrained control may be ten times as large."""
    drawn = rows[["value", "low", "high"]].to_numpy(float)
    if not np.isfinite(drawn).any():
        return
    low, high = min(0.0, float(np.nanmin(drawn))), max(0.0, float(np.nanmax(drawn)))
    room = max(high - low, 1e-3) / 2
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room))


def _draw_conditions(axes: Axes, rows: pd.DataFrame) -> None:
    positions = np.arange(len(rows))[::-1]
    for position, (_, row) in zip(positions, rows.iterrows(), strict=True):
        color = MUTED if row["is_control"] else _COLORS[0]
        height = (position - 0.35, position + 0.35)
        if np.isfinite(row["null_low"]):
            axes.fill_betweenx(height, row["null_low"], row["null_high"], color=RULE, linewidth=0)
        if np.isfinite(row["null"]):
            axes.plot([row["null"]] * 2, height, color=MUTED, linewidth=1)
        if np.isfinite(row["low"]):
            axes.hlines(position, row["low"], row["high"], color=color, linewidth=1.4)
        axes.plot(row["value"], position, "s" if row["is_control"] else "o", color=color, markersize=5.5)
    axes.set_yticks(positions, [textwrap.fill(plain(label), 30) for label in rows["label"]], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
