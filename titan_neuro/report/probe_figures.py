"""Figures of the probes: values over a course, or condition by condition beside their null distributions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

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
# Two values make no course: what differs between them is easier to see one below the other.
_SHORTEST_COURSE = 3
_LETTERS_OF_CONDITIONS = 40


@matplotlib.rc_context(STYLE)
def probe_figure(rows: pd.DataFrame, title: str, x_label: str) -> Figure:
    """Draw rows of a probe: lines over `x` where a row has three values of it, else one condition below the other.

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
    if is_course(rows):
        n_columns = 1 if rows["label"].str.len().max() > _LETTERS_OF_TWO_COLUMNS else 2
        figure = Figure(figsize=(4.9, 3.0 + 0.19 * math.ceil(rows["label"].nunique() / n_columns)))
        axes = figure.add_subplot()
        _draw_courses(axes, rows)
        axes.set(xlabel=textwrap.fill(plain(x_label), 58))
        figure.legend(loc="outside lower center", ncols=n_columns, fontsize=8, handlelength=1.6)
    else:
        rows, are_numbered = _numbered(rows)
        labels = [textwrap.fill(plain(label), _LETTERS_OF_CONDITIONS) for label in rows["label"]]
        n_lines = max(label.count("\n") + 1 for label in labels)
        figure = Figure(figsize=(4.9, 1.0 + (0.14 + 0.11 * n_lines) * len(rows)))
        axes = figure.add_subplot()
        _draw_conditions(axes, rows, labels)
        if are_numbered:
            axes.set(xlabel=textwrap.fill(plain(f"In brackets: {x_label[:1].lower()}{x_label[1:]}"), 44))
    # Above the whole figure: the axes beside long labels are narrow.
    figure.suptitle(textwrap.fill(plain(title), 52), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def is_course(rows: pd.DataFrame) -> bool:
    """Whether rows of a probe are drawn as lines over `x`."""
    return int(rows.groupby("label")["x"].nunique().max()) >= _SHORTEST_COURSE


def hides_nulls(rows: pd.DataFrame) -> bool:
    """Whether null distributions are left out: over the same course, those of several curves can't be told apart."""
    return is_course(rows) and rows.loc[~rows["is_control"].astype(bool), "label"].nunique() > 1


def _numbered(rows: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Put rows of one label below each other, with `x` behind the label; False where each label is there once."""
    if not rows["label"].duplicated().any() or rows["x"].isna().any():
        return rows, False
    first_comes_first = {label: rank for rank, label in enumerate(dict.fromkeys(rows["label"]))}
    rows = rows.sort_values("label", key=lambda labels: labels.map(first_comes_first), kind="stable")
    return rows.assign(label=[f"{label} ({x:g})" for label, x in zip(rows["label"], rows["x"], strict=True)]), True


def _draw_courses(axes: Axes, rows: pd.DataFrame) -> None:
    has_null = not hides_nulls(rows)
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
        # A control's would lie over that of the model.
        if has_null and not is_control and course["null"].notna().any():
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


def _draw_conditions(axes: Axes, rows: pd.DataFrame, labels: Sequence[str]) -> None:
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
    axes.set_yticks(positions, labels, fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
