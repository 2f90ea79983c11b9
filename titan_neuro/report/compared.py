"""One page with two studies side by side; differences are taken within each person, where both were scored alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from titan_neuro.errors import InputNotFoundError
from titan_neuro.evaluation.metrics_and_rows import (
    FEW_SUBJECTS,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    ablation_of,
    count_in_words,
    interval_columns,
    row_of,
)
from titan_neuro.evaluation.tables import summarize
from titan_neuro.files import inside, is_plain_name, write_text
from titan_neuro.manifests import Check, State
from titan_neuro.report.answers import answers
from titan_neuro.report.comparable import Comparability, comparability, different_settings, values_by_person
from titan_neuro.report.figures import headline_figure, paired_figure
from titan_neuro.report.headlines import best_baseline, better_or_worse, result_sentence
from titan_neuro.report.numbers import interval, number
from titan_neuro.report.records import Results
from titan_neuro.report.rendering import render
from titan_neuro.report.results import read_results
from titan_neuro.report.style import BASELINE_COLOR, MODEL_COLOR, svg_uri
from titan_neuro.report.tables import Cell, lead_time_headings, score_cell, values_in_words

_METRICS = ("skill_ar", "r2")


@dataclass(frozen=True)
class ComparedStudy:
    """An output folder, and the states of its results by the names of their manifests (None: taken as they are)."""

    output_dir: Path
    states: Mapping[str, Check] | None = None


class Comparison(NamedTuple):
    """The page, and its result in a few lines for the terminal."""

    page: Path
    lines: list[str]


def write_comparison(first: ComparedStudy, second: ComparedStudy) -> Comparison:
    """Write ``compared-with-NAME.html`` into the first of two output folders; NAME is the folder of the second.

    No stage has both studies, so that this page computes what it shows: differences within each person who was scored
    in the same runs by both, their means, and bootstrap intervals over people. Where the studies scored other data or
    prepared them differently, it gives no difference and says why.

    Parameters
    ----------
    first, second : ComparedStudy
        With forecast scores.

    Raises
    ------
    InputNotFoundError
        One of them is no output folder, or no model was scored in it.
    MetadataError
        A file lacks what its schema asks for.
    OutputError
        The page can't be written.
    """
    results = _scored(first), _scored(second)
    shared = comparability(*results)
    pairs = {} if shared.reasons else {metric: _differences(*results, shared, metric) for metric in _METRICS}
    sentence = _sentence(*results, shared, pairs.get("skill_ar"))
    name = second.output_dir.resolve().name
    target = inside(first.output_dir, f"compared-with-{name if is_plain_name(name) else 'other'}.html")
    studies = [_study(letter, study, of) for letter, study, of in zip("AB", (first, second), results, strict=True)]
    content = {
        "studies": studies,
        "sentence": sentence,
        "reasons": shared.reasons,
        "warnings": shared.warnings,
        "aspects": shared.aspects,
        "settings": different_settings(*results),
        "curve": _curve(results),
        "skills": _skill_rows(results),
        "paired": _paired_section(pairs, shared, results[0]),
        "parts": _part_rows(results),
        "answers": _answer_rows(results),
    }
    write_text(target, render("compared.html", content))
    lines = [sentence, *(f"Note: {text}" for text in shared.warnings)]
    return Comparison(target, lines)


def _scored(study: ComparedStudy) -> Results:
    results = read_results(study.output_dir, study.states)
    if results.scores is None or not results.main_model:
        raise InputNotFoundError(
            f"{study.output_dir}: no model is scored there, so there is nothing to compare.",
            "Run `titan-neuro evaluate` on it first.",
        )
    return results


def _scores_of(results: Results) -> pd.DataFrame:
    return pd.DataFrame() if results.scores is None else results.scores


def _study(letter: str, study: ComparedStudy, results: Results) -> dict[str, str]:
    check = (study.states or {}).get("evaluate")
    return {
        "letter": letter,
        "folder": study.output_dir.resolve().name,
        "path": str(study.output_dir),
        "name": results.name,
        "model": results.main_model,
        "result": result_sentence(results),
        "stale": check.why if check is not None and check.state is State.STALE else "",
    }


def _differences(first: Results, second: Results, shared: Comparability, metric: str) -> pd.DataFrame:
    """Return A minus B: a row for each person, a column for each lead time."""
    one, other = (values_by_person(results, results.main_model, metric) for results in (first, second))
    rows = {
        who: {points: one[who, points] - other[who, points] for points in shared.lead_times} for who in shared.people
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(shared.lead_times))


def _sentence(first: Results, second: Results, shared: Comparability, differences: pd.DataFrame | None) -> str:
    """Say in plain words what differs in the scores, or why that can't be said."""
    if differences is None:
        return f"The scores of these studies can't be compared. {' '.join(shared.reasons)}"
    mean, low, high = summarize(differences.mean(axis=1).to_numpy(float), "difference")
    people = count_in_words(len(differences), "person").replace("persons", "people")
    ends = interval(low, high)
    sentence = (
        f"In the same {people}, the skill of {first.main_model} in A minus that of {second.main_model} in B is "
        f"{number(mean)} on average over {count_in_words(differences.shape[1], 'lead time')}"
        f"{f' (95 %: {ends})' if ends else ''}."
    )
    if len(differences) < FEW_SUBJECTS:
        return f"{sentence} So few people support no claim about others."
    by_lead_time = _summary(differences)
    shown = better_or_worse(by_lead_time)
    if not shown:
        return f"{sentence} No difference is shown at any lead time."
    return f"{sentence} A is {shown} of {len(by_lead_time)} lead times; these are not corrected for their number."


