"""Curves of the report: scores over lead time, over the length of the context, and over epochs of training.

Each figure is one panel, so that a page can set two of them side by side or below each other.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from titan_neuro.evaluation.metrics_and_rows import AR, LEAD_TIME_POINTS, LEAD_TIME_S, METRICS_BY_NAME, Kind
from titan_neuro.report.axes import draw_ar_line, draw_interval, fit_y_axis, set_log_axis
from titan_neuro.report.results import lead_times_of
from titan_neuro.report.style import INK, LINE_STYLES, MODEL_COLOR, MUTED, RULE, STYLE, plain, row_styles

# With more lines, intervals and subjects are drawn of the study's model alone; the table has all of them.
_FEW_LINES = 6
# Characters of a name of which three fit side by side; inches of a line of the legend.
_LONGEST_OF_THREE, _LEGEND_LINE = 22, 0.15


def _axis_label(metric: str) -> str:
    """The metric in words, in lines that fit the height of a figure."""
    return textwrap.fill(METRICS_BY_NAME[metric].label, 32)


@matplotlib.rc_context(STYLE)
def lead_time_figure(
    scores: pd.DataFrame, subjects: pd.DataFrame | None, metric: str, main_model: str, *, title: str = ""
) -> Figure:
    """Score over lead time: a line per row; of few rows, or of the study's model, 95 % interval and subjects as dots.

    The axis fits `main_model` and its subjects; a row far below is named in the panel instead of pressing all others
    into a line.

    Parameters
    ----------
    scores : pandas.DataFrame
        The forecast table, or that of the rollouts.
    subjects : pandas.DataFrame or None
        The same per subject.
    metric : {"skill_ar", "r2"}
        Column to draw.
    main_model : str
        Name of the study's model.
    title : str
        By default the name of the metric.

    Returns
    -------
    matplotlib.figure.Figure
    """
    models = list(dict.fromkeys(scores["model"]))
    # Against itself linear autoregression scores zero: in that panel it is the zero line, not a curve.
    drawn = [model for model in models if not (metric == "skill_ar" and model == AR)]
    few = len(drawn) <= _FEW_LINES
    figure = Figure(figsize=(4.9, 3.7 if scores["model"].nunique() <= _FEW_LINES else 5.4))
    axes = figure.add_subplot()
    styles = row_styles(models)
    core: list[float] = [0.0]
    for rank, model in enumerate(drawn):
        rows = scores[scores["model"] == model].sort_values(LEAD_TIME_POINTS)
        is_main = model == main_model
        dots = subjects[subjects["model"] == model] if subjects is not None and (few or is_main) else rows.iloc[:0]
        shift = 1.045 ** (rank - (len(drawn) - 1) / 2) if few else 1.0
        line = _line_style(Kind(rows["kind"].iloc[0]), few=few, is_main=is_main)
        _draw_row(axes, rows, dots, metric, shift, few or is_main, {**line, **styles[model]._asdict()})
        if is_main or model == AR:
            core += [*rows[metric], *rows[f"{metric}_low"], *rows[f"{metric}_high"], *(dots[metric] if is_main else [])]
        elif metric == "skill_ar":
            # Every row above the zero line is on the scale.
            core += [max(value, 0.0) for value in rows[metric]]
    if metric == "skill_ar":
        draw_ar_line(axes)
    else:
        axes.axhline(0, color=MUTED, linewidth=1, zorder=2)
    fit_y_axis(axes, core, {model: scores.loc[scores["model"] == model, metric] for model in drawn})
    seconds = dict(zip(scores[LEAD_TIME_POINTS], scores[LEAD_TIME_S], strict=True))
    lead_times = lead_times_of(scores)
    set_log_axis(axes, lead_times, [f"{points}\n{seconds[points]:g} s" for points in lead_times])
    axes.set(xlabel="lead time h (time points; seconds)", ylabel=_axis_label(metric), title=title or metric)
    columns = min(4 if few else 3, max(1, len(drawn)))
    if not few and max(map(len, drawn)) > _LONGEST_OF_THREE:
        # Three columns would be wider than the figure; two are longer.
        columns = 2
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * (len(drawn) / 2 - len(drawn) / 3))
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8.5 if few else 7)
    return figure


@matplotlib.rc_context(STYLE)
def headline_figure(rows: Sequence[tuple[str, str, pd.DataFrame]]) -> Figure:
    """Skill over lead time in seconds, of few rows, each with its 95 % interval.

    Parameters
    ----------
    rows : sequence of (str, str, pandas.DataFrame)
        Label, color, and the columns ``lead_time_s`` and `skill_ar` with the ends of its interval; at most one row for
        each color.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.9, 3.1))
    axes = figure.add_subplot()
    core: list[float] = [0.0]
    for rank, (label, color, table) in enumerate(rows):
        x = table[LEAD_TIME_S].to_numpy(float)
        draw_interval(axes, x, table["skill_ar_low"], table["skill_ar_high"], color)
        line: dict[str, Any] = {
            "color": color,
            "marker": "osD"[rank % 3],
            "linewidth": 2.2 if rank == 0 else 1.6,
            "zorder": 6 - rank,
        }
        axes.plot(x, table["skill_ar"], label=plain(label), **line)
        core += [*table["skill_ar"], *table["skill_ar_low"], *table["skill_ar_high"]]
    draw_ar_line(axes)
    fit_y_axis(axes, core, {})
    seconds = sorted({float(value) for _, _, table in rows for value in table[LEAD_TIME_S]})
    set_log_axis(axes, seconds, [f"{value:g}" for value in seconds])
    axes.set(xlabel="how far ahead (s)", ylabel=_axis_label("skill_ar"))
    figure.legend(loc="outside lower center", ncols=min(3, len(rows)), fontsize=8.5)
    return figure


