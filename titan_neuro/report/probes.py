"""What the probes found, as the page shows it: a sentence, a figure for each measure, every number, and the maps."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from titan_neuro.report.brain import map_values, plot_map
from titan_neuro.report.figures import MUTED, RULE, STYLE, plain, png_uri, svg_uri
from titan_neuro.report.results import ProbeResult, StatMap
from titan_neuro.report.tables import number

# Figures of one probe; the table has every measure.
_MOST_FIGURES = 4
_COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2933")
_MARKERS = "osD^vPX*<>"
_MOST_NOT_ASKED = 6
_NOTES = {"Test": "Test", "Correction": "Correction", "Interval": "Interval", "Null": "Null"}


def probe_sections(probes: tuple[ProbeResult, ...]) -> list[dict[str, Any]]:
    """Sections of the page, one a probe.

    Parameters
    ----------
    probes : tuple of ProbeResult

    Returns
    -------
    list of dict
        What the template prints: ``name``, ``asks``, ``sentence``, ``figures`` and their ``caption``, ``groups`` of
        rows and ``n_rows``, ``x`` (heading of that column, empty where no row has one), ``notes``,
        ``maps``.
    """
    return [_section(probe) for probe in probes]


def _section(probe: ProbeResult) -> dict[str, Any]:
    groups = _grouped(probe.scores)
    drawn = {name: rows for name, rows in groups.items() if rows["value"].notna().any()}
    figures = [
        {"source": svg_uri(probe_figure(rows, name, probe.x_label)), "alt": _in_words(name, rows)}
        for name, rows in list(drawn.items())[:_MOST_FIGURES]
    ]
    return {
        "name": probe.name,
        "asks": probe.asks,
        "sentence": probe.sentence,
        "figures": figures,
        "caption": _caption(int(probe.scores["n_subjects"].max()), len(drawn)),
        "x": probe.x_label if probe.scores["x"].notna().any() else "",
        "groups": [{"name": name, "rows": [_row(row) for _, row in rows.iterrows()]} for name, rows in groups.items()],
        "n_rows": len(probe.scores),
        "notes": _notes(probe.metadata),
        "maps": [_map(one) for one in probe.maps],
    }


def _grouped(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows by measure, or by condition where there are fewer of these; what a row is called is its `label`."""
    name, label = "measure", "condition"
    if scores["x"].nunique() < 2 and scores["condition"].nunique() < scores["measure"].nunique():
        name, label = label, name
    scores = scores.assign(label=scores[label])
    return {each: scores[scores[name] == each] for each in dict.fromkeys(scores[name])}


def _notes(metadata: dict[str, Any]) -> list[str]:
    told = [f"{title}: {metadata[key]}" for key, title in _NOTES.items() if metadata.get(key)]
    caveats, held_out_index = (list(map(str, metadata.get(key, []))) for key in ("Caveats", "NotTested"))
    if len(held_out_index) > _MOST_NOT_ASKED:
        held_out_index = [
            *held_out_index[:_MOST_NOT_ASKED],
            f"And {len(held_out_index) - _MOST_NOT_ASKED} more, in the JSON.",
        ]
    return [*told, *caveats, *held_out_index]


def _caption(n_subjects: int, n_measures: int) -> str:
    beyond = n_measures - _MOST_FIGURES
    return (
        f"n = {n_subjects} subject{'' if n_subjects == 1 else 's'}. Bars and bands: intervals over subjects; grey "
        "areas: what chance gives, where that was drawn; grey marks: controls."
        + (f" {beyond} further measure{'' if beyond == 1 else 's'}: in the table." if beyond > 0 else "")
    )


def _row(row: pd.Series) -> dict[str, Any]:
    interval = f"{number(row['low'])} to {number(row['high'])}" if np.isfinite(row["low"]) else ""
    return {
        "label": row["label"],
        "is_control": bool(row["is_control"]),
        "x": f"{row['x']:g}" if np.isfinite(row["x"]) else "",
        "value": number(row["value"]),
        "interval": interval,
        "null": number(row["null"]) if np.isfinite(row["null"]) else "",
        "p": _p(row["p"]),
        "n_subjects": int(row["n_subjects"]),
    }