def _curve(results: Sequence[Results]) -> dict[str, str]:
    """Skill over lead time of both models."""
    rows = []
    for letter, color, of in zip("AB", (MODEL_COLOR, BASELINE_COLOR), results, strict=True):
        scores = _scores_of(of)
        table = scores[scores["model"] == of.main_model].sort_values(LEAD_TIME_POINTS)
        rows.append((f"{letter}: {of.main_model}", color, table))
    values = "; ".join(f"{label}: {values_in_words(table, 'skill_ar')}" for label, _, table in rows)
    return {"source": svg_uri(headline_figure(rows)), "alt": f"Skill over how far ahead is forecast. {values}."}


def _skill_rows(results: Sequence[Results]) -> dict[str, Any]:
    """Make a table of the model and the best baseline of each study, a column for each lead time of either."""
    tables = [_scores_of(of) for of in results]
    seconds = sorted({float(value) for table in tables for value in table[LEAD_TIME_S]})
    rows = []
    for letter, of, table in zip("AB", results, tables, strict=True):
        baseline = best_baseline(table)
        for name in dict.fromkeys([of.main_model, *([baseline.name] if baseline else [])]):
            by_time = {float(row[LEAD_TIME_S]): row for _, row in table[table["model"] == name].iterrows()}
            cells = [score_cell(by_time[at], "skill_ar") if at in by_time else None for at in seconds]
            rows.append({"study": letter, "name": name, "label": row_of(name).label, "cells": cells})
    return {"seconds": [f"{at:g} s" for at in seconds], "rows": rows}


def _paired_section(pairs: Mapping[str, pd.DataFrame], shared: Comparability, first: Results) -> dict[str, Any] | None:
    if not pairs:
        return None
    scores = _scores_of(first)
    seconds = dict(zip(scores[LEAD_TIME_POINTS], scores[LEAD_TIME_S], strict=True))
    summaries = {metric: _summary(differences) for metric, differences in pairs.items()}
    figure = paired_figure(pairs["skill_ar"], summaries["skill_ar"], seconds)
    return {
        "lead_times": lead_time_headings(scores[scores[LEAD_TIME_POINTS].isin(shared.lead_times)]),
        "rows": [{"metric": metric, "cells": _cells(table)} for metric, table in summaries.items()],
        "source": svg_uri(figure),
        "alt": f"skill_ar of A minus that of B, a dot for each of {len(shared.people)} people, by lead time.",
        "people": [
            {"name": who, "cells": [number(float(value), 4) for value in row]}
            for who, row in pairs["skill_ar"].iterrows()
        ],
        "n_people": len(shared.people),
    }


def _summary(differences: pd.DataFrame) -> pd.DataFrame:
    """Mean over people and its 95 % interval, a row for each lead time."""
    rows = [summarize(differences[points].to_numpy(float), "difference") for points in differences]
    return pd.DataFrame(rows, columns=list(interval_columns(["difference"])), index=differences.columns)


def _cells(summary: pd.DataFrame) -> list[Cell]:
    return [score_cell(row, "difference", decimals=4) for _, row in summary.iterrows()]


def _part_rows(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Make a row for each row without a part that one of the studies has: what the part adds in each."""
    found = [_parts_of(of) for of in results]
    return [
        {"name": name, "cells": [parts.get(name) for parts in found]}
        for name in dict.fromkeys(name for parts in found for name in parts)
    ]


def _parts_of(results: Results) -> dict[str, dict[str, Any]]:
    """What each part adds to the mean skill, by the name of the part."""
    if results.ablations is None:
        return {}
    parts = {}
    for _, row in results.ablations.iterrows():
        name = str(row["compared_with"])
        ablation = ablation_of(name)
        cell = score_cell(row, "mean_difference", decimals=4)
        parts[ablation.part if ablation else row_of(name).label] = {**cell, "effect": str(row["effect"])}
    return parts


def _answer_rows(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Answer the question of each probe for both studies."""
    return [
        {"question": pair[0].question, "answers": [(answer.conclusion, answer.reason) for answer in pair]}
        for pair in zip(*(answers(of) for of in results), strict=True)
    ]