@matplotlib.rc_context(STYLE)
def paired_figure(differences: pd.DataFrame, summary: pd.DataFrame, seconds: Mapping[int, float]) -> Figure:
    """Differences of a score within people over lead time: a dot for each person, the mean with its 95 % interval.

    Parameters
    ----------
    differences : pandas.DataFrame
        A row for each person, a column for each lead time in time points.
    summary : pandas.DataFrame
        The index are the lead times; columns ``difference``, ``difference_low`` and ``difference_high``.
    seconds : mapping of int to float
        Seconds of each lead time.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.9, 3.1))
    axes = figure.add_subplot()
    x = np.array([seconds[int(points)] for points in summary.index])
    for _, row in differences.iterrows():
        axes.plot(x, row, "o-", color=MUTED, alpha=0.45, markersize=3, linewidth=0.7, zorder=3)
    draw_interval(axes, x, summary["difference_low"], summary["difference_high"], MODEL_COLOR)
    axes.plot(x, summary["difference"], "o-", color=MODEL_COLOR, linewidth=2.2, zorder=5)
    axes.axhline(0, color=MUTED, linewidth=1, zorder=2)
    fit_y_axis(axes, [0.0, *differences.to_numpy(float).ravel(), *summary.to_numpy(float).ravel()], {})
    set_log_axis(axes, list(x), [f"{value:g}" for value in x])
    axes.set(xlabel="how far ahead (s)", ylabel="skill_ar: A minus B\nwithin each person")
    return figure


@matplotlib.rc_context(STYLE)
def person_figure(skill: pd.DataFrame, label: str, seconds: Mapping[int, float]) -> Figure:
    """Skill over lead time of one person, before those of all.

    Parameters
    ----------
    skill : pandas.DataFrame
        `skill_ar`: a row for each person, a column for each lead time in time points.
    label : str
        The person, one of the rows.
    seconds : mapping of int to float
        Seconds of each lead time.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.9, 3.1))
    axes = figure.add_subplot()
    x = np.array([seconds[int(points)] for points in skill.columns])
    for _, row in skill.drop(index=label).iterrows():
        axes.plot(x, row, color=MUTED, alpha=0.4, linewidth=0.8, zorder=3)
    axes.plot(x, skill.mean(), color=INK, linewidth=1.6, zorder=4)
    axes.plot(x, skill.loc[label], "o-", color=MODEL_COLOR, linewidth=2.2, zorder=5)
    draw_ar_line(axes)
    fit_y_axis(axes, [0.0, *skill.to_numpy(float).ravel()], {})
    set_log_axis(axes, list(x), [f"{value:g}" for value in x])
    axes.set(xlabel="how far ahead (s)", ylabel=_axis_label("skill_ar"))
    return figure


def _line_style(kind: Kind, *, few: bool, is_main: bool) -> dict[str, Any]:
    return {
        "linestyle": LINE_STYLES[kind],
        "linewidth": 2.2 if is_main else 1.4 if few else 1,
        "markersize": 5 if few or is_main else 3.5,
        "zorder": 5 if is_main else 4,
    }


def _draw_row(
    axes: Axes,
    rows: pd.DataFrame,
    dots: pd.DataFrame,
    metric: str,
    shift: float,
    with_interval: bool,
    line: dict[str, Any],
) -> None:
    """Draw one row of the table: its line, its interval if wanted, its subjects as dots; all shifted along x."""
    x = rows[LEAD_TIME_POINTS].to_numpy(float) * shift
    if with_interval:
        draw_interval(axes, x, rows[f"{metric}_low"], rows[f"{metric}_high"], line["color"])
    axes.plot(x, rows[metric], label=plain(str(rows["model"].iloc[0])), **line)
    at = dots[LEAD_TIME_POINTS].to_numpy(float) * shift
    axes.scatter(at, dots[metric], s=7, color=line["color"], alpha=0.45, linewidths=0, zorder=3)


@matplotlib.rc_context(STYLE)
def context_figure(curve: pd.DataFrame) -> Figure:
    """`skill_ar` over the length of the context that the memory reads, in seconds; the whole run stands apart.

    Parameters
    ----------
    curve : pandas.DataFrame
        Table of the context-length probe; a line per lead time.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.9, 3.7))
    axes = figure.add_subplot()
    contexts = sorted(set(curve.loc[~curve["whole_run"], "context_s"].dropna()))
    longest = contexts[-1] if contexts else 1.0
    whole_run = longest * 3
    lead_times = lead_times_of(curve)
    colors = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.8, len(lead_times)))
    for rank, points in enumerate(lead_times):
        shift = 1.06 ** (rank - (len(lead_times) - 1) / 2)
        rows = curve[curve[LEAD_TIME_POINTS] == points].sort_values("context_s")
        _draw_context(axes, rows, points, shift, whole_run, matplotlib.colors.to_hex(colors[rank]))
    draw_ar_line(axes)
    axes.axvline(math.sqrt(longest * whole_run), color=RULE, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    set_log_axis(axes, [*contexts, whole_run], [*(f"{context:g}" for context in contexts), "whole\nrun"])
    axes.set(xlabel="length of the context that the memory reads (s)", ylabel=_axis_label("skill_ar"), title="skill_ar")
    if contexts:
        figure.legend(
            loc="outside lower center",
            ncols=min(6, len(lead_times)),
            fontsize=8,
            handlelength=1.4,
            title="lead time h (time points)",
            title_fontsize=8,
        )
    return figure


def _draw_context(axes: Axes, rows: pd.DataFrame, points: int, shift: float, whole_run: float, color: str) -> None:
    """Draw the curve of one lead time, and its value with the whole run at the position `whole_run`."""
    for part, is_whole in ((rows[~rows["whole_run"]], False), (rows[rows["whole_run"]], True)):
        x = (np.full(len(part), whole_run) if is_whole else part["context_s"].to_numpy(float)) * shift
        draw_interval(axes, x, part["skill_ar_low"], part["skill_ar_high"], color)
        axes.plot(
            x,
            part["skill_ar"],
            color=color,
            marker="D" if is_whole else "o",
            markersize=6 if is_whole else 4.5,
            linewidth=1.8,
            zorder=4,
            label=None if is_whole else f"h = {points}",
        )


@matplotlib.rc_context(STYLE)
def training_figure(training: dict[str, pd.DataFrame]) -> Figure:
    """Validation `skill_ar` over epochs: a thin line per training, their mean where every one has the epoch.

    Parameters
    ----------
    training : dict of str to pandas.DataFrame
        ``training.csv`` of each seed and fold.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.9, 3.7))
    axes = figure.add_subplot()
    folds = {name: rows.groupby("epoch")["validation_skill_ar"].last() for name, rows in training.items()}
    single = len(folds) == 1
    for rank, (name, values) in enumerate(folds.items()):
        axes.plot(
            values.index,
            values,
            color=MODEL_COLOR if single else MUTED,
            alpha=1 if single else 0.7,
            linewidth=2 if single else 1,
            label=plain(name) if single else f"each of {len(folds)} trainings" if rank == 0 else None,
        )
        _mark_best(axes, values)
    if not single:
        mean = pd.concat(folds, axis=1, join="inner").mean(axis=1, skipna=False)
        axes.plot(mean.index, mean, color=MODEL_COLOR, linewidth=2.2, label="mean of the trainings")
    draw_ar_line(axes)
    # The epochs set the scale: before training a model may be far off.
    trained: Sequence[float] = [value for values in folds.values() for value in values[values.index > 0]]
    fit_y_axis(axes, [0.0, *trained], {"epoch 0": pd.concat([values[values.index == 0] for values in folds.values()])})
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.set(xlabel="epoch (0: before training)", ylabel=_axis_label("skill_ar"), title="skill_ar on validation runs")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def _mark_best(axes: Axes, values: pd.Series) -> None:
    """Mark the best epoch by a dot, where any epoch has a value."""
    defined = values.dropna()
    if len(defined):
        best = int(np.argmax(defined.to_numpy()))
        epoch, skill = float(defined.index.to_numpy(float)[best]), float(defined.iloc[best])
        axes.plot(epoch, skill, "o", color=MODEL_COLOR, markersize=4.5, zorder=5)
