"""Tables of the report as rows of finished text: what the template has to print and nothing to work out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from titan_neuro.report.figures import model_look
from titan_neuro.report.results import METRICS, Results, horizons_of

METRIC_MEANING = {
    "skill_ar": "1 \N{MINUS SIGN} MSE / MSE of linear AR; above 0 beats it",
    "skill": "1 \N{MINUS SIGN} MSE / MSE of persistence",
    "r2": "1 \N{MINUS SIGN} SSE / SSE about the training mean",
    "r": "Pearson correlation over time, averaged by Fisher z",
    "pattern_r": "Pearson correlation over voxels or parcels, per frame",
}
# The baseline that a skill is measured against scores nought by definition, and has no interval.
_REFERENCE = {"skill_ar": "ar", "skill": "persistence"}
_MISSING = "n/a"
_MOST_ITEMS, _MOST_KEYS = 12, 40
_PROTOCOLS = {
    "run": "leave one run out, within subjects: the model was trained on other runs of the same subjects",
    "subject": "held-out subjects: the model was trained on other people who went through the same runs",
    "strict": "held-out subjects and held-out runs: the model had seen neither the person nor the run",
}


def number(value: float) -> str:
    """`value` with the digits that make sense for a score: three decimals, fewer where it is large."""
    if not math.isfinite(value):
        return _MISSING
    digits = 3 if abs(value) < 10 else 1
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def score_groups(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Group of rows for each metric: a row per model, a cell per horizon, the best of each horizon marked.

    Parameters
    ----------
    scores : pandas.DataFrame
        The forecast table.

    Returns
    -------
    list of dict
        ``metric``, ``meaning`` and ``rows``; a row holds ``model``, ``colour`` and ``cells``, a cell ``value``,
        ``interval`` (empty where there is none) and ``best``.
    """
    look = model_look(list(dict.fromkeys(scores["model"])))
    horizons = horizons_of(scores)
    groups = []
    for metric in METRICS:
        best = scores.groupby("horizon_frames")[metric].max()
        rows = []
        for model, (colour, _) in look.items():
            own = scores[scores["model"] == model].drop_duplicates("horizon_frames").set_index("horizon_frames")
            cells = [
                _cell(own.loc[horizon], metric, float(best[horizon])) if horizon in own.index else _empty_cell()
                for horizon in horizons
            ]
            rows.append({"model": model, "colour": colour, "cells": cells})
        groups.append({"metric": metric, "meaning": METRIC_MEANING[metric], "rows": rows})
    return groups


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
        ``subject``, ``n_runs``, ``n_frames`` (the fewest over horizons) and ``cells``, text, first of `skill_ar`, then
        of `r2`.
    """
    horizons = horizons_of(subjects)
    rows = []
    for subject, own in subjects[subjects["model"] == model].groupby("subject", sort=True):
        at = own.drop_duplicates("horizon_frames").set_index("horizon_frames").reindex(horizons)
        rows.append(
            {
                "subject": subject,
                "n_runs": int(own["n_runs"].max()),
                "n_frames": int(own["n_frames"].min()),
                "cells": [number(value) for metric in ("skill_ar", "r2") for value in at[metric]],
            }
        )
    return rows


def training_rows(training: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    """Row for each fold: how many epochs it was trained and where its validation stood at best and at the end.

    Parameters
    ----------
    training : dict of str to pandas.DataFrame
        ``training.csv`` of each fold.

    Returns
    -------
    list of dict of str to str
        ``fold``, ``epochs``, ``best``, ``best_epoch``, ``last``, ``speed``.
    """
    rows = []
    for fold, table in training.items():
        skill = table["validation_skill_ar"]
        best = table.loc[skill.idxmax()] if skill.notna().any() else None
        speed = table["volumes_per_s"].median()
        rows.append(
            {
                "fold": fold,
                "epochs": str(int(table["epoch"].max())),
                "best": _MISSING if best is None else number(best["validation_skill_ar"]),
                "best_epoch": _MISSING if best is None else str(int(best["epoch"])),
                "last": number(skill.iloc[-1]),
                "speed": _MISSING if math.isnan(speed) else f"{speed:,.0f}",
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
        Protocol, folds, subjects, runs, scored frames, horizons, repetition time, scaling, space, intervals.
    """
    scores, sidecar = results.scores, results.scores_sidecar
    seconds = dict(zip(scores["horizon_frames"], scores["horizon_s"], strict=True))
    protocols = [
        f"{_PROTOCOLS.get(name, 'not one that this page knows')} (\u201c{name}\u201d)"
        for name in scores["protocol"].unique()
    ]
    folds = sidecar["Folds"]
    return [
        ("Protocol", "; ".join(protocols)),
        ("Folds", str(len(folds) if isinstance(folds, list | dict) else folds)),
        ("Subjects", _span(scores["n_subjects"])),
        ("Runs", _span(scores["n_runs"])),
        (
            "Scored frames",
            f"{_span(scores['n_frames'])} (frames of the film or task; the rest is fed to the model, not scored)",
        ),
        (
            "Horizons",
            ", ".join(f"{frames} ({seconds[frames]:g} s)" for frames in horizons_of(scores)) + " frames ahead",
        ),
        ("Repetition time", f"{sidecar['RepetitionTime']} s"),
        ("Normalisation", f"{sidecar['Normalisation']}, each voxel or parcel by itself"),
        ("Space", str(sidecar["Space"])),
        ("Intervals", "95 %, bootstrap over subjects; none below 3 subjects"),
    ]


def provenance_rows(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """Flatten ``provenance.json`` into pairs of a dotted name and a text.

    Long lists (annex keys, say) are counted and their beginning is shown; names that end in ``_s`` and ``_bytes`` are
    given as a duration and in MiB.

    Parameters
    ----------
    provenance : dict
        The file's content.

    Returns
    -------
    list of (str, str)
        In the order of the file.
    """
    return list(_flatten(provenance, ""))


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
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    interval = f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else ""
    if _REFERENCE.get(metric) == row["model"]:
        interval = "by definition"
    return {"value": number(row[metric]), "interval": interval, "best": bool(row[metric] == best)}


def _empty_cell() -> dict[str, Any]:
    return {"value": _MISSING, "interval": "", "best": False}


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _flatten(content: Any, name: str) -> Iterator[tuple[str, str]]:
    nested = isinstance(content, list) and any(isinstance(item, dict | list) for item in content)
    if isinstance(content, dict | list) and len(content) > (_MOST_KEYS if isinstance(content, dict) else _MOST_ITEMS):
        first = ", ".join(str(item) for item in list(content)[:3]) if not nested else ""
        yield name, f"{len(content)} entries" + (f": {first}, \u2026" if first else "")
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _flatten(value, f"{name}.{key}" if name else str(key))
    elif nested:
        for rank, value in enumerate(content, start=1):
            yield from _flatten(value, f"{name} {rank}")
    else:
        yield name, _as_text(name, content)


def _as_text(name: str, value: Any) -> str:
    if isinstance(value, list):
        # A command is given as its words.
        return (" " if name.endswith(("command", "arguments", "argv")) else ", ").join(str(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _MISSING if value is None else str(value)
    if name.endswith("_s"):
        return duration(value)
    return f"{value / 2**20:,.0f} MiB" if name.endswith("_bytes") else str(value)
