"""One HTML page with the results of an output folder; it needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from titan_neuro.evaluation.metrics_and_rows import (
    ABOVE_ZERO,
    AR,
    EFFECTS,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    METRICS,
    METRICS_BY_NAME,
    ROLLOUT_METRICS,
    count_in_words,
    row_of,
)
from titan_neuro.files import write_text
from titan_neuro.manifests import Check, State
from titan_neuro.report.answers import answers
from titan_neuro.report.figures import context_figure, headline_figure, lead_time_figure, training_figure
from titan_neuro.report.headlines import (
    asked,
    best_baseline,
    ceiling_rows_of,
    not_shown_sentence,
    parts_sentence,
    result_sentence,
)
from titan_neuro.report.limits import limits
from titan_neuro.report.maps import NOT_TESTED, maps_section, timescale_figure
from titan_neuro.report.methods import CITATIONS, methods_paragraphs, provenance_terms, scoring_terms, stage_rows
from titan_neuro.report.probes import probe_sections
from titan_neuro.report.quality import QUALITY_COLUMNS, QUALITY_NOTE, quality_rows
from titan_neuro.report.records import Results
from titan_neuro.report.rendering import render
from titan_neuro.report.results import lead_times_of, read_results
from titan_neuro.report.snr import snr_map
from titan_neuro.report.style import BASELINE_COLOR, CEILING_COLOR, MODEL_COLOR, svg_uri
from titan_neuro.report.surprise_courses import course_figure
from titan_neuro.report.tables import (
    ablation_rows,
    ceiling_rows,
    comparison_rows,
    lead_time_headings,
    residual_rows,
    score_groups,
    subject_rows,
    training_rows,
    values_in_words,
)
from titan_neuro.typing import HIGH_MOTION_MM

_DRAWN_METRICS = ("skill_ar", "r2")
# Probes whose results stand with the context length, as what the memory does while it reads.
_OF_MEMORY = ("history-swap", "surprise")


def write_report(output_dir: Path, states: Mapping[str, Check] | None = None, problem: str | None = None) -> Path:
    """Write ``report.html`` of an output folder, from the files that its stages wrote.

    The page contains its figures and refers to no other host or file. It runs one script, which sorts tables and is
    named by its digest: text from files can't become another one. A stage that has not run is named, with the command
    that runs it.

    Parameters
    ----------
    output_dir : Path
        A BIDS derivative written by Titan-Neuro, of one task.
    states : mapping of str to Check, optional
        State of each result, by the name of its manifest. What is damaged or missing is not drawn; what is stale is
        drawn under a red band that says what has changed since. By default every file is taken as it is.
    problem : str, optional
        Why the results could not be compared with the prepared runs.

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
    content = _content(read_results(output_dir, states), states or {}, problem)
    target = output_dir / "report.html"
    write_text(target, render("page.html", content))
    return target


def _content(results: Results, states: Mapping[str, Check], problem: str | None) -> dict[str, Any]:
    """All variables of the templates; ``None`` or empty where a stage has not run."""
    metadata = results.metadata
    return {
        "name": results.name,
        "files": f"group/task-{results.task}_desc",
        "result": result_sentence(results),
        "not_shown": not_shown_sentence(results),
        "asked": asked(results),
        "headline": _headline_section(results),
        "answers": answers(results),
        "quality": quality_rows(results.prepared),
        "snr": snr_map(results),
        "quality_columns": QUALITY_COLUMNS,
        "quality_note": QUALITY_NOTE,
        "parts": parts_sentence(results),
        "summary": metadata.summary if metadata else "",
        "caveats": metadata.caveats if metadata else [],
        "model": results.main_model,
        "scoring": None if results.scores is None or metadata is None else scoring_terms(results.scores, metadata),
        "scores": _scores_section(results),
        "ablations": _ablations_section(results),
        "comparisons": _comparisons_section(results),
        "high_motion": _high_motion_section(results),
        "rollouts": _rollouts_section(results),
        "ceilings": _ceilings_section(results),
        "missing_ceilings": metadata.missing_ceilings if metadata else {},
        "maps": maps_section(results),
        "context": _context_section(results),
        "course": course_figure(results.surprise),
        "memory_probes": probe_sections([probe for probe in results.probes if probe.name in _OF_MEMORY]),
        "probes": probe_sections([probe for probe in results.probes if probe.name not in _OF_MEMORY]),
        "methods": methods_paragraphs(results),
        "citations": CITATIONS,
        "training": _training_section(results),
        "subjects": _subjects_section(results),
        "stages": stage_rows(results.stages),
        "provenance": provenance_terms(results.stages),
        "config": results.config,
        "limits": limits(results),
        "problem": problem,
        **_outdated(states),
    }


def _outdated(states: Mapping[str, Check]) -> dict[str, Any]:
    """What has changed since a result was made: of the scores, each probe, the models, and the prepared runs."""

    def why(stage: str) -> dict[str, str]:
        return {name: check.why for name, check in states.items() if name.startswith(stage) and is_stale(check)}

    def is_stale(check: Check) -> bool:
        return check.state is State.STALE

    return {
        "stale_scores": why("evaluate").get("evaluate", ""),
        "stale_probes": {name.partition("/")[2]: text for name, text in why("probe/").items()},
        "stale_models": why("train/"),
        "changed_runs": {
            name.partition("/")[2]: check.why
            for name, check in states.items()
            if name.startswith("prepare/") and not check.is_done
        },
    }


def _headline_section(results: Results) -> dict[str, Any] | None:
    """The curve of the first screen: the study's model, the best baseline, and the ceiling."""
    scores, model = results.scores, results.main_model
    if scores is None or not model:
        return None
    rows = [(model, MODEL_COLOR, scores[scores["model"] == model].sort_values(LEAD_TIME_POINTS))]
    baseline, ceiling, notes = best_baseline(scores), ceiling_rows_of(results.ceilings), list[str]()
    if baseline is not None and baseline.name != AR:
        rows.append(("best baseline", BASELINE_COLOR, baseline.rows))
        notes.append(f"Best baseline: {baseline.name} ({row_of(baseline.name).label}).")
    if ceiling is not None:
        seconds = scores.drop_duplicates(LEAD_TIME_POINTS)[[LEAD_TIME_POINTS, LEAD_TIME_S]]
        rows.append(("ceiling", CEILING_COLOR, ceiling.rows.merge(seconds, on=LEAD_TIME_POINTS)))
        notes.append(f"Ceiling ({ceiling.name}): without the person's own past; a forecaster may exceed it.")
    values = "; ".join(f"{label}: {values_in_words(table, 'skill_ar')}" for label, _, table in rows)
    return {
        "source": svg_uri(headline_figure(rows)),
        "alt": f"Skill over how far ahead is forecast. {values}.",
        "caption": " ".join([_sample(scores), *notes]),
    }


def _scores_section(results: Results) -> dict[str, Any] | None:
    scores, main_model = results.scores, results.main_model
    if scores is None:
        return None
    figures = []
    for metric in _DRAWN_METRICS:
        values = values_in_words(scores[scores["model"] == main_model], metric)
        figures.append(
            {
                "source": svg_uri(lead_time_figure(scores, results.subjects, metric, main_model)),
                "alt": f"{metric} over lead time, a line per model." + (f" {main_model}: {values}." if values else ""),
            }
        )
    dots = "" if results.subjects is None else " Dots: subjects."
    baseline = best_baseline(scores)
    shown = scores[scores["model"].isin({main_model, AR, baseline.name if baseline else AR})]
    return {
        "lead_times": lead_time_headings(scores),
        "groups": score_groups(scores),
        "first_groups": score_groups(shown, METRICS[:1]),
        "n_rows": scores["model"].nunique(),
        "figures": figures,
        "caption": f"skill_ar is the {METRICS_BY_NAME['skill_ar'].label}. {_sample(scores)}{dots} {NOT_TESTED}",
    }


def _ablations_section(results: Results) -> dict[str, Any] | None:
    ablations, comparisons = results.ablations, results.comparisons
    if ablations is None or comparisons is None:
        return None
    return {
        "lead_times": lead_time_headings(comparisons),
        "rows": ablation_rows(ablations, comparisons),
        "direction": ABOVE_ZERO,
        "rules": list(EFFECTS.values()),
    }


def _comparisons_section(results: Results) -> dict[str, Any]:
    comparisons = results.comparisons
    if comparisons is not None and results.ablations is not None:
        # These have a table of their own.
        comparisons = comparisons[~comparisons["compared_with"].isin(results.ablations["compared_with"])]
    return {
        "sentences": results.metadata.comparisons if results.metadata else [],
        "lead_times": [] if comparisons is None else lead_time_headings(comparisons),
        "rows": [] if comparisons is None else comparison_rows(comparisons),
    }


def _high_motion_section(results: Results) -> dict[str, Any] | None:
    high_motion = results.high_motion
    if high_motion is None:
        return None
    n_time_points = count_in_words(int(high_motion["n_time_points"].max()), "time point")
    subjects = count_in_words(int(high_motion["n_subjects"].max()), "subject")
    return {
        "lead_times": lead_time_headings(high_motion),
        "groups": score_groups(high_motion, _DRAWN_METRICS),
        "caption": f"{n_time_points} of {subjects} have a framewise displacement (FD) above {HIGH_MOTION_MM} mm. The "
        "tables above don't contain them.",
    }


def _rollouts_section(results: Results) -> dict[str, Any] | None:
    rollouts, main_model = results.rollouts, results.main_model
    if rollouts is None:
        return None
    values = values_in_words(rollouts[rollouts["model"] == main_model], "skill_ar")
    return {
        "lead_times": lead_time_headings(rollouts),
        "groups": score_groups(rollouts, ROLLOUT_METRICS),
        "source": svg_uri(lead_time_figure(rollouts, None, "skill_ar", main_model, title="skill_ar of rollouts")),
        "alt": f"skill_ar of rollouts over lead time, a line per model. {main_model}: {values}.",
        "caption": f"Rollouts. {_sample(rollouts)} {NOT_TESTED} Networks start a rollout more often than the other "
        "rows. Each row is compared with linear autoregression on its own targets.",
        "residuals": [] if results.residuals is None else residual_rows(results.residuals),
    }


def _ceilings_section(results: Results) -> dict[str, Any] | None:
    if results.ceilings is None:
        return None
    lead_times = [count_in_words(points, "time point") for points in lead_times_of(results.ceilings)]
    return {"lead_times": lead_times, "rows": ceiling_rows(results.ceilings)}


def _context_section(results: Results) -> dict[str, Any] | None:
    curve = results.curve
    if curve is None:
        return None
    values = values_in_words(curve[curve["whole_run"]], "skill_ar") or "not scored"
    return {
        "source": svg_uri(context_figure(curve)),
        "alt": f"skill_ar over the length of the context in s, a line per lead time. With the whole run: {values}.",
        "caption": "skill_ar of a memory that reads the last seconds only. h: lead time in time points. Diamonds: the "
        f"memory reads the whole run. {_sample(curve)} {NOT_TESTED}",
        "timescale": timescale_figure(results),
    }


def _training_section(results: Results) -> dict[str, Any] | None:
    if not results.training:
        return None
    rows = training_rows(results.training)
    best = ", ".join(f"{row['fold']} {row['best']}" for row in rows)
    return {
        # Without epochs there are no curves.
        "source": svg_uri(training_figure(results.training)) if results.has_epochs else "",
        "alt": f"skill_ar on the validation runs over epochs. Best of each fold: {best}.",
        "rows": rows,
    }


def _subjects_section(results: Results) -> dict[str, Any] | None:
    subjects = results.subjects
    if subjects is None:
        return None
    model = results.main_model or str(subjects["model"].iloc[-1])
    return {"model": model, "lead_times": lead_times_of(subjects), "rows": subject_rows(subjects, model)}


def _sample(table: pd.DataFrame) -> str:
    """Number of subjects, and the meaning of the bands."""
    n_subjects = int(table["n_subjects"].max())
    bands = "Bands: 95 % intervals over subjects." if n_subjects >= 3 else "No intervals with fewer than 3 subjects."
    return f"n = {count_in_words(n_subjects, 'subject')}. {bands}"
