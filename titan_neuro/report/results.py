"""Everything that stands in an output folder, read once and checked before any of it is drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.evaluation.metrics_and_rows import (
    CEILING_METRICS,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    METRICS,
    RESIDUAL_METRICS,
    ROLLOUT_METRICS,
    Kind,
    interval_columns,
    row_of,
)
from titan_neuro.files import read_json
from titan_neuro.manifests import Check, State
from titan_neuro.manifests import read as read_manifest
from titan_neuro.probing.tools.results import RESULT_SUFFIX, SCORES
from titan_neuro.provenance import read_stages
from titan_neuro.report.reading import HINT, read_sidecar, read_table
from titan_neuro.report.records import Fold, ForecastMetadata, ProbeResult, Results, StatMap

_LEAD_TIME = (LEAD_TIME_POINTS, LEAD_TIME_S)
_SCORES_NUMBERS = (
    *(*_LEAD_TIME, "n_subjects", "n_runs", "n_time_points", "n_seeds", "skill_ar_seed_sd"),
    *interval_columns(METRICS),
)
_COMPARISON_NUMBERS = (*_LEAD_TIME, "n_subjects", *interval_columns(["difference"]))
_ABLATION_NUMBERS = ("n_subjects", *interval_columns(["mean_difference"]))
_ROLLOUT_NUMBERS = (*_LEAD_TIME, "n_subjects", "n_targets", *interval_columns(ROLLOUT_METRICS))
_CEILING_NUMBERS = (LEAD_TIME_POINTS, "n_subjects", *interval_columns(CEILING_METRICS))
_SUBJECTS_NUMBERS = (LEAD_TIME_POINTS, "n_runs", "n_time_points", *METRICS)
_CURVE_NUMBERS = ("context_s", LEAD_TIME_POINTS, "n_subjects", *interval_columns(["skill_ar"]))
_PROBE_TEXT = ("measure", "condition", "is_control")
_PROBE_NUMBERS = tuple(name for name in SCORES if name not in _PROBE_TEXT)
_SURPRISE_FLAGS = ("usable", "boundary", "annotated_boundary")
_REINSTATEMENT_NUMBERS = ("n_retold", "n_watched", "matched", "mismatched", "reinstatement")
_TRAINING_NUMBERS = ("epoch", "validation_skill_ar", "volumes_per_s")
_METADATA_KEYS = (
    *("Ablations", "Summary", "Comparisons", "MissingCeilings", "Caveats", "Folds"),
    *("RepetitionTime", "Normalization", "Space"),
)
_PREPARED_MARK = "_desc-prepared_"
# Of volumes and surfaces ``_bold.json``, of parcels ``_timeseries.json``.
_PREPARED = (f"sub-*/func/*{_PREPARED_MARK}*.json", f"sub-*/ses-*/func/*{_PREPARED_MARK}*.json")
_SNR_MARK = "_stat-tsnr_"
_SNR_IMAGES = (f"sub-*/func/*{_SNR_MARK}statmap.nii.gz", f"sub-*/ses-*/func/*{_SNR_MARK}statmap.nii.gz")
_PREPARED_KEYS = (
    *("NumberOfTimePoints", "NumberOfScoredTimePoints", "NumberOfFeatures", "NumberOfConstantFeatures"),
    *("VolumesBeforeSteadyState", "LostParcels"),
)
_GROUP_FILE = re.compile(r"^task-(?P<task>[A-Za-z0-9]+)_")
_MAP_NAME = re.compile(
    r"^(?P<start>task-[A-Za-z0-9]+)(_hemi-[LR])?(?P<end>(_(space|seg)-[A-Za-z0-9]+)?_stat-(?P<stat>[A-Za-z0-9]+)"
    r"_desc-(?P<desc>[A-Za-z0-9]+)_statmap)(\.nii\.gz|\.tsv|\.dscalar\.nii|\.pscalar\.nii|\.func\.gii)$"
)
_FORECAST_DESC = re.compile(r"^(?P<model>[A-Za-z0-9]+?)H(?P<horizon>[0-9]+)$")


def read_results(output_dir: Path, states: Mapping[str, Check] | None = None) -> Results:
    """Read and check the files of an output folder.

    Parameters
    ----------
    output_dir : Path
        A BIDS derivative written by Titan-Neuro, of one task.
    states : mapping of str to Check, optional
        State of each result, by the name of its manifest: results that are damaged, missing or not named are not read.
        By default every file is taken as it is.

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
    files = _Shown(output_dir, states)
    group = output_dir / "group"
    task = _only_task(files)
    stem = f"{group / f'task-{task}'}_desc"
    scores_path = Path(f"{stem}-forecast_scores.tsv")
    config_path, maps = output_dir / "config.resolved.yaml", _read_maps(files)
    row, pair = ("model", "kind"), ("model", "compared_with")
    ablations = (*pair, "effect")
    return Results(
        name=str(read_json(description_path, keys=["Name"], hint=HINT)["Name"]),
        task=task,
        prepared=_read_prepared(files),
        temporal_snr=_find_snr(files),
        scores=_read_scores(files, scores_path),
        metadata=_read_metadata(files, scores_path),
        subjects=_read_if_there(files, Path(f"{stem}-forecast_subjects.tsv"), ("model", "subject"), _SUBJECTS_NUMBERS),
        comparisons=_read_if_there(files, Path(f"{stem}-forecastcomparisons_scores.tsv"), pair, _COMPARISON_NUMBERS),
        ablations=_read_if_there(files, Path(f"{stem}-forecastablations_scores.tsv"), ablations, _ABLATION_NUMBERS),
        high_motion=_read_scores(files, Path(f"{stem}-forecasthighmotion_scores.tsv")),
        rollouts=_read_if_there(files, Path(f"{stem}-rollout_scores.tsv"), row, _ROLLOUT_NUMBERS),
        residuals=_read_if_there(files, Path(f"{stem}-residuals_scores.tsv"), row, interval_columns(RESIDUAL_METRICS)),
        ceilings=_read_if_there(files, Path(f"{stem}-ceilings_scores.tsv"), ("ceiling",), _CEILING_NUMBERS),
        maps=tuple(stat_map for stat_map in maps if stat_map.model),
        curve=_read_curve(files, Path(f"{stem}-contextlength_curve.tsv")),
        timescale=next((stat_map for stat_map in maps if stat_map.stat == "timescale"), None),
        probes=_read_probes(files, maps),
        surprise=_read_surprise(files, Path(f"{stem}-surprise_timeseries.tsv")),
        reinstatement=_read_if_there(
            files, Path(f"{stem}-recall_subjects.tsv"), ("subject", "source"), _REINSTATEMENT_NUMBERS
        ),
        training=_read_training(files),
        config=config_path.read_text(encoding="utf-8", errors="replace") if config_path.exists() else "",
        stages=read_stages(output_dir),
    )


