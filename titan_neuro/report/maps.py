"""Maps of the report: which are shown, with their captions."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from titan_neuro.evaluation.metrics_and_rows import AR, LEAD_TIME_POINTS, METRICS_BY_NAME, ROWS, count_in_words
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.report.brain import (
    FROM_ZERO,
    has_picture,
    map_values,
    plot_map,
    plot_on_surface,
    space_note,
    symmetric_limit,
)
from titan_neuro.report.numbers import number
from titan_neuro.report.records import Results, StatMap
from titan_neuro.report.results import file_label
from titan_neuro.report.style import png_uri
from titan_neuro.report.surface_viewer import SurfaceViewer, surface_viewer
from titan_neuro.report.surfaces import StructureRow, structure_rows
from titan_neuro.report.viewer import MapViewer, map_viewer

NOT_TESTED = "Not tested for significance, hence not corrected for multiple tests."
"""Of figures and maps without p values."""

_TIMESCALE_TITLE = "Timescale: the shortest context with 90 % of the gain in skill_ar"
_METRIC_OF_STAT = {name.replace("_", ""): name for name in METRICS_BY_NAME}


class MapFigure(TypedDict, total=False):
    """A map for the template: pictures, or a table of structures where no mesh is at hand to draw a surface on.

    Or a sentence (`empty`), or the title of a map that is missing (`absent`). `on_surface` is a picture of a volume on
    fsaverage5.
    """

    pictures: list[tuple[str, str]]
    structures: list[StructureRow]
    title: str
    caption: str
    file: str
    empty: str
    absent: str
    on_surface: tuple[str, str]
    viewer: MapViewer
    surface_viewer: SurfaceViewer


class MapsSection(TypedDict):
    """The maps of the forecast."""

    figures: list[MapFigure]
    unit: str
    on_brain: bool


def maps_section(results: Results) -> MapsSection | None:
    """Show `skill_ar` and `r2` of the study's model and `r2` of linear autoregression, at the shortest lead time.

    Parameters
    ----------
    results : Results

    Returns
    -------
    MapsSection or None
        ``None`` where there is no such map.
    """
    model = file_label(results.main_model) or next(
        (stat_map.model for stat_map in results.maps if stat_map.model != AR), ""
    )
    horizon = min((stat_map.horizon for stat_map in results.maps if stat_map.model == model), default=0)
    available = {(stat_map.model, stat_map.stat): stat_map for stat_map in results.maps if stat_map.horizon == horizon}
    shown = [(model, "skillar"), (model, "r2"), (AR, "r2")]
    maps = {key: available[key] for key in shown if key in available}
    if not maps:
        return None
    limit = _shared_limit([stat_map for (_, stat), stat_map in maps.items() if stat == "r2"])
    figures: list[MapFigure] = []
    for name, stat in shown:
        row = ROWS[AR].label if name == AR else results.main_model or model
        title = f"{_METRIC_OF_STAT[stat]} of {row}, lead time {count_in_words(horizon, 'time point')}"
        stat_map = maps.get((name, stat))
        if stat_map is None:
            figures.append({"absent": title})
        else:
            no_finding = _no_skill(results, horizon) if stat == "skillar" else ""
            end = limit if stat == "r2" else None
            figure = draw_map(stat_map, title, sample=_sample(results, stat), limit=end, no_finding=no_finding)
            if stat == "skillar" and "pictures" in figure:
                _add_viewers(figure, stat_map, pale=bool(no_finding))
            figures.append(figure)
    first = next(iter(maps.values()))
    return {"figures": figures, "unit": first.unit, "on_brain": bool(first.images)}


def _add_viewers(figure: MapFigure, stat_map: StatMap, *, pale: bool) -> None:
    """Add what shows all of a map: its slices, and both hemispheres, as far as it can be placed on them."""
    for path in stat_map.images:
        is_volume = path.name.endswith(".nii.gz")
        if is_volume:
            figure["viewer"] = map_viewer(path, stat_map.stat, pale=pale)
        turned = surface_viewer(path, stat_map.sidecar, stat_map.stat, pale=pale)
        if turned is None:
            continue
        figure["surface_viewer"] = turned
        if is_volume:
            picture = png_uri(plot_on_surface(path, stat_map.sidecar, figure["title"], pale=pale))
            peaks = "; ".join(
                f"{peak.hemisphere} {peak.x}, {peak.y}, {peak.z} mm: {peak.value}" for peak in turned["peaks"]
            )
            figure["on_surface"] = picture, f"Surface map: {figure['title']}. Highest values: {peaks}."


def _no_skill(results: Results, horizon: int) -> str:
    """Say why the map of the skill shows no finding; empty where the whole interval of its mean lies above 0."""
    scores = results.scores
    if scores is None or not results.main_model:
        return ""
    rows = scores[(scores["model"] == results.main_model) & (scores[LEAD_TIME_POINTS] == horizon)]
    if rows.empty or float(rows["skill_ar_low"].iloc[0]) > 0:
        return ""
    return "the 95 % interval of the mean skill is not above 0, which is the threshold of a finding"


def timescale_figure(results: Results) -> MapFigure:
    """Show the map of the context-length probe, or say that there is none."""
    if results.timescale is None:
        return {"absent": "the map of timescales"}
    return draw_map(results.timescale, _TIMESCALE_TITLE, sample=_sample(results, "timescale"))


def draw_map(
    stat_map: StatMap,
    title: str,
    *,
    sample: str = "",
    test: str = NOT_TESTED,
    limit: float | None = None,
    no_finding: str = "",
) -> MapFigure:
    """Draw a map, or say that it has no values.

    Parameters
    ----------
    stat_map : StatMap
    title : str
    sample : str
        First sentence of the caption: the subjects that were averaged.
    test : str
        Sentence of the caption on the test of significance.
    limit : float, optional
        See `plot_map`.
    no_finding : str
        Why the map shows no finding, with the threshold: it is then drawn pale, and the caption says so.
    """
    values = map_values(stat_map.path)
    if values.size == 0:
        reason = "gain from a longer context" if stat_map.stat == "timescale" else "have a value"
        return {"empty": f"{title}: no {stat_map.unit} {reason}, so there is no picture."}
    spread, pale = _spread(stat_map, values), f"Drawn pale: {no_finding}." if no_finding else ""
    sidecar = stat_map.sidecar
    drawn = [path for path in stat_map.images if has_picture(path, sidecar)]
    pictures = [(path, "Brain map") for path in drawn]
    pictures += [(stat_map.path, "Values of parcels")] if stat_map.is_parcels else []
    note = space_note(sidecar) if any(path.name.endswith(".nii.gz") for path in drawn) else ""
    files = [stat_map.path, *([stat_map.image] if stat_map.image else [])]
    return {
        "pictures": [
            (
                png_uri(plot_map(path, sidecar, title, limit=limit, pale=bool(no_finding), note=False)),
                f"{kind}: {title}. {spread}",
            )
            for path, kind in pictures
        ],
        "structures": [row for path in stat_map.images if path not in drawn for row in structure_rows(path)],
        "title": title,
        "caption": " ".join(part for part in (pale, sample, spread, test, note) if part),
        "file": ", ".join(path.name for path in files),
    }


def _shared_limit(maps: list[StatMap]) -> float | None:
    """End of the color scale that the maps of `r2` share."""
    values = [map_values(stat_map.path) for stat_map in maps]
    return symmetric_limit(np.concatenate(values)) if any(part.size for part in values) else None


def _spread(stat_map: StatMap, values: FloatArray) -> str:
    if stat_map.stat == "timescale":
        low, middle, high = np.percentile(values, (10, 50, 90))
        return (
            f"{len(values):,} {stat_map.unit} gain from a longer context; the others are left blank. Median "
            f"timescale {middle:.3g} s; 10th to 90th percentile {low:.3g} to {high:.3g} s."
        )
    if stat_map.stat in FROM_ZERO:
        low, middle, high = np.percentile(values, (10, 50, 90))
        unit = f" {stat_map.sidecar['Units']}" if "Units" in stat_map.sidecar else ""
        return (
            f"{len(values):,} {stat_map.unit}. Median {middle:.3g}{unit}; 10th to 90th percentile {low:.3g} to "
            f"{high:.3g}{unit}."
        )
    share = float(np.mean(values > 0))
    # "100%" would say all, and "0%" none.
    percent = "more than 99%" if 0.995 <= share < 1 else "less than 1%" if 0 < share < 0.005 else f"{share:.0%}"
    return f"Median {number(float(np.median(values)))}; {percent} of {len(values):,} {stat_map.unit} are above 0."


def _sample(results: Results, stat: str) -> str:
    table = results.curve if stat == "timescale" else results.scores
    if table is None:
        return ""
    subjects = count_in_words(int(table["n_subjects"].max()), "subject")
    return f"From the mean skill_ar of {subjects}." if stat == "timescale" else f"Mean over {subjects}, no threshold."
