"""Tables of the report as rows of finished text: what the template has to print and nothing to work out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from titan_neuro.evaluation.vocabulary import KIND_HEADINGS, METRICS, METRICS_BY_NAME, PROTOCOLS, RESIDUAL_METRICS, Kind
from titan_neuro.report.figures import model_style
from titan_neuro.report.results import Results, horizons_of

# Higher is better; the best is marked.
_RANKED = set(METRICS)
# The baseline that a skill is measured against scores zero by definition, and has no interval.
_REFERENCE = {"skill_ar": "ar", "skill": "persistence"}
_MISSING = "n/a"
_METADATA = {
    "Input dataset": "input_dataset_id",
    "Commit": "commit",
    "Versions": "versions",
    "System": "system",
    "Machine": "machine",
}


def number(value: float) -> str:
    """`value` with the digits that make sense for a score: three decimals, fewer where it is large."""
    if not math.isfinite(value):
        return _MISSING
    digits = 3 if abs(value) < 10 else 1
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def score_groups(scores: pd.DataFrame, metrics: Sequence[str] = METRICS) -> list[dict[str, Any]]:
    """Group of rows for each metric: a row per model, a cell per horizon, the best of each horizon marked.

    Reference lines are never the best: they are no forecasts.

    Parameters
    ----------
    scores : pandas.DataFrame
        The forecast table, or that of the rollouts.
    metrics : sequence of str
        Columns with an interval.

    Returns
    -------
    list of dict
        ``metric``, ``meaning`` and ``rows``; a row holds ``heading`` (of a new kind of rows, else empty), ``model``,
        ``color`` and ``cells``, a cell ``value``, ``interval`` (empty where there is none) and ``best``.
    """
    kinds = dict(zip(scores["model"], scores["kind"], strict=True))
    look = model_style(list(kinds))
    horizons = horizons_of(scores)
    ranked = scores[scores["kind"] != Kind.ORACLE_REFERENCE]
    groups = []
    for metric in metrics:
        best = ranked.groupby("lead_time_points")[metric].max().reindex(horizons)
        rows: list[dict[str, Any]] = []
        before = ""
        for model in sorted(kinds, key=lambda model: list(Kind).index(kinds[model])):
            own = scores[scores["model"] == model].drop_duplicates("lead_time_points").set_index("lead_time_points")
            cells = [
                _cell(own.loc[horizon], metric, float(best[horizon]) if metric in _RANKED else math.nan)
                if horizon in own.index
                else _empty_cell()
                for horizon in horizons
            ]
            heading = KIND_HEADINGS[Kind(kinds[model])] if kinds[model] != before else ""
            before = kinds[model]
            rows.append({"heading": heading, "model": model, "color": look[model][0], "cells": cells})
        groups.append({"metric": metric, "meaning": METRICS_BY_NAME[metric].formula, "rows": rows})
    return groups


def residual_rows(residuals: pd.DataFrame) -> list[dict[str, Any]]:
    """Row for each model: how white its errors one time point ahead are.

    Returns
    -------
    list of dict
        ``model`` and ``cells``, each with ``value`` and ``interval``.
    """
    return [
        {"model": row["model"], "cells": [_cell(row, metric, math.nan) for metric in RESIDUAL_METRICS]}
        for _, row in residuals.iterrows()
    ]


def ceiling_rows(ceilings: pd.DataFrame) -> list[dict[str, Any]]:
    """Row for each ceiling and measure, a cell per horizon.

    Returns
    -------
    list of dict
        ``name``, ``n_subjects``, ``metric`` and ``cells``, each with ``value`` and ``interval``.
    """
    rows = []
    for name, own in ceilings.groupby("ceiling", sort=False):
        at = own.sort_values("lead_time_points")
        rows += [
            {
                "name": name,
                "n_subjects": int(own["n_subjects"].max()),
                "metric": metric,
                "cells": [
                    {"value": number(row[metric]), "interval": _interval(row, metric)} for _, row in at.iterrows()
                ],
            }
            for metric in ("r2", "skill_ar")
        ]
    return rows


def subject_rows(subjects: pd.DataFrame, model: str) -> list[dict[str, Any]]:
    """Row for each subject: `skill_ar` and `r2` of `model` at each horizon.

    Parameters
    ----------
    subjects : pandas.DataFrame
        The forecast table per subject.
    model : str
        Name of the model.

    Returns
    -------
    list of dict
        ``subject``, ``n_runs``, ``n_time_points`` (the fewest over horizons) and ``cells``, text, first of `skill_ar`,
        then of `r2`.
    """
    horizons = horizons_of(subjects)
    rows = []
    for subject, own in subjects[subjects["model"] == model].groupby("subject", sort=True):
        at = own.drop_duplicates("lead_time_points").set_index("lead_time_points").reindex(horizons)
        rows.append(
            {
                "subject": subject,
                "n_runs": int(own["n_runs"].max()),
                "n_time_points": int(own["n_time_points"].min()),
                "cells": [number(value) for metric in ("skill_ar", "r2") for value in at[metric]],
            }
        )
    return rows


def training_rows(training: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    """Row for each seed and fold: how many epochs it was trained and where its validation stood at best and at the end.

    Parameters
    ----------
    training : dict of str to pandas.DataFrame
        ``training.csv`` of each seed and fold.

    Returns
    -------
    list of dict of str to str
        ``fold``, ``epochs``, ``best``, ``best_epoch``, ``last``, ``speed``.
    """
    rows = []
    for fold, table in training.items():
        skill = table["validation_skill_ar"]
        best = table.loc[skill.idxmax()] if skill.notna().any() else None
        speeds = table["volumes_per_s"].dropna()
        rows.append(
            {
                "fold": fold,
                "epochs": str(int(table["epoch"].max())),
                "best": _MISSING if best is None else number(best["validation_skill_ar"]),
                "best_epoch": _MISSING if best is None else str(int(best["epoch"])),
                "last": number(skill.iloc[-1]),
                "speed": f"{speeds.median():,.0f}" if len(speeds) else _MISSING,
            }
        )
    return rows


def scoring_facts(results: Results) -> list[tuple[str, str]]:
    """How the forecasts were scored, as pairs of a term and its plain words.

    Parameters
    ----------
    results : Results
        With `scores`.

    Returns
    -------
    list of (str, str)
        Protocol, folds, subjects, runs, scored time points, horizons, repetition time, scaling, space, intervals.
    """
    scores, sidecar = results.scores, results.scores_sidecar
    seconds = dict(zip(scores["lead_time_points"], scores["lead_time_s"], strict=True))
    protocols = [
        f"{PROTOCOLS.get(name, 'not one that this page knows')} (\u201c{name}\u201d)"
        for name in scores["protocol"].unique()
    ]
    folds = sidecar["Folds"]
    return [
        ("Protocol", "; ".join(protocols)),
        ("Folds", str(len(folds) if isinstance(folds, list | dict) else folds)),
        ("Subjects", _span(scores["n_subjects"])),
        ("Seeds", _seeds_in_words(results)),
        ("Runs", _span(scores["n_runs"])),
        (
            "Scored time points",
            f"{_span(scores['n_time_points'])} (time points of the stimulus or task; the rest is fed to the model, not scored)",
        ),
        (
            "Horizons",
            ", ".join(f"{series} ({seconds[series]:g} s)" for series in horizons_of(scores)) + " time points ahead",
        ),
        ("Beginning", "each test run begins at a random time point, the same for all rows and another for each seed"),
        ("Repetition time", f"{sidecar['RepetitionTime']} s"),
        ("Normalization", f"{sidecar['Normalization']}, each voxel or parcel by itself"),
        ("Space", str(sidecar["Space"])),
        ("Intervals", "95 %, bootstrap over subjects; none below 3 subjects"),
    ]


def stage_rows(stages: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Row for each stage of the provenance record.

    Parameters
    ----------
    stages : dict of str to dict
        ``stages`` of ``provenance.json``.

    Returns
    -------
    list of dict of str to str
        ``stage``, ``started``, ``command``, ``seed``, ``device``, ``wall_time``, ``peak_memory``.
    """
    rows = []
    for stage, record in stages.items():
        memory, seconds = record.get("peak_memory_bytes"), record.get("wall_time_s")
        rows.append(
            {
                "stage": stage,
                "started": str(record.get("started", _MISSING)).replace("T", " ").removesuffix("+00:00"),
                "command": " ".join(["titan-neuro", *map(str, record.get("arguments", []))]),
                "seed": str(record.get("seed", _MISSING)),
                "device": str(record.get("device", _MISSING)),
                "wall_time": duration(seconds) if isinstance(seconds, int | float) else _MISSING,
                "peak_memory": f"{memory / 2**20:,.0f} MiB" if isinstance(memory, int | float) else _MISSING,
            }
        )
    return rows


