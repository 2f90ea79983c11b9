"""Results of the probes for the page: a summary, a figure for each measure, all numbers, and the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from titan_neuro.evaluation.metrics_and_rows import count_in_words
from titan_neuro.report.brain import map_values
from titan_neuro.report.maps import MapFigure, draw_map
from titan_neuro.report.numbers import interval, number, p_value
from titan_neuro.report.probe_figures import hides_nulls, probe_figure
from titan_neuro.report.records import ProbeResult, StatMap
from titan_neuro.report.style import svg_uri

# Figures of one probe; the table has every measure.
_MOST_FIGURES = 4
_MOST_EXCLUSIONS = 6
_NOTES = ("Test", "Correction", "Interval", "Null")
_ALPHA = 0.05


class ProbeRow(TypedDict):
    """A row of a probe's table."""

    label: str
    is_control: bool
    x: str
    value: str
    interval: str
    null: str
    p: str
    n_subjects: int


class ProbeGroup(TypedDict):
    """Rows of one measure or condition."""

    name: str
    rows: list[ProbeRow]


class ProbeSection(TypedDict):
    """One probe, as the page template reads it. `x` is the heading of the table's x column; '' hides it."""

    name: str
    question: str
    summary: str
    figures: list[dict[str, str]]
    caption: str
    x: str
    groups: list[ProbeGroup]
    n_rows: int
    notes: list[str]
    maps: list[MapFigure]


def probe_sections(probes: Sequence[ProbeResult]) -> list[ProbeSection]:
    """Make the sections of the page, one for each probe."""
    return [_section(probe) for probe in probes]


def _section(probe: ProbeResult) -> ProbeSection:
    groups = _grouped(probe.scores)
    drawn = {name: rows for name, rows in groups.items() if rows["value"].notna().any()}
    shown = dict(list(drawn.items())[:_MOST_FIGURES])
    figures = [
        {"source": svg_uri(probe_figure(rows, name, probe.x_label)), "alt": _alt(name, rows)}
        for name, rows in shown.items()
    ]
    return ProbeSection(
        name=probe.name,
        question=probe.question,
        summary=probe.summary,
        figures=figures,
        caption=_caption(
            int(probe.scores["n_subjects"].max()), len(drawn), has_nulls=not any(map(hides_nulls, shown.values()))
        ),
        x=probe.x_label if probe.scores["x"].notna().any() else "",
        groups=[ProbeGroup(name=name, rows=[_row(row) for _, row in rows.iterrows()]) for name, rows in groups.items()],
        n_rows=len(probe.scores),
        notes=_notes(probe.metadata),
        maps=_maps(probe.maps),
    )


def _grouped(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows by measure, or by condition where there are fewer of these; the column `label` names each row."""
    group, label = "measure", "condition"
    if scores["x"].nunique() < 2 and scores["condition"].nunique() < scores["measure"].nunique():
        group, label = label, group
    scores = scores.assign(label=scores[label])
    return {str(name): rows for name, rows in scores.groupby(group, sort=False)}


def _notes(metadata: Mapping[str, Any]) -> list[str]:
    notes = [f"{key}: {metadata[key]}" for key in _NOTES if metadata.get(key)]
    caveats, exclusions = ([str(sentence) for sentence in metadata.get(key, [])] for key in ("Caveats", "NotTested"))
    if len(exclusions) > _MOST_EXCLUSIONS:
        beyond = len(exclusions) - _MOST_EXCLUSIONS
        exclusions = [*exclusions[:_MOST_EXCLUSIONS], f"And {beyond} more, in the JSON."]
    return [*notes, *caveats, *exclusions]


def _caption(n_subjects: int, n_measures: int, *, has_nulls: bool) -> str:
    beyond = n_measures - _MOST_FIGURES
    nulls = "Grey areas: the null distribution, where there is one." if has_nulls else "The table has chance and p."
    return (
        f"n = {count_in_words(n_subjects, 'subject')}. Bars and bands: 95 % intervals over subjects. {nulls} "
        "Grey marks: controls; the table has those that leave the picture."
        + (f" The table has {count_in_words(beyond, 'further measure')}." if beyond > 0 else "")
    )


def _row(row: pd.Series) -> ProbeRow:
    return ProbeRow(
        label=str(row["label"]),
        is_control=bool(row["is_control"]),
        x=f"{row['x']:g}" if np.isfinite(row["x"]) else "",
        value=number(row["value"]),
        interval=interval(row["low"], row["high"]),
        null=number(row["null"]) if np.isfinite(row["null"]) else "",
        p=p_value(row["p"]),
        n_subjects=int(row["n_subjects"]),
    )


def _alt(measure: str, rows: pd.DataFrame) -> str:
    first = rows[rows["value"].notna()].head(8)
    values = ", ".join(f"{row['label']} {number(row['value'])}" for _, row in first.iterrows())
    return f"{measure}: {values}."


def _maps(maps: Sequence[StatMap]) -> list[MapFigure]:
    """Draw the maps; those of p values are described, with the map that they test (``lostq`` of ``lost``)."""
    tests = {stat_map.stat: stat_map for stat_map in maps if "Correction" in stat_map.sidecar}
    drawn = [stat_map for stat_map in maps if stat_map.stat not in tests]
    figures = [_map(stat_map, tests.pop(f"{stat_map.stat}q", None)) for stat_map in drawn]
    return figures + [_alone(test) for test in tests.values()]


def _map(stat_map: StatMap, test: StatMap | None) -> MapFigure:
    title = str(stat_map.sidecar.get("Description", stat_map.stat))
    if test is None:
        return draw_map(stat_map, title, test="")
    below, n_values = _below_threshold(test)
    if n_values and not below:
        reason = f"no {stat_map.unit} are below the threshold, {_ALPHA} corrected ({test.sidecar['Correction']})"
        return draw_map(stat_map, title, test="", no_finding=reason)
    return draw_map(
        stat_map,
        title,
        test=f"Drawn without a threshold; corrected p ({test.sidecar['Correction']}) is below {_ALPHA} in {below:,} of "
        f"{n_values:,} {test.unit}.",
    )


def _alone(test: StatMap) -> MapFigure:
    """Describe a map of p values without the map that it tests."""
    title = str(test.sidecar.get("Description", test.stat))
    below, n_values = _below_threshold(test)
    return {
        "empty": f"{title}: below {_ALPHA} in {below:,} of {n_values:,} {test.unit} ({test.sidecar['Correction']})."
    }


def _below_threshold(test: StatMap) -> tuple[int, int]:
    values = map_values(test.path)
    return int((values < _ALPHA).sum()), len(values)