class _Shown:
    """The files of an output folder that belong to a result which is to be shown."""

    def __init__(self, root: Path, states: Mapping[str, Check] | None) -> None:
        self._root = root
        self._listed: set[Path] | None = None
        if states is not None:
            names = [name for name, check in states.items() if check.state in {State.DONE, State.STALE}]
            self._listed = {root / file for name in names for file in read_manifest(root, name)["files"]}

    def __contains__(self, path: Path) -> bool:
        return path.exists() and (self._listed is None or path in self._listed)

    def glob(self, pattern: str) -> list[Path]:
        """Return the files of this pattern, sorted."""
        return sorted(path for path in self._root.glob(pattern) if path in self)


def file_label(name: str) -> str:
    """Letters and digits of the name of a model or probe, as in the name of a file: ``titan-mac`` is ``titanmac``."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


def lead_times_of(table: pd.DataFrame) -> list[int]:
    """Lead times of a table, in time points, ascending."""
    return sorted({int(points) for points in table[LEAD_TIME_POINTS]})


def _only_task(files: _Shown) -> str:
    matches = [_GROUP_FILE.match(path.name) for path in files.glob("group/task-*")]
    tasks = sorted({match["task"] for match in matches if match})
    if len(tasks) > 1:
        raise MetadataError(
            f"expected results of one task in group/, found {len(tasks)}: {', '.join(tasks)}.",
            "Give each task an output folder of its own.",
        )
    return tasks[0] if tasks else ""


def _read_prepared(files: _Shown) -> dict[str, dict[str, Any]]:
    paths = [path for pattern in _PREPARED for path in files.glob(pattern)]
    sidecars = {path.name.partition(_PREPARED_MARK)[0]: path for path in sorted(paths)}
    return {key: read_json(path, keys=_PREPARED_KEYS, hint=HINT) for key, path in sidecars.items()}


def _find_snr(files: _Shown) -> dict[str, Path]:
    paths = [path for pattern in _SNR_IMAGES for path in files.glob(pattern)]
    return {path.name.partition(_SNR_MARK)[0]: path for path in sorted(paths)}


def _read_maps(shown: _Shown) -> list[StatMap]:
    # Hemispheres, and the table and the image of parcels, are files of one map.
    files: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for path in shown.glob("group/*_statmap.*"):
        if name := _MAP_NAME.match(path.name):
            files.setdefault(name["start"] + name["end"], []).append((path, name))
    maps = []
    for stem, found in files.items():
        paths = [path for path, _ in found]
        tables = [path for path in paths if path.suffix == ".tsv"]
        images = [path for path in paths if path.suffix != ".tsv"]
        name = found[0][1]
        forecast = _FORECAST_DESC.match(name["desc"])
        maps.append(
            StatMap(
                path=(tables or images)[0],
                image=images[0] if tables and images else None,
                stat=name["stat"],
                model=forecast["model"] if forecast else "",
                probe="" if forecast else name["desc"],
                horizon=int(forecast["horizon"]) if forecast else 0,
                sidecar=read_sidecar(paths[0].with_name(f"{stem}.tsv"), ["Space"]),
            )
        )
    return maps


def _read_probes(files: _Shown, maps: Sequence[StatMap]) -> tuple[ProbeResult, ...]:
    """Probes that wrote a table of scores."""
    pairs = [
        (path, path.with_name(path.name.replace(RESULT_SUFFIX, "_scores.tsv")))
        for path in files.glob(f"group/task-*_desc-*{RESULT_SUFFIX}")
    ]
    return tuple(_read_probe(path, table, maps) for path, table in pairs if table in files)


def _read_probe(path: Path, table: Path, maps: Sequence[StatMap]) -> ProbeResult:
    metadata = read_json(path, keys=["Probe", "Asks", "Summary"], hint=HINT)
    scores = read_table(table, _PROBE_TEXT, _PROBE_NUMBERS)
    scores["is_control"] = scores["is_control"].str.lower() == "true"
    name = str(metadata["Probe"])
    return ProbeResult(
        name=name,
        question=str(metadata["Asks"]),
        summary=str(metadata["Summary"]),
        metadata=metadata,
        scores=scores,
        # The map of timescales stands beside the curve of the context-length probe.
        maps=tuple(each for each in maps if each.probe == file_label(name) and each.stat != "timescale"),
    )


def _read_surprise(files: _Shown, path: Path) -> pd.DataFrame | None:
    """Read the course of the surprise; its columns of measures are those that the probe wrote."""
    table = _read_if_there(files, path, ("run",), ("time_point", "time_s", *_SURPRISE_FLAGS))
    if table is None:
        return None
    measures = [str(name) for name in table if name not in {"run", "time_point", "time_s", *_SURPRISE_FLAGS}]
    table = read_table(path, ("run",), ("time_point", "time_s", *_SURPRISE_FLAGS, *measures))
    return table.assign(**{name: table[name] > 0 for name in _SURPRISE_FLAGS})


def _read_training(files: _Shown) -> dict[str, pd.DataFrame]:
    """Training curves of the study's model; those of the comparison models are not shown."""
    return {
        f"{path.parts[-4]} {path.parts[-3]}": read_table(path, (), _TRAINING_NUMBERS, separator=",")
        for path in sorted(files.glob("models/seed-*/fold-*/*/training.csv"), key=_natural)
        if row_of(path.parent.name).kind != Kind.COMPARISON_MODEL
    }


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which fold-10 follows fold-9."""
    return [(int(part or 0), text) for text, part in re.findall(r"([^0-9]*)([0-9]*)", "/".join(path.parts[-4:-2]))]


def _read_if_there(files: _Shown, path: Path, text: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame | None:
    return read_table(path, text, numbers) if path in files else None


def _read_scores(files: _Shown, path: Path) -> pd.DataFrame | None:
    table = _read_if_there(files, path, ("model", "kind", "protocol"), _SCORES_NUMBERS)
    unknown = set() if table is None else set(table["kind"]) - set(Kind)
    if unknown:
        raise MetadataError(f"{path}: column kind: expected one of {', '.join(Kind)}, found {min(unknown)!r}.", HINT)
    return table


def _read_metadata(files: _Shown, scores_path: Path) -> ForecastMetadata | None:
    if scores_path not in files:
        return None
    sidecar = read_sidecar(scores_path, _METADATA_KEYS)
    return ForecastMetadata(
        ablations=str(sidecar["Ablations"]),
        summary=str(sidecar["Summary"]),
        comparisons=[str(sentence) for sentence in sidecar["Comparisons"]],
        missing_ceilings={str(name): str(reason) for name, reason in sidecar["MissingCeilings"].items()},
        caveats=[str(sentence) for sentence in sidecar["Caveats"]],
        folds=tuple(Fold(*(tuple(map(str, fold[part])) for part in Fold._fields)) for fold in sidecar["Folds"]),
        repetition_time_s=float(sidecar["RepetitionTime"]),
        normalization=str(sidecar["Normalization"]),
        space=str(sidecar["Space"]),
    )


def _read_curve(files: _Shown, path: Path) -> pd.DataFrame | None:
    curve = _read_if_there(files, path, ("whole_run",), _CURVE_NUMBERS)
    if curve is None:
        return None
    unknown = set(curve["whole_run"]) - {"true", "false"}
    if unknown:
        raise MetadataError(f"{path}: column whole_run: expected true or false, found {min(unknown)!r}.", HINT)
    curve["whole_run"] = curve["whole_run"] == "true"
    return curve