def provenance_facts(stages: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """What the stages ran on and with; where stages differ, each value is there with the stages it holds for.

    Parameters
    ----------
    stages : dict of str to dict
        ``stages`` of ``provenance.json``.

    Returns
    -------
    list of (str, str)
        Input files and dataset, commit, versions, machine.
    """
    keys = {file: key for record in stages.values() for file, key in record.get("input_keys", {}).items()}
    n_keys = sum(key is not None for key in keys.values())
    metadata = (
        [("Input files", f"{len(keys)}, {n_keys} of them with a git-annex key (in provenance.json)")] if keys else []
    )
    for term, key in _METADATA.items():
        values: dict[str, list[str]] = {}
        for stage, record in stages.items():
            if key in record:
                values.setdefault(_as_text(record[key]), []).append(stage)
        if len(values) == 1:
            metadata.append((term, next(iter(values))))
        metadata += [(f"{term} ({', '.join(names)})", text) for text, names in values.items() if len(values) > 1]
    return metadata


def duration(seconds: float) -> str:
    """`seconds` as a person would say it: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if not math.isfinite(seconds):
        return _MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _cell(row: pd.Series, metric: str, best: float) -> dict[str, Any]:
    interval = _interval(row, metric)
    if _REFERENCE.get(metric) == row["model"]:
        interval = "by definition"
    is_best = row["kind"] != Kind.ORACLE_REFERENCE and bool(row[metric] == best)
    return {"value": number(row[metric]), "interval": interval, "best": is_best}


def _interval(row: pd.Series, metric: str) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else ""


def _empty_cell() -> dict[str, Any]:
    return {"value": _MISSING, "interval": "", "best": False}


def _seeds_in_words(results: Results) -> str:
    """How many seeds, and by how much the model's headline differs between them."""
    scores = results.scores
    own = scores[scores["model"] == results.main_model].sort_values("lead_time_points")
    spread = ", ".join(number(value) for value in own["skill_ar_seed_sd"])
    if own.empty or own["skill_ar_seed_sd"].isna().all():
        return _span(scores["n_seeds"])
    return f"{_span(scores['n_seeds'])}; SD over seeds of skill_ar of {results.main_model}, by horizon: {spread}"


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _as_text(value: Any) -> str:
    if value is None:
        return "not known"
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{key} {item}" for key, item in value.items())