def _p(p: float) -> str:
    if not np.isfinite(p):
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _in_words(measure: str, rows: pd.DataFrame) -> str:
    told = rows[rows["value"].notna()].head(8)
    values = ", ".join(f"{row['label']} {number(row['value'])}" for _, row in told.iterrows())
    return f"{measure}: {values}."


def _map(one: StatMap) -> dict[str, str]:
    title = str(one.sidecar.get("Description", one.stat))
    values = map_values(one.path)
    if values.size == 0:
        return {"empty": f"{title}: no value, so there is nothing to draw."}
    unit = "voxels" if one.is_volume else "parcels"
    if "Correction" in one.sidecar:
        # A map of p values is told, not drawn: what it is a test of is drawn beside it.
        below = int((values < 0.05).sum())
        return {"empty": f"{title}: below 0.05 in {below:,} of {len(values):,} {unit} ({one.sidecar['Correction']})."}
    return {
        "source": png_uri(plot_map(one.path, one.sidecar, title)),
        "alt": f"{title}. Median {number(float(np.median(values)))} over {len(values):,} {unit}.",
        "caption": f"{title}. Median {number(float(np.median(values)))} over {len(values):,} {unit}.",
        "file": one.path.name,
    }


@matplotlib.rc_context(STYLE)
def probe_figure(rows: pd.DataFrame, title: str, x_label: str) -> Figure:
    """Rows of a probe that belong together: lines over `x` where they have several, else one below the other.

    Parameters
    ----------
    rows : pandas.DataFrame
        Columns of `titan_neuro.probing.tools.results.SCORES`, and `label`, what each row is called.
    title : str
    x_label : str
        What `x` is, with its unit.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = rows[rows["value"].notna()]
    is_course = rows["x"].nunique() > 1
    conditions = list(dict.fromkeys(rows["label"]))
    height = 3.9 if is_course else 1.2 + 0.36 * len(rows)
    figure = Figure(figsize=(4.9, height))
    axes = figure.add_subplot()
    if is_course:
        _draw_courses(axes, rows, conditions)
        axes.set(xlabel=x_label)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, handlelength=1.6)
    else:
        _draw_conditions(axes, rows)
    # Above the whole figure: the axes of long labels are narrow.
    figure.suptitle(textwrap.fill(plain(title), 52), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _draw_courses(axes: Axes, rows: pd.DataFrame, conditions: list[str]) -> None:
    for rank, condition in enumerate(conditions):
        own = rows[rows["label"] == condition].sort_values("x")
        is_control = bool(own["is_control"].iloc[0])
        color = MUTED if is_control else _COLORS[rank % len(_COLORS)]
        marker = _MARKERS[rank % len(_MARKERS)]
        axes.fill_between(own["x"], own["low"], own["high"], color=color, alpha=0.12, linewidth=0)
        axes.plot(own["x"], own["value"], "--" if is_control else "-", marker=marker, color=color, markersize=4.5)
        axes.lines[-1].set_label(plain(condition))
        if own["null"].notna().any():
            axes.fill_between(own["x"], own["null_low"], own["null_high"], color=RULE, alpha=0.6, linewidth=0, zorder=0)
    ticks = sorted(set(rows["x"].dropna()))
    if ticks[0] > 0:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    axes.grid(axis="y", color=RULE, linewidth=0.6)


def _draw_conditions(axes: Axes, rows: pd.DataFrame) -> None:
    places = np.arange(len(rows))[::-1]
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        color = MUTED if row["is_control"] else _COLORS[0]
        if np.isfinite(row["null_low"]):
            axes.fill_betweenx([place - 0.35, place + 0.35], row["null_low"], row["null_high"], color=RULE, linewidth=0)
        if np.isfinite(row["null"]):
            axes.plot([row["null"]] * 2, [place - 0.35, place + 0.35], color=MUTED, linewidth=1)
        if np.isfinite(row["low"]):
            axes.hlines(place, row["low"], row["high"], color=color, linewidth=1.4)
        axes.plot(row["value"], place, "s" if row["is_control"] else "o", color=color, markersize=5.5)
    axes.set_yticks(places, [textwrap.fill(plain(name), 30) for name in rows["label"]], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
