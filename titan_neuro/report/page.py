"""One HTML page that tells an output folder's results and needs nothing but itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from titan_neuro.evaluation.vocabulary import ROLLOUT_METRICS
from titan_neuro.files import write_text
from titan_neuro.report.brain import map_values, plot_map, space_note, symmetric_limit
from titan_neuro.report.figures import context_figure, horizon_figure, png_uri, svg_uri, training_figure
from titan_neuro.report.limits import limits
from titan_neuro.report.probes import probe_sections
from titan_neuro.report.results import Results, StatMap, horizons_of, plain_name, read_results
from titan_neuro.report.tables import (
    ceiling_rows,
    number,
    provenance_facts,
    residual_rows,
    score_groups,
    scoring_facts,
    stage_rows,
    subject_rows,
    training_rows,
)

_TEMPLATE = Path(__file__).with_name("template.html")
_MAP_METRICS = {"skillar": "skill_ar", "r2": "r2"}
_TIMESCALE_TITLE = "Timescale: the shortest context with 90 % of the gain"
_NOT_TESTED = "No test is made, hence no correction."


def write_report(output_dir: Path) -> Path:
    """Write ``report.html`` of an output folder, from the files that its stages left.

    The page holds its figures; it asks no other host or file for anything and runs no script. A stage that has not run
    is named, with the command that runs it.

    Parameters
    ----------
    output_dir : Path
        A BIDS derivative written by Titan-Neuro, of one task.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputNotFoundError
        `output_dir` is no output folder.
    MetadataError
        A file lacks what its schema asks for.
    ImageError
        A map can't be read.
    OutputError
        The page can't be written.
    """
    results = read_results(output_dir)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        name=results.name,
        summary=str(results.scores_sidecar.get("Summary", "")),
        comparisons=results.scores_sidecar.get("Comparisons", []),
        no_ceiling=results.scores_sidecar.get("MissingCeilings", {}),
        caveats=results.scores_sidecar.get("Caveats", []),
        model=results.main_model,
        scoring=None if results.scores is None else scoring_facts(results),
        scores=_scores_section(results),
        high_motion=_moving_section(results),
        rollouts=_rollouts_section(results),
        ceilings=None if results.ceilings is None else _ceilings_section(results.ceilings),
        maps=_maps_section(results),
        context=_context_section(results),
        probes=probe_sections(results.probes),
        training=_training_section(results),
        subjects=_subjects_section(results),
        stages=stage_rows(results.stages),
        provenance=provenance_facts(results.stages),
        config=results.config,
        limits=limits(results),
    )
    target = output_dir / "report.html"
    write_text(target, page)
    return target


def _scores_section(results: Results) -> dict[str, Any] | None:
    scores = results.scores
    if scores is None:
        return None
    figures = []
    main = scores[scores["model"] == results.main_model]
    for metric in ("skill_ar", "r2"):
        values = f" {results.main_model}: {_values_in_words(main, metric)}." if len(main) else ""
        figures.append(
            {
                "source": svg_uri(horizon_figure(scores, results.subjects, metric, results.main_model)),
                "alt": f"{metric} over horizon, a line per model.{values}",
            }
        )
    n_subjects = int(scores["n_subjects"].max())
    dots = "" if results.subjects is None else ", those of the model as dots"
    return {
        "horizons": _horizons_of(scores),
        "groups": score_groups(scores),
        "figures": figures,
        "caption": f"n = {_count(n_subjects, 'subject')}{dots}. {_interval_words(n_subjects)} {_NOT_TESTED}",
    }


def _moving_section(results: Results) -> dict[str, Any] | None:
    high_motion = results.high_motion
    if high_motion is None:
        return None
    n_subjects = _count(int(high_motion["n_subjects"].max()), "subject")
    return {
        "horizons": _horizons_of(high_motion),
        "groups": score_groups(high_motion, ("skill_ar", "r2")),
        "caption": f"{int(high_motion['n_time_points'].max()):,} time points of {n_subjects}; none of them is in the table above.",
    }


def _rollouts_section(results: Results) -> dict[str, Any] | None:
    rollouts = results.rollouts
    if rollouts is None:
        return None
    main = rollouts[rollouts["model"] == results.main_model]
    n_subjects = int(rollouts["n_subjects"].max())
    return {
        "horizons": _horizons_of(rollouts),
        "groups": score_groups(rollouts, ROLLOUT_METRICS),
        "source": svg_uri(horizon_figure(rollouts, None, "skill_ar", results.main_model)),
        "alt": f"skill_ar of rollouts over horizon, a line per model. {_values_in_words(main, 'skill_ar')}",
        "caption": f"Rollouts. n = {_count(n_subjects, 'subject')}. {_interval_words(n_subjects)} {_NOT_TESTED} "
        "Baselines are begun from every eighth of the time points that the models are begun from; each row is held against "
        "linear AR on its own targets.",
        "residuals": [] if results.residuals is None else residual_rows(results.residuals),
    }


def _ceilings_section(ceilings: pd.DataFrame) -> dict[str, Any]:
    return {"horizons": horizons_of(ceilings), "rows": ceiling_rows(ceilings)}


def _horizons_of(table: pd.DataFrame) -> list[tuple[int, str]]:
    seconds = dict(zip(table["lead_time_points"], table["lead_time_s"], strict=True))
    return [(horizon, f"{seconds[horizon]:g} s") for horizon in horizons_of(table)]


def _maps_section(results: Results) -> dict[str, Any] | None:
    model = plain_name(results.main_model) or next((one.model for one in results.maps if one.model != "ar"), "")
    horizon = min((one.horizon for one in results.maps if one.model == model), default=0)
    wanted = [(model, "skillar"), (model, "r2"), ("ar", "r2")]
    made = {(one.model, one.stat): one for one in results.maps if one.horizon == horizon}
    found = {key: made[key] for key in wanted if key in made}
    if not found:
        return None
    of_r2 = [map_values(one.path) for (_, stat), one in found.items() if stat == "r2"]
    shared = symmetric_limit(np.concatenate(of_r2)) if any(values.size for values in of_r2) else None
    figures = []
    for key in wanted:
        name = "linear AR" if key[0] == "ar" else results.main_model or model
        title = f"{_MAP_METRICS[key[1]]} of {name}, {_count(horizon, 'time_point')} ahead"
        limit = shared if key[1] == "r2" else None
        figures.append(_map_figure(results, found.get(key), title, limit) or {"absent": title})
    return {"figures": figures, "parcels": not all(one.is_volume for one in found.values())}


def _map_figure(results: Results, drawn: StatMap | None, title: str, limit: float | None) -> dict[str, str] | None:
    """What the template needs to show a map, or to say that it is empty; ``None`` where there is no map."""
    if drawn is None:
        return None
    values = map_values(drawn.path)
    unit = "voxels" if drawn.is_volume else "parcels"
    if values.size == 0:
        why = (
            f"no {unit} gain from a longer context" if drawn.stat == "timescale" else f"none of the {unit} has a value"
        )
        return {"empty": f"{title}: {why}, so there is nothing to draw."}
    spread = _spread(drawn.stat, values, unit)
    where = space_note(drawn.sidecar) if drawn.is_volume else ""
    return {
        "source": png_uri(plot_map(drawn.path, drawn.sidecar, title, limit=limit)),
        "alt": f"{'Brain map' if drawn.is_volume else 'Values of parcels'}: {title}. {spread}",
        "caption": f"{_map_sample(results, drawn.stat)} {spread} {_NOT_TESTED} {where}".strip(),
        "file": drawn.path.name,
    }


def _spread(stat: str, values: np.ndarray, unit: str) -> str:
    if stat == "timescale":
        low, middle, high = np.percentile(values, (10, 50, 90))
        return (
            f"{len(values):,} {unit} gain from a longer context (the others are left blank); 10th, 50th and 90th "
            f"percentile {low:.3g}, {middle:.3g} and {high:.3g} s."
        )
    return f"Median {number(float(np.median(values)))}; {np.mean(values > 0):.0%} of {len(values):,} {unit} above zero."


def _map_sample(results: Results, stat: str) -> str:
    table = results.curve if stat == "timescale" else results.scores
    if table is None:
        return ""
    n_words = _count(int(table["n_subjects"].max()), "subject")
    return f"From the mean skill of {n_words}." if stat == "timescale" else f"Mean over {n_words}, no threshold."


def _context_section(results: Results) -> dict[str, Any] | None:
    curve = results.curve
    if curve is None:
        return None
    n_subjects = int(curve["n_subjects"].max())
    timescale = _map_figure(results, results.timescale, _TIMESCALE_TITLE, None)
    return {
        "source": svg_uri(context_figure(curve)),
        "alt": f"skill_ar against context in s, a line per horizon. With the whole run: "
        f"{_values_in_words(curve[curve['whole_run']], 'skill_ar') or 'not scored'}.",
        "caption": (
            "skill_ar with the memory cut to the last seconds; h: horizon in time points; diamonds: the whole run. "
            f"n = {_count(n_subjects, 'subject')}. {_interval_words(n_subjects)} {_NOT_TESTED}"
        ),
        "timescale": timescale or {"absent": "the map of timescales"},
    }


def _training_section(results: Results) -> dict[str, Any] | None:
    if not results.training:
        return None
    rows = training_rows(results.training)
    best = ", ".join(f"{row['fold']} {row['best']}" for row in rows)
    return {
        "source": svg_uri(training_figure(results.training)),
        "alt": f"skill_ar on the validation runs over epochs. Best by fold: {best}.",
        "rows": rows,
    }


def _subjects_section(results: Results) -> dict[str, Any] | None:
    subjects = results.subjects
    if subjects is None:
        return None
    model = results.main_model or str(subjects["model"].iloc[-1])
    return {"model": model, "horizons": horizons_of(subjects), "rows": subject_rows(subjects, model)}


def _values_in_words(rows: pd.DataFrame, column: str) -> str:
    pairs = zip(rows["lead_time_points"], rows[column], strict=True)
    return ", ".join(f"{number(value)} at {_count(horizon, 'time_point')}" for horizon, value in pairs)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _interval_words(n_subjects: int) -> str:
    return "Bands: 95 % bootstrap over subjects." if n_subjects >= 3 else "No interval below 3 subjects."
