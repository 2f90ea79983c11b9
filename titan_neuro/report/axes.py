"""Axes of the curves: the scale over lead times or contexts, the range of the scores, and what lies outside it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from titan_neuro.report.numbers import MINUS
from titan_neuro.report.style import AR_COLOR, MUTED, RULE, plain

# A shorter axis would make rounding errors look like an effect.
_SHORTEST = 0.01


def draw_interval(axes: Axes, x: np.ndarray, low: pd.Series, high: pd.Series, color: str) -> None:
    """Draw a band and bars from `low` to `high` at the positions `x`, all ``(points,)``."""
    axes.fill_between(x, low, high, color=color, alpha=0.14, linewidth=0, zorder=2)
    axes.vlines(x, low, high, color=color, linewidth=1, alpha=0.7, zorder=3)


def draw_ar_line(axes: Axes) -> None:
    """Draw linear autoregression as the zero line of `skill_ar`, and name it above the axes."""
    axes.axhline(0, color=AR_COLOR, linewidth=1, zorder=2)
    axes.set_title("zero: linear autoregression", loc="right", fontsize=8, fontweight="normal", color=AR_COLOR)


def set_log_axis(axes: Axes, positions: Sequence[float], labels: Sequence[str]) -> None:
    """Make the x axis logarithmic, with one labeled tick at each position."""
    axes.set_xscale("log")
    axes.set_xlim(min(positions) / 1.35, max(positions) * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(list(positions)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(labels)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def fit_y_axis(axes: Axes, core: Iterable[float], curves: Mapping[str, pd.Series]) -> None:
    """Fit the y axis to some values, and name the curves that lie outside it in a note.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    core : iterable of float
        Values that must be inside; those that are not finite don't count.
    curves : mapping of str to pandas.Series
        Further curves by name. They are included where the axis becomes at most three times as long.
    """
    finite = [value for value in core if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if high - low < _SHORTEST:
        low, high = (low + high - _SHORTEST) / 2, (low + high + _SHORTEST) / 2
    everything = [*finite, *(value for values in curves.values() for value in values if math.isfinite(value))]
    if max(everything) - min(everything) <= 3 * (high - low):
        low, high = min(low, *everything), max(high, *everything)
    margin = 0.1 * (high - low)
    axes.set_ylim(low - margin, high + margin)
    _note_outside(axes, curves, low - margin, high + margin)


def _note_outside(axes: Axes, curves: Mapping[str, pd.Series], low: float, high: float) -> None:
    notes = []
    for name, values in curves.items():
        outside = values[(values < low) | (values > high)]
        if len(outside):
            ends = dict.fromkeys(f"{end:.2f}" for end in (outside.min(), outside.max()))
            notes.append(f"{plain(name)} {' to '.join(ends).replace('-', MINUS)}")
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
