"""Curves of the report: score over horizon, score over context, validation over epochs.

Figures are `matplotlib.figure.Figure` objects that no window system knows of: nothing here depends on a display, and
nothing has to be closed. Each is one panel, so that a page can set two side by side or below each other.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from titan_neuro.report.results import horizons_of

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
# Okabe and Ito's palette (2008), told apart with any of the usual color-vision deficiencies; markers say it again.
_FIXED_STYLES = {
    "mean": ("#7b8794", "s"),
    "persistence": ("#e69f00", "^"),
    "damped": ("#e69f00", "v"),
    "ar": ("#0072b2", "D"),
    "var": ("#0072b2", "P"),
    "var-online": ("#56b4e9", "P"),
    "gru": ("#cc79a7", "X"),
    "transformer-20": ("#cc79a7", "d"),
    "analog-20": ("#7fbfa8", "<"),
    "analog-80": ("#7fbfa8", "s"),
    "analog-160": ("#7fbfa8", ">"),
    "soft-analog-20": ("#009e73", "<"),
    "soft-analog-80": ("#009e73", "s"),
    "soft-analog-160": ("#009e73", ">"),
    "intersubject-average": ("#1f2933", "*"),
    "intersubject-average+ar": ("#1f2933", "p"),
}
_OTHER_STYLES = (("#d55e00", "o"), ("#009e73", "v"), ("#cc79a7", "P"), ("#56b4e9", "X"))
# Controls and references are no forecasts of their own right.
_KIND_LINES = {
    "model": "-",
    "control": (0, (4, 2)),
    "comparison_model": "-",
    "baseline": "-",
    "oracle_reference": (0, (1, 1.5)),
}
# With more lines than these, intervals and subjects are shown of the main model alone: the table has the others.
_FEW_LINES = 6
# An axis shorter than this would blow rounding up to a mountain range.
_LEAST_SPAN = 0.01
_AXIS_TITLE = {
    "skill_ar": ("skill_ar", "1 - MSE / MSE of linear AR"),
    "r2": ("r2", "1 - SSE / SSE about the training mean"),
}


def model_style(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Color and marker of each model, the same in every figure of a report.

    Parameters
    ----------
    models : sequence of str
        Names in the order of the table.

    Returns
    -------
    dict of str to (str, str)
        Hexadecimal color and matplotlib marker.
    """
    free = iter(_OTHER_STYLES * (1 + len(models) // len(_OTHER_STYLES)))
    return {model: _FIXED_STYLES.get(model) or next(free) for model in models}


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
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def plain(text: str) -> str:
    """`text` as matplotlib shall draw it: letter by letter, no formulas, no letters that the font lacks."""
    shown = text.encode("ascii", "backslashreplace").decode("ascii").replace("$", r"\$")
    # matplotlib leaves a label that begins with an underscore out of the legend.
    return f" {shown}" if shown.startswith("_") else shown


@matplotlib.rc_context(STYLE)
def horizon_figure(scores: pd.DataFrame, subjects: pd.DataFrame | None, metric: str, main_model: str) -> Figure:
    """Score over horizon: a line per model; of few models, or of the main one, 95 % interval and subjects as dots.

    The axis fits `main_model` and its subjects; a baseline far below is named in the panel instead of pressing all
    else into a line.

    Parameters
    ----------
    scores : pandas.DataFrame
        The forecast table, or that of the rollouts.
    subjects : pandas.DataFrame or None
        The same per subject.
    metric : {"skill_ar", "r2"}
        Column to draw.
    main_model : str
        Name of the model the report is about.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.9, 3.7 if scores["model"].nunique() <= _FEW_LINES else 5.4))
    axes = figure.add_subplot()
    horizons = horizons_of(scores)
    models = list(dict.fromkeys(scores["model"]))
    # By its definition linear AR scores zero against itself: it is the zero line of that panel, not a curve.
    drawn = [model for model in models if not (metric == "skill_ar" and model == "ar")]
    look = model_style(models)
    few = len(drawn) <= _FEW_LINES
    core: list[float] = [0.0]
    for rank, model in enumerate(drawn):
        color, marker = look[model]
        rows = scores[scores["model"] == model].sort_values("lead_time_points")
        dodge = 1.045 ** (rank - (len(drawn) - 1) / 2) if few else 1.0
        at = rows["lead_time_points"].to_numpy(float) * dodge
        top = model == main_model
        if few or top:
            _draw_interval(axes, at, rows[f"{metric}_low"], rows[f"{metric}_high"], color)
        axes.plot(
            at,
            rows[metric],
            color=color,
            marker=marker,
            markersize=5 if few or top else 3.5,
            linewidth=2.2 if top else 1.4 if few else 1,
            linestyle=_KIND_LINES[rows["kind"].iloc[0]],
            zorder=5 if top else 4,
            label=plain(model),
        )
        own = subjects[subjects["model"] == model] if subjects is not None and (few or top) else rows.iloc[:0]
        axes.scatter(own["lead_time_points"] * dodge, own[metric], s=7, color=color, alpha=0.45, linewidths=0, zorder=3)
        if top or model == "ar":
            core += [*rows[metric], *rows[f"{metric}_low"], *rows[f"{metric}_high"], *(own[metric] if top else [])]
        else:
            # Nobody who does better than the zero line is left off the scale.
            core += [max(value, 0.0) for value in rows[metric]] if metric == "skill_ar" else []
    label, meaning = _AXIS_TITLE[metric]
    axes.axhline(0, color=look["ar"][0] if metric == "skill_ar" and "ar" in look else MUTED, linewidth=1, zorder=2)
    averages = {model: scores.loc[scores["model"] == model, metric] for model in drawn}
    _fit_y(axes, core, averages)
    seconds = dict(zip(scores["lead_time_points"], scores["lead_time_s"], strict=True))
    _log_axis(axes, horizons, [f"{horizon}\n{seconds[horizon]:g} s" for horizon in horizons])
    axes.set(xlabel="horizon: time points ahead, seconds ahead", ylabel=meaning, title=label)
    if metric == "skill_ar":
        axes.set_title(
            "zero: linear AR", loc="right", fontsize=8, fontweight="normal", color=look.get("ar", (MUTED,))[0]
        )
    figure.legend(
        loc="outside lower center", ncols=min(4 if few else 3, max(1, len(drawn))), fontsize=8.5 if few else 7
    )
    return figure


@matplotlib.rc_context(STYLE)
def context_figure(curve: pd.DataFrame) -> Figure:
    """`skill_ar` against the context that the memory may use, in seconds; the whole run stands apart.

    Parameters
    ----------
    curve : pandas.DataFrame
        Table of the context-length probe; a line per horizon.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.9, 3.7))
    axes = figure.add_subplot()
    cut = curve[~curve["whole_run"]]
    contexts = sorted(set(cut["context_s"].dropna()))
    last = contexts[-1] if contexts else 1.0
    apart = last * 3
    horizons = horizons_of(curve)
    colors = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.8, len(horizons)))
    for rank, horizon in enumerate(horizons):
        color = matplotlib.colors.to_hex(colors[rank])
        dodge = 1.06 ** (rank - (len(horizons) - 1) / 2)
        for rows, whole in (
            (cut[cut["lead_time_points"] == horizon].sort_values("context_s"), False),
            (curve[(curve["lead_time_points"] == horizon) & curve["whole_run"]], True),
        ):
            at = (np.full(len(rows), apart) if whole else rows["context_s"].to_numpy(float)) * dodge
            _draw_interval(axes, at, rows["skill_ar_low"], rows["skill_ar_high"], color)
            axes.plot(
                at,
                rows["skill_ar"],
                color=color,
                marker="D" if whole else "o",
                markersize=6 if whole else 4.5,
                linewidth=1.8,
                zorder=4,
                label=None if whole else f"h = {horizon}",
            )
    axes.axhline(0, color=_FIXED_STYLES["ar"][0], linewidth=1, zorder=2)
    axes.axvline(math.sqrt(last * apart), color=RULE, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    _log_axis(axes, [*contexts, apart], [*(f"{context:g}" for context in contexts), "whole\nrun"])
    axes.set(xlabel="context that the memory may use, s", ylabel="1 - MSE / MSE of linear AR", title="skill_ar")
    axes.set_title("zero: linear AR", loc="right", fontsize=8, fontweight="normal", color=_FIXED_STYLES["ar"][0])
    if contexts:
        figure.legend(loc="outside lower center", ncols=min(6, len(horizons)), fontsize=8, handlelength=1.4)
    return figure


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
    color = _OTHER_STYLES[0][0]
    folds = {name: rows.groupby("epoch")["validation_skill_ar"].last() for name, rows in training.items()}
    for rank, (name, values) in enumerate(folds.items()):
        axes.plot(
            values.index,
            values,
            color=color if len(folds) == 1 else MUTED,
            alpha=1 if len(folds) == 1 else 0.7,
            linewidth=2 if len(folds) == 1 else 1,
            label=plain(name) if len(folds) == 1 else f"each of {len(folds)} trainings" if rank == 0 else None,
        )
        if values.notna().any():
            axes.plot(values.idxmax(), values.max(), "o", color=color, markersize=4.5, zorder=5)
    if len(folds) > 1:
        mean = pd.concat(folds, axis=1, join="inner").mean(axis=1, skipna=False)
        axes.plot(mean.index, mean, color=color, linewidth=2.2, label="mean of the trainings")
    axes.axhline(0, color=_FIXED_STYLES["ar"][0], linewidth=1, zorder=1)
    # The epochs set the scale: where a model stood before it was trained may be far off.
    trained = [value for values in folds.values() for value in values[values.index > 0]]
    _fit_y(axes, [0.0, *trained], {"epoch 0": pd.concat([values[values.index == 0] for values in folds.values()])})
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch (0: before training)", ylabel="validation skill_ar", title="skill_ar on validation runs")
    axes.set_title("zero: linear AR", loc="right", fontsize=8, fontweight="normal", color=_FIXED_STYLES["ar"][0])
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def _draw_interval(axes: Axes, at: np.ndarray, low: pd.Series, high: pd.Series, color: str) -> None:
    axes.fill_between(at, low, high, color=color, alpha=0.14, linewidth=0, zorder=2)
    axes.vlines(at, low, high, color=color, linewidth=1, alpha=0.7, zorder=3)


def _log_axis(axes: Axes, positions: Sequence[float], labels: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(positions) / 1.35, max(positions) * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(list(positions)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(labels)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def _fit_y(axes: Axes, core: Iterable[float], averages: dict[str, pd.Series]) -> None:
    """Fit the axis to `core`; take the other curves in where that costs at most a factor of three in scale."""
    kept = [value for value in core if math.isfinite(value)]
    low, high = min(kept), max(kept)
    if high - low < _LEAST_SPAN:
        low, high = (low + high - _LEAST_SPAN) / 2, (low + high + _LEAST_SPAN) / 2
    span = high - low
    everything = [*kept, *(value for values in averages.values() for value in values if math.isfinite(value))]
    if max(everything) - min(everything) <= 3 * span:
        low, high = min(low, *everything), max(high, *everything)
        span = high - low
    low, high = low - 0.1 * span, high + 0.1 * span
    axes.set_ylim(low, high)
    notes = []
    for name, values in averages.items():
        outside = values[(values < low) | (values > high)]
        if len(outside):
            ends = dict.fromkeys(f"{end:.2f}" for end in (outside.min(), outside.max()))
            span = " to ".join(ends).replace("-", "\N{MINUS SIGN}")
            notes.append(f"{plain(name)} {span}")
    if notes:
        axes.annotate(
            textwrap.fill("off the scale: " + "; ".join(notes), 62),
            (0.02, 0.02),
            xycoords="axes fraction",
            fontsize=7.5,
            color=MUTED,
            zorder=6,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )
