"""A page for a person: the recordings, the forecasts beside those of the group, and what the memory did and held."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from titan_neuro.data.store import RunStore
from titan_neuro.errors import NoMatchError, list_names, near_miss
from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS, LEAD_TIME_S
from titan_neuro.files import inside, write_text
from titan_neuro.manifests import Check, State
from titan_neuro.report.comparable import person_of
from titan_neuro.report.figures import person_figure
from titan_neuro.report.headlines import less_error
from titan_neuro.report.numbers import number
from titan_neuro.report.quality import QUALITY_COLUMNS, QUALITY_NOTE, brain_coverage, carpet_figure, quality_cells
from titan_neuro.report.records import Results
from titan_neuro.report.rendering import render
from titan_neuro.report.results import read_results
from titan_neuro.report.snr import snr_map
from titan_neuro.report.style import png_uri, svg_uri
from titan_neuro.report.surprise_courses import course_figure
from titan_neuro.report.tables import lead_time_headings, values_in_words

_METRICS = ("skill_ar", "r2")
# Carpet plots of further runs are left out: a page of all would be tens of megabytes.
_MOST_RUNS = 8


def write_person(output_dir: Path, label: str, states: Mapping[str, Check] | None = None) -> Path:
    """Write ``sub-LABEL.html`` of an output folder.

    Parameters
    ----------
    output_dir : Path
        A BIDS derivative written by Titan-Neuro, of one task.
    label : str
        Of the person, without ``sub-``.
    states : mapping of str to Check, optional
        As for `write_report`.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    NoMatchError
        Nobody of this label is prepared.
    InputNotFoundError
        `output_dir` is no output folder.
    MetadataError
        A file lacks what its schema asks for.
    ImageError, MismatchError
        A store can't be read, or was changed.
    OutputError
        The page can't be written.
    """
    results = read_results(output_dir, states)
    sidecars = {key: sidecar for key, sidecar in results.prepared.items() if person_of(key) == label}
    if not sidecars:
        people = sorted({person_of(key) for key in results.prepared})
        raise NoMatchError(
            f"{output_dir}: expected prepared runs of sub-{label}, found none.{near_miss(label, people)}",
            f"Prepared are: {list_names(people)}." if people else "Run `titan-neuro prepare` first.",
        )
    check = (states or {}).get("evaluate")
    forecasts = _forecasts(results, label)
    content = {
        "label": label,
        "name": results.name,
        "model": results.main_model,
        "sentence": _sentence(label, forecasts),
        "stale": check.why if check is not None and check.state is State.STALE else "",
        "quality_columns": QUALITY_COLUMNS[1:],
        "quality_note": QUALITY_NOTE,
        "quality": [{"run": key, "cells": quality_cells([sidecar])} for key, sidecar in sidecars.items()],
        "snr": snr_map(results, label),
        "runs": [_run(output_dir, key) for key in list(sidecars)[:_MOST_RUNS]],
        "more_runs": max(0, len(sidecars) - _MOST_RUNS),
        "forecasts": forecasts,
        "course": course_figure(results.surprise, label),
        "retold": _retold(results, label),
    }
    target = inside(output_dir, f"sub-{label}.html")
    write_text(target, render("person.html", content))
    return target


def _run(output_dir: Path, key: str) -> dict[str, str]:
    """Picture of a prepared run, what it covers of the brain, and what is not known of it."""
    [path] = output_dir.glob(f"sub-{person_of(key)}/**/func/{key}_desc-prepared_*.zarr")
    run = RunStore(path)
    displacement, covered = run.framewise_displacement, brain_coverage(run.space)
    if run.space.parcels:
        n_lost = len(run.space.lost_parcels)
        coverage = f"{run.space.n_features} of {run.space.n_features + n_lost} parcels of the atlas were recorded."
    elif covered is None:
        coverage = f"Coverage of the brain is not given: that needs volumes in MNI space (here: {run.space.name})."
    else:
        coverage = f"The mask holds {covered:.0%} of the brain of the MNI152 template."
    if displacement is None or not np.isfinite(displacement).any():
        motion = "Head motion is not known: the dataset has no table of confounds and no transforms of head motion."
    else:
        mean, highest = np.nanmean(displacement), np.nanmax(displacement)
        motion = f"FD: mean {mean:.2f} mm, highest {highest:.2f} mm. Dashed: high motion."
    return {
        "key": key,
        "source": png_uri(carpet_figure(run)),
        "alt": f"Carpet plot of {key}: {run.n_time_points} time points. {motion}",
        "caption": f"Rows: an even selection, cleaned and normalized as models read it. {motion} {coverage}",
    }


def _forecasts(results: Results, label: str) -> dict[str, Any] | None:
    """Scores of this person beside the group's; None where the person is not scored."""
    subjects, model = results.subjects, results.main_model
    if subjects is None or results.scores is None or not model:
        return None
    seconds = dict(zip(results.scores[LEAD_TIME_POINTS], results.scores[LEAD_TIME_S], strict=True))
    rows = subjects[subjects["model"] == model]
    own = rows[rows["subject"] == label].sort_values(LEAD_TIME_POINTS)
    if own.empty:
        return None
    tables = {metric: rows.pivot_table(index="subject", columns=LEAD_TIME_POINTS, values=metric) for metric in _METRICS}
    skill, means = tables["skill_ar"], tables["skill_ar"].mean()
    return {
        "lead_times": lead_time_headings(results.scores),
        "rows": [row for metric, table in tables.items() for row in _score_rows(metric, table, label)],
        "source": svg_uri(person_figure(skill, label, seconds)),
        "alt": f"skill_ar over how far ahead is forecast, of sub-{label}: {values_in_words(own, 'skill_ar')}.",
        "n_people": len(skill),
        "ends": [
            (seconds[int(row[LEAD_TIME_POINTS])], float(row["skill_ar"]), float(means[row[LEAD_TIME_POINTS]]))
            for _, row in own.iloc[sorted({0, len(own) - 1})].iterrows()
        ],
    }


def _score_rows(metric: str, table: pd.DataFrame, label: str) -> list[tuple[str, list[str]]]:
    position = list(table.index).index(label)
    own, ranks = (of.to_numpy(float)[position] for of in (table, table.rank(ascending=False, method="min")))
    return [
        (f"{metric} of sub-{label}", [number(float(value)) for value in own]),
        (f"{metric}, mean of all", [number(float(value)) for value in table.mean()]),
        (f"{metric}, rank among {len(table)}", [number(float(value), 0) for value in ranks]),
    ]


def _sentence(label: str, forecasts: Mapping[str, Any] | None) -> str:
    if forecasts is None:
        return f"sub-{label} was prepared. No forecast of a model was scored in this person."
    parts = [
        f"{less_error(own)} {seconds:g} s ahead (mean of all {forecasts['n_people']}: {_short(mean)})"
        for seconds, own, mean in forecasts["ends"]
    ]
    return (
        f"In sub-{label}, the forecasts have {' and '.join(parts)} than linear autoregression. One person's scores "
        "have no interval; nothing on this page is tested."
    )


def _short(skill: float) -> str:
    return less_error(skill).removesuffix(" squared error")


def _retold(results: Results, label: str) -> list[dict[str, str]]:
    """What was reinstated while this person retold the story; empty where the recall probe found nothing."""
    if results.reinstatement is None:
        return []
    rows = results.reinstatement[results.reinstatement["subject"] == label]
    means = results.reinstatement.groupby("source", sort=False)["reinstatement"].mean()
    return [
        {
            "source": str(row["source"]),
            "scenes": f"{int(row['n_retold'])} of {int(row['n_watched'])}",
            "own": number(float(row["reinstatement"])),
            "all": number(float(means[row["source"]])),
        }
        for _, row in rows.iterrows()
    ]
