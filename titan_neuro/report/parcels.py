"""Values of parcels as bars."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from titan_neuro.data.parcels import hemisphere_and_network
from titan_neuro.evaluation.formatting import NOT_AVAILABLE
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.report.style import INK, MUTED, RULE, plain

_MOST_TICKS = 9
_SIDES = {"L": ("left hemisphere", "#0072b2"), "R": ("right hemisphere", "#d55e00")}


def networks_of(parcels: pd.DataFrame) -> pd.DataFrame | None:
    """Hemisphere and network of each parcel, where both are known of every one.

    Parameters
    ----------
    parcels : pandas.DataFrame
        With a column ``parcel``; the columns ``hemisphere`` and ``network`` come from an atlas. Without these, parcels
        that are named as in Schaefer's atlas (``LH_Vis_1``) say it.

    Returns
    -------
    pandas.DataFrame or None
        Columns ``side`` (``L`` or ``R``) and ``network``, in the order of the parcels; ``None`` if one is not known.
    """
    named = [hemisphere_and_network(name) for name in parcels["parcel"]]
    networks = pd.DataFrame(named, columns=["side", "network"], index=parcels.index)
    if {"hemisphere", "network"} <= set(parcels.columns):
        networks = parcels[["hemisphere", "network"]].set_axis(["side", "network"], axis="columns")
    is_known = networks["side"].isin(_SIDES) & ~networks["network"].isin(["", NOT_AVAILABLE])
    return networks if is_known.all() else None


def parcel_figure(parcels: pd.DataFrame, label: str, title: str, *, limit: float | None, log: bool) -> Figure:
    """Draw values in the order of the atlas and sorted; below, by network where the labels name networks.

    Parameters
    ----------
    parcels : pandas.DataFrame
        Columns ``parcel`` and ``value``; NaN is left blank.
    label : str
        Name of the values, with their unit.
    title : str
        Heading.
    limit : float or None
        A value that the axis reaches, so that two figures look alike; not used where the axis is logarithmic.
    log : bool
        Whether the axis is logarithmic; all values must be positive.

    Returns
    -------
    matplotlib.figure.Figure
    """
    networks = networks_of(parcels)
    values = parcels["value"].to_numpy(np.float64)
    rows = [["atlas", "sorted"]] if networks is None else [["atlas", "sorted"], ["network", "network"]]
    figure = Figure(figsize=(7.6, 2.7 * len(rows) + 0.5))
    panels: dict[str, Axes] = figure.subplot_mosaic(rows)
    colors = np.full(len(values), MUTED, dtype=object)
    if networks is not None:
        colors = networks["side"].map({side: color for side, (_, color) in _SIDES.items()}).to_numpy()
    _bars(panels["atlas"], values, list(colors), _scale_y(panels["atlas"], values, limit, log=log))
    # NaN sorts to the end.
    _bars(panels["sorted"], values[np.argsort(-values)], MUTED, _scale_y(panels["sorted"], values, limit, log=log))
    panels["atlas"].set(xlabel="parcel, in the order of the atlas", ylabel=label.split(":")[0])
    panels["sorted"].set(xlabel="parcel, from the highest value to the lowest")
    panels["sorted"].tick_params(labelleft=False)
    if networks is not None:
        _network_panel(panels["network"], networks["network"], values, (networks["side"] == "L").to_numpy())
        _scale_y(panels["network"], values, limit, log=log)
        panels["network"].set(ylabel=label.split(":")[0])
        keys = [Line2D([], [], color=color, linewidth=3) for _, color in _SIDES.values()]
        figure.legend(keys, [text for text, _ in _SIDES.values()], loc="outside lower center", ncols=2, fontsize=8.5)
    figure.suptitle(textwrap.fill(plain(title), 80), fontsize=10, fontweight="bold", x=0.01, ha="left")
    return figure


def set_log_ticks(axis: Axis, values: FloatArray) -> None:
    """Label a logarithmic axis with its values where they are few, else with five even steps.

    Parameters
    ----------
    axis : matplotlib.axis.Axis
        Horizontal or vertical; its scale is logarithmic already.
    values : numpy.ndarray
        The values drawn: finite and positive.
    """
    distinct = np.unique(values)
    ticks = distinct if len(distinct) <= _MOST_TICKS else np.geomspace(distinct[0], distinct[-1], 5)
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _bars(axes: Axes, values: FloatArray, colors: str | list[str], bottom: float) -> None:
    # Gaps between thin bars would show as stripes.
    width = 0.85 if len(values) <= 80 else 1.0
    axes.bar(np.arange(1, len(values) + 1), values - bottom, bottom=bottom, width=width, color=colors, linewidth=0)
    axes.set_xlim(0, len(values) + 1)


def _scale_y(axes: Axes, values: FloatArray, limit: float | None, *, log: bool) -> float:
    """Set the scale of the y axis and return the value at which bars begin."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if log:
        axes.set_yscale("log")
        bottom = low / 1.5
        axes.set_ylim(bottom, high * 1.15)
        set_log_ticks(axes.yaxis, finite)
    else:
        bottom = 0.0
        low, high = min(low, 0.0), max(high, 0.0, limit or 0.0)
        room = 0.06 * max(high - low, 1e-3)
        axes.set_ylim(low - room, high + room)
    axes.axhline(bottom, color=MUTED, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    return bottom


def _network_panel(axes: Axes, networks: pd.Series, values: FloatArray, is_left: NDArray[np.bool_]) -> None:
    names = list(dict.fromkeys(networks))
    rank = networks.map(names.index).to_numpy()
    for side, shift, (_, color) in ((is_left, -0.17, _SIDES["L"]), (~is_left, 0.17, _SIDES["R"])):
        axes.scatter(rank[side] + shift, values[side], s=10, color=color, alpha=0.55, linewidths=0)
    for position in range(len(names)):
        of_network = values[(rank == position) & np.isfinite(values)]
        if of_network.size:
            axes.hlines(of_network.mean(), position - 0.34, position + 0.34, color=INK, linewidth=1.6)
    axes.set_xticks(range(len(names)), [plain(name) for name in names])
    axes.set(xlabel="network (dots: parcels; bars: means over parcels)", xlim=(-0.6, len(names) - 0.4))
