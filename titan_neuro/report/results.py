"""What stands in an output folder, read once and checked, before anything of it is drawn."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.evaluation.vocabulary import (
    CEILING_METRICS,
    METRICS,
    RESIDUAL_METRICS,
    ROLLOUT_METRICS,
    Kind,
    interval_columns,
    row_of,
)
from titan_neuro.probing.tools.results import SCORES

_SCORES_TEXT = ("model", "kind", "protocol")
_SCORES_NUMBERS = (
    *("lead_time_points", "lead_time_s", "n_subjects", "n_runs", "n_time_points", "n_seeds", "skill_ar_seed_sd"),
    *interval_columns(METRICS),
)
_ROLLOUT_NUMBERS = ("lead_time_points", "lead_time_s", "n_subjects", "n_targets", *interval_columns(ROLLOUT_METRICS))
_CEILING_NUMBERS = ("lead_time_points", "n_subjects", *interval_columns(CEILING_METRICS))
_SCORES_KEYS = ("Summary", "Comparisons", "MissingCeilings", "Caveats", "Folds", "RepetitionTime", "Normalization", "Space")
_SUBJECTS_NUMBERS = ("lead_time_points", "n_runs", "n_time_points", *METRICS)
_CURVE_NUMBERS = ("context_s", "lead_time_points", "n_subjects", "skill_ar", "skill_ar_low", "skill_ar_high")
_PROBE_NUMBERS = tuple(name for name in SCORES if name not in {"measure", "condition", "is_control"})
_TRAINING_NUMBERS = ("epoch", "validation_skill_ar", "volumes_per_s")
_WHOLE_NUMBERS = frozenset(
    {"lead_time_points", "n_subjects", "n_runs", "n_time_points", "n_seeds", "n_targets", "epoch"}
)
_GROUP_FILE = re.compile(r"^task-(?P<task>[A-Za-z0-9]+)_")
_MAP_NAME = re.compile(
    r"^task-[A-Za-z0-9]+(_(space|seg)-[A-Za-z0-9]+)?_stat-(?P<stat>[A-Za-z0-9]+)_desc-(?P<desc>[A-Za-z0-9]+)"
    r"_statmap(\.nii\.gz|\.tsv)$"
)
_FORECAST_DESC = re.compile(r"^(?P<model>[A-Za-z0-9]+?)H(?P<horizon>[0-9]+)$")
_AGAIN = "Make the file anew with the stage that wrote it; the files of OUT are not meant to be edited."


@dataclass(frozen=True, kw_only=True)
class StatMap:
    """One map on disk: a volume (``.nii.gz``) or a value per parcel (``.tsv``).

    Attributes
    ----------
    path : Path
    stat : str
        ``skillar``, ``r2`` or ``timescale``.
    model : str
        Name of the model without its punctuation (``titanmac``); empty for a map of a probe.
    probe : str
        Name of the probe without its punctuation (``contextlength``); empty for a map of the forecast.
    horizon : int
        Time points ahead; 0 for a map of a probe.
    sidecar : dict
        The JSON beside the map.
    """

    path: Path
    stat: str
    model: str
    probe: str
    horizon: int
    sidecar: dict[str, Any]

    @property
    def is_volume(self) -> bool:
        """Whether the map is an image, and not a table of parcels."""
        return self.path.name.endswith(".nii.gz")


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What one probe has left.

    Attributes
    ----------
    name, asks, sentence : str
        The probe, what it asks, and what it found.
    metadata : dict
        How it was asked and tested: the JSON that the probe wrote.
    scores : pandas.DataFrame
        Columns of `titan_neuro.probing.tools.results.SCORES`.
    maps : tuple of StatMap
    """

    name: str
    asks: str
    sentence: str
    metadata: dict[str, Any]
    scores: pd.DataFrame
    maps: tuple[StatMap, ...]

    @property
    def x_label(self) -> str:
        """What the column `x` is, with its unit."""
        told = self.metadata.get("x") or {}
        unit = f", {told['Units']}" if told.get("Units") else ""
        return f"{told.get('Description', 'x')}{unit}"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report tells of one output folder; ``None`` or empty where a stage has not run.

    Attributes
    ----------
    name : str
        Name of the dataset.
    scores, subjects, curve : pandas.DataFrame or None
        The forecast table, the same per subject, the context-length curve (its ``whole_run`` is bool).
    scores_sidecar : dict
        The JSON beside `scores`.
    moving, rollouts, residuals, ceilings : pandas.DataFrame or None
        Scores of the time points at which the head moved, the rollouts, the whiteness of the errors, the ceilings.
    maps : tuple of StatMap
        Maps of the forecast, by name of file.
    timescale : StatMap or None
        Map of the context-length probe, in seconds.
    probes : tuple of ProbeResult
        The other probes, by name.
    training : dict of str to pandas.DataFrame
        The epochs of the study's model, by seed and fold (``seed-0 fold-1``).
    config : str
        ``config.resolved.yaml`` as it stands.
    stages : dict of str to dict
        Records of ``provenance.json``, by name of stage.
    """

    name: str
    scores: pd.DataFrame | None
    scores_sidecar: dict[str, Any]
    subjects: pd.DataFrame | None
    high_motion: pd.DataFrame | None
    rollouts: pd.DataFrame | None
    residuals: pd.DataFrame | None
    ceilings: pd.DataFrame | None
    maps: tuple[StatMap, ...]
    curve: pd.DataFrame | None
    timescale: StatMap | None
    probes: tuple[ProbeResult, ...]
    training: dict[str, pd.DataFrame]
    config: str
    stages: dict[str, dict[str, Any]]

    @property
    def main_model(self) -> str:
        """The model the report is about (empty where there is none in the table)."""
        models = [] if self.scores is None else list(self.scores.loc[self.scores["kind"] == Kind.MODEL, "model"])
        return models[0] if models else ""


def read_results(output_dir: Path) -> Results:
    """Read and check what the stages left in an output folder.

    Parameters
    ----------
    output_dir : Path
        A BIDS derivative written by Titan-Neuro, of one task.

    Returns
    -------
    Results

    Raises
    ------
    InputNotFoundError
        The folder, or its ``dataset_description.json``, does not exist.
    MetadataError
        A file lacks a column or a key, holds text where a number belongs, or the folder holds two tasks.
    """
    description_path = output_dir / "dataset_description.json"
    if not description_path.is_file():
        raise InputNotFoundError(
            f"{output_dir}: no dataset_description.json: not an output folder of titan-neuro.",
            "Name the folder that `titan-neuro run` or `titan-neuro prepare` wrote.",
        )
    group = output_dir / "group"
    prefix = f"task-{_only_task(group)}"
    scores_path = group / f"{prefix}_desc-forecast_scores.tsv"
    curve_path = group / f"{prefix}_desc-contextlength_curve.tsv"
    maps = _read_maps(group)
    provenance_path = output_dir / "provenance.json"
    config_path = output_dir / "config.resolved.yaml"
    return Results(
        name=str(_read_json(description_path, ["Name"])["Name"]),
        scores=_read_scores(scores_path),
        scores_sidecar=_read_sidecar(scores_path, _SCORES_KEYS),
        subjects=_if_there(group / f"{prefix}_desc-forecast_subjects.tsv", ("model", "subject"), _SUBJECTS_NUMBERS),
        high_motion=_read_scores(group / f"{prefix}_desc-forecasthighmotion_scores.tsv"),
        rollouts=_if_there(group / f"{prefix}_desc-rollout_scores.tsv", ("model", "kind"), _ROLLOUT_NUMBERS),
        residuals=_if_there(
            group / f"{prefix}_desc-residuals_scores.tsv", ("model", "kind"), interval_columns(RESIDUAL_METRICS)
        ),
        ceilings=_if_there(group / f"{prefix}_desc-ceilings_scores.tsv", ("ceiling",), _CEILING_NUMBERS),
        maps=tuple(found for found in maps if found.model),
        probes=tuple(
            _read_probe(path, maps)
            for path in sorted(group.glob(f"{prefix}_desc-*_findings.json"))
            if path.with_name(path.name.replace("_findings.json", "_scores.tsv")).exists()
        ),
        curve=_read_curve(curve_path) if curve_path.exists() else None,
        timescale=next((found for found in maps if found.stat == "timescale"), None),
        training={
            f"{path.parts[-4]} {path.parts[-3]}": _read_table(path, (), _TRAINING_NUMBERS, separator=",")
            for path in sorted(output_dir.glob("models/seed-*/fold-*/*/training.csv"), key=_natural)
            if row_of(path.parent.name).kind != Kind.COMPARISON_MODEL
        },
        config=config_path.read_text(encoding="utf-8", errors="replace") if config_path.exists() else "",
        stages=_read_stages(provenance_path) if provenance_path.exists() else {},
    )


def _read_probe(path: Path, maps: Sequence[StatMap]) -> ProbeResult:
    told = _read_json(path, ["Probe", "Asks", "Summary"])
    table = path.with_name(path.name.replace("_findings.json", "_scores.tsv"))
    scores = _read_table(table, ("measure", "condition", "is_control"), _PROBE_NUMBERS)
    scores["is_control"] = scores["is_control"].str.lower() == "true"
    own = tuple(one for one in maps if one.probe == plain_name(str(told["Probe"])))
    names = {name: str(told[key]) for name, key in (("name", "Probe"), ("asks", "Asks"), ("sentence", "Summary"))}
    return ProbeResult(**names, metadata=told, scores=scores, maps=own)


def plain_name(model: str) -> str:
    """Name of a model as it stands in the name of a file: letters and digits alone (``titan-mac``: ``titanmac``)."""
    return re.sub(r"[^A-Za-z0-9]", "", model)


def horizons_of(table: pd.DataFrame) -> list[int]:
    """Horizons of a table, in time points, ascending."""
    return sorted({int(horizon) for horizon in table["lead_time_points"]})


def read_parcels(path: Path) -> pd.DataFrame:
    """Read a map of parcels.

    Parameters
    ----------
    path : Path
        A ``_statmap.tsv``.

    Returns
    -------
    pandas.DataFrame
        Columns ``parcel`` (text) and ``value`` (float; NaN where ``n/a``), in the order of the atlas.

    Raises
    ------
    MetadataError
        A column is missing, or a value is no number.
    """
    return _read_table(path, ("parcel",), ("value",))


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"([^0-9]*)([0-9]*)", "/".join(path.parts[-4:-2]))]


def _only_task(group: Path) -> str:
    matches = [_GROUP_FILE.match(path.name) for path in group.glob("task-*")]
    tasks = sorted({match["task"] for match in matches if match})
    if len(tasks) > 1:
        raise MetadataError(
            f"{group}: results of one task are expected, those of {len(tasks)} are there: {', '.join(tasks)}.",
            "Give each task an output folder of its own.",
        )
    return tasks[0] if tasks else ""


def _read_maps(group: Path) -> list[StatMap]:
    maps = []
    for path in sorted(group.glob("*_statmap.*")):
        name = _MAP_NAME.match(path.name)
        if name is None:
            continue
        forecast = _FORECAST_DESC.match(name["desc"])
        maps.append(
            StatMap(
                path=path,
                stat=name["stat"],
                model=forecast["model"] if forecast else "",
                probe="" if forecast else name["desc"],
                horizon=int(forecast["horizon"]) if forecast else 0,
                sidecar=_read_sidecar(path, ["Space"]),
            )
        )
    return maps


def _if_there(path: Path, text: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame | None:
    return _read_table(path, text, numbers) if path.exists() else None


def _read_scores(path: Path) -> pd.DataFrame | None:
    table = _if_there(path, _SCORES_TEXT, _SCORES_NUMBERS)
    odd = set() if table is None else set(table["kind"]) - set(Kind)
    if odd:
        raise MetadataError(f"{path}: column kind: one of {', '.join(Kind)} was expected, found {min(odd)!r}.", _AGAIN)
    return table


def _read_stages(path: Path) -> dict[str, dict[str, Any]]:
    stages = _read_json(path, ["stages"])["stages"]
    if not isinstance(stages, dict) or not all(isinstance(record, dict) for record in stages.values()):
        raise MetadataError(f"{path}: stages: an object with an object for each stage was expected.", _AGAIN)
    return stages


def _read_curve(path: Path) -> pd.DataFrame:
    curve = _read_table(path, ("whole_run",), _CURVE_NUMBERS)
    odd = set(curve["whole_run"]) - {"true", "false"}
    if odd:
        raise MetadataError(f"{path}: column whole_run: true or false was expected, found {sorted(odd)[0]!r}.", _AGAIN)
    curve["whole_run"] = curve["whole_run"] == "true"
    return curve


def _read_sidecar(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    sidecar = path.with_name(re.sub(r"(\.nii\.gz|\.tsv)$", ".json", path.name))
    if not sidecar.is_file():
        raise MetadataError(f"{path}: its sidecar {sidecar.name} is missing.", _AGAIN)
    return _read_json(sidecar, keys)


def _read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MetadataError(f"{path}: not JSON: {error}.", _AGAIN) from error
    if not isinstance(content, dict):
        raise MetadataError(f"{path}: a JSON object was expected, found {type(content).__name__}.", _AGAIN)
    missing = [key for key in keys if key not in content]
    if missing:
        raise MetadataError(f"{path}: the keys {', '.join(missing)} are missing.", _AGAIN)
    return content


def _read_table(path: Path, text: Sequence[str], numbers: Sequence[str], *, separator: str = "\t") -> pd.DataFrame:
    # Everything is read as text first: a subject named NA or 007 must stay what it is.
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MetadataError(f"{path}: can't be read as a table: {error}.", _AGAIN) from error
    missing = [column for column in (*text, *numbers) if column not in table]
    if missing:
        raise MetadataError(f"{path}: lacks the columns {', '.join(missing)}; found {', '.join(table)}.", _AGAIN)
    if table.empty:
        raise MetadataError(f"{path}: the table has no row.", _AGAIN)
    for column in numbers:
        try:
            table[column] = [math.nan if value in {"n/a", ""} else float(value) for value in table[column]]
        except ValueError as error:
            raise MetadataError(f"{path}: column {column}: a number or n/a was expected: {error}.", _AGAIN) from error
        if column in _WHOLE_NUMBERS:
            odd = [value for value in table[column] if not value.is_integer()]
            if odd:
                raise MetadataError(f"{path}: column {column}: a whole number was expected, found {odd[0]}.", _AGAIN)
            table[column] = table[column].astype(int)
    return table
