"""Prepare one run: find out what it is made from, bring it to its grid, clean it, store it."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from titan_neuro.data.bids.annex import annex_key, is_missing
from titan_neuro.data.bids.names import sidecar_path
from titan_neuro.data.bids.output import write_nifti
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas import atlas_name, names_table
from titan_neuro.data.prepare.clean import Cleaning, Inspection, causal_blocks, source_blocks, whole_run_blocks
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.confounds import ConfoundModel, write_confounds
from titan_neuro.data.prepare.opening import OpenRun, open_run, output_space
from titan_neuro.data.prepare.timing import read_events, scored_time_points
from titan_neuro.data.store import RunHeader, RunStore, store_name, write_run
from titan_neuro.errors import InputNotFoundError, MetadataError, NotFetchedError, TitanNeuroError
from titan_neuro.files import file_lock, write_json, writing_to
from titan_neuro.provenance import versions

logger = logging.getLogger(__name__)
_CONFIG = TypeAdapter(PrepareConfig)
# Raised when the same files and settings begin to give other volumes: what was prepared before is then prepared again.
_PREPARATION_VERSION = 1
# What of a sidecar says how a recording is read.
_READ_OF_SIDECAR = (
    "SliceTimingCorrected",
    "PhaseEncodingDirection",
    "TotalReadoutTime",
    "SliceTiming",
    "SliceEncodingDirection",
)


def prepare_run(
    recording: Recording, output_dir: Path, config: PrepareConfig, *, work_dir: Path, memory_bytes: int | None = None
) -> tuple[Path, bool]:
    """Prepare one recording, unless its store is there already with the same sources and settings.

    Parameters
    ----------
    recording : Recording
    output_dir : Path
        Root of the output dataset; the store goes to ``sub-X/[ses-Y/]func/``.
    config : PrepareConfig
    work_dir : Path
        Folder for locks, and for volumes between two passes.
    memory_bytes : int, optional
        Bound on the volumes that are worked on at a time (128 MiB by default); at least one volume is.

    Returns
    -------
    path : Path
        The store.
    made : bool
        False when it was there already.

    Raises
    ------
    NotFetchedError, ImageError, MetadataError, OutputError, ConfigError
        The content is not on this machine; the image can't be used; the metadata lack or contradict something; the
        folder can't be written; a setting does not go with the data.
    """
    path = store_path(recording, output_dir, config)
    sidecar, confounds, reference = path.with_suffix(".json"), _confounds_path(path), _reference_path(path)
    tables = (confounds, confounds.with_suffix(".json"))
    images = (reference, sidecar_path(reference))
    with ExitStack() as stack:
        stack.enter_context(file_lock(path, sidecar, *tables, *images, work_dir=work_dir))
        scratch = work_dir / "scratch" / path.name
        # Also where nothing is left to do: a process that was killed may have left something there.
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        sources = _sources(recording, config)
        fingerprint = _fingerprint(recording, sources, config)
        if _is_prepared(path, fingerprint):
            return path, False
        _require_content(recording, config)
        with writing_to(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
        opened = open_run(recording, config, scratch, stack)
        header = _header(recording, opened, config, {"fingerprint": fingerprint, "sources": sources})
        inspection = Inspection(recording.key, header.space.n_features, header.repetition_time)
        # The sidecar comes last: with it the run is whole.
        with writing_to(sidecar):
            sidecar.unlink(missing_ok=True)
        write_run(path, header, _blocks(opened, inspection, config, scratch / "cleaned", memory_bytes))
        if inspection.n_constant:
            logger.warning("%s: %d voxels or parcels never change; they are 0.", recording.key, inspection.n_constant)
        if opened.computed is not None:
            write_confounds(confounds, opened.computed)
        _write_reference(reference, header, inspection.mean)
        write_json(sidecar, _sidecar(header, inspection.n_constant))
    return path, True


def store_path(recording: Recording, output_dir: Path, config: PrepareConfig) -> Path:
    """Return where the store of a recording lies."""
    folder = output_dir / f"sub-{recording.subject}"
    if "session" in recording.entities:
        folder /= f"ses-{recording.entities['session']}"
    entities = _output_entities(recording, config)
    return folder / "func" / store_name(entities, "parcels" if config.atlas else recording.kind)


def missing_inputs(recording: Recording, output_dir: Path, config: PrepareConfig) -> list[Path]:
    """Files that `prepare_run` would need and whose content is not on this machine; none once it is prepared."""
    missing = [path for path in _needed(recording, config).values() if is_missing(path)]
    if missing:
        fingerprint = _fingerprint(recording, _sources(recording, config), config)
        if _is_prepared(store_path(recording, output_dir, config), fingerprint):
            return []
    return missing


def _confounds_path(store: Path) -> Path:
    # fMRIPrep's name for the table of a run, beside the store.
    return store.with_name(f"{store.name.split('_space-')[0]}_desc-confounds_timeseries.tsv")


def _reference_path(store: Path) -> Path:
    return store.with_name(f"{store.name.split('_desc-prepared')[0]}_boldref.nii.gz")


def _output_entities(recording: Recording, config: PrepareConfig) -> dict[str, str]:
    entities = {name: value for name, value in recording.entities.items() if name != "desc"}
    space, resolution_mm = output_space(recording, config)
    if space is not None:
        entities["space"] = space
    if resolution_mm is not None:
        # BIDS labels are letters and digits alone.
        entities["resolution"] = f"{resolution_mm:g}".replace(".", "p")
    if config.atlas is not None:
        entities["segmentation"] = atlas_name(config.atlas)
    return entities


def _needed(recording: Recording, config: PrepareConfig) -> dict[str, Path]:
    """Files that are read, by what they are."""
    needed = dict(recording.files)
    sidecar = sidecar_path(recording.path)
    if annex_key(sidecar) is not None:
        needed["sidecar"] = sidecar
    if recording.confounds is not None:
        sidecar = sidecar_path(recording.confounds)
        if sidecar.exists() or sidecar.is_symlink():
            needed["confounds sidecar"] = sidecar
    if config.atlas is not None:
        needed["atlas"] = config.atlas
        if table := names_table(config.atlas):
            needed["atlas names"] = table
    return needed


def _sources(recording: Recording, config: PrepareConfig) -> dict[str, dict[str, str]]:
    return {role: {"name": path.name, "content": content_id(path)} for role, path in _needed(recording, config).items()}


def content_id(path: Path) -> str:
    """Return the key of an annexed file, which need not be there, or else the SHA-256 of its bytes.

    Raises
    ------
    InputNotFoundError
        No such file, or one that can't be read.
    """
    key = annex_key(path)
    if key is not None:
        return key
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file.", "Check the path.")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputNotFoundError(
            f"{path}: can't be read: {error.strerror}.", "Check your rights to the file."
        ) from error


def _fingerprint(recording: Recording, sources: Mapping[str, Any], config: PrepareConfig) -> str:
    """Digest of everything that the store is made from."""
    content = {
        "route": recording.route,
        "sources": sources,
        "preparation_version": _PREPARATION_VERSION,
        "config": _settings(config),
        "repetition_time": recording.repetition_time,
        "sidecar": {name: recording.sidecar[name] for name in _READ_OF_SIDECAR if name in recording.sidecar},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _settings(config: PrepareConfig) -> dict[str, Any]:
    # Where an atlas lies is no matter; what is in it is among the sources.
    return {name: value for name, value in _CONFIG.dump_python(config, mode="json").items() if name != "atlas"}


def _is_prepared(path: Path, fingerprint: str) -> bool:
    if not (path.exists() and path.with_suffix(".json").is_file()):
        return False
    try:
        same = RunStore(path).record.get("fingerprint") == fingerprint
    except TitanNeuroError:
        same = False
    if not same:
        logger.info("%s was prepared from other data or with other settings: again.", path.name)
    return same


def _require_content(recording: Recording, config: PrepareConfig) -> None:
    for role, path in _needed(recording, config).items():
        if is_missing(path):
            raise NotFetchedError(
                f"{path}: the {role.replace('_', ' ')} is in the dataset, but its content is not on this machine.",
                f"Get it with `titan-neuro fetch {_dataset_root(path)}`, or leave out --no-datalad-get.",
            )


def _dataset_root(path: Path) -> Path:
    # The outermost: masks lie in a derivatives folder that describes itself.
    roots = [parent for parent in path.parents if (parent / "dataset_description.json").is_file()]
    return roots[-1] if roots else path.parent


def _blocks(
    opened: OpenRun, inspection: Inspection, config: PrepareConfig, scratch_file: Path, memory_bytes: int | None
) -> Iterator[np.ndarray]:
    n_features = opened.source.space.n_features
    cleaning = Cleaning(
        confounds=opened.confounds, high_pass_hz=config.high_pass_hz, repetition_time=opened.repetition_time
    )
    blocks = source_blocks(opened.source, inspection, memory_bytes)
    if config.estimation == "whole-run":
        return whole_run_blocks(blocks, n_features, cleaning, scratch_file)
    return causal_blocks(blocks, n_features, cleaning)


def _header(recording: Recording, opened: OpenRun, config: PrepareConfig, record: Mapping[str, Any]) -> RunHeader:
    n_time_points = opened.source.n_time_points
    events = read_events(recording.events, n_time_points * opened.repetition_time) if recording.events else []
    scored, rule = scored_time_points(
        events, n_time_points, opened.repetition_time, config.warmup_s, config.scored_trial_types
    )
    if opened.confounds.excluded.any():
        scored &= ~opened.confounds.excluded
        rule += f", without {int(opened.confounds.excluded.sum())} volumes that the {config.confounds} strategy drops"
    if not scored.any():
        raise MetadataError(
            f"{recording.key}: no volume is left to score: {n_time_points} volumes, TR {opened.repetition_time} s, warm-up "
            f"{config.warmup_s} s, scored: {rule}.",
            "Check the events table, or shorten the warm-up with --set prepare.warmup_s=...",
        )
    scaling = "z-score over the whole run" if config.estimation == "whole-run" else "causal expanding z-score"
    return RunHeader(
        key=recording.key,
        entities=_output_entities(recording, config),
        repetition_time=opened.repetition_time,
        space=opened.source.space,
        scored=scored,
        events=events,
        framewise_displacement=opened.framewise_displacement,
        record={
            **record,
            "route": opened.route,
            "spatial": opened.spatial,
            "mask": opened.mask,
            "normalizer": {"method": scaling, "warmup_s": config.warmup_s},
            "confounds": {
                "preset": config.confounds,
                "columns": list(opened.confounds.names),
                "table": "computed" if opened.computed else "given" if recording.confounds else None,
            },
            "high_pass_hz": config.high_pass_hz,
            "slice_timing": config.slice_timing,
            "settings": _settings(config),
            "whole_run": _whole_run(recording, opened.confounds, config),
            "scored": rule,
            "versions": versions(),
        },
    )


def _whole_run(recording: Recording, confounds: ConfoundModel, config: PrepareConfig) -> list[str]:
    """What lets later volumes touch earlier ones, in words; empty for a causal store."""
    used = [f"confound {name}" for name in confounds.whole_run]
    if config.slice_timing:
        used.append("slice timing (Fourier shift)")
    if recording.route == "preprocessed" and recording.sidecar.get("SliceTimingCorrected"):
        used.append("slice timing (by who preprocessed the image)")
    if config.estimation == "whole-run":
        used.append("z-score")
        used += ["confound fit"] if confounds.names else []
        used += ["high-pass"] if config.high_pass_hz is not None else []
    return used


def _write_reference(path: Path, header: RunHeader, mean: np.ndarray) -> None:
    """Write the mean image of a run on its output grid: what tells a reader whether it lies where it should."""
    if header.space.mask is None:
        return
    write_nifti(path, header.space, iter([mean[None]]), n_time_points=1, repetition_time=None)
    sidecar = {"Description": "Mean over the run, before anything was done along time", "Space": header.space.name}
    write_json(sidecar_path(path), {**sidecar, "Route": header.record["route"]})


def _sidecar(header: RunHeader, n_constant: int) -> dict[str, Any]:
    record = header.record
    return {
        "Description": "Volumes scaled for forecasting (Zarr, one row a volume, one column a voxel or parcel)",
        "RepetitionTime": header.repetition_time,
        "Space": header.space.name,
        "Route": record["route"],
        "NumberOfFrames": len(header.scored),
        "NumberOfScoredFrames": int(header.scored.sum()),
        "NumberOfFeatures": header.space.n_features,
        "NumberOfConstantFeatures": n_constant,
        "Sources": [source["name"] for source in record["sources"].values()],
        "Normalizer": record["normalizer"],
        "Confounds": record["confounds"],
        "HighPassHz": record["high_pass_hz"],
        "WholeRun": record["whole_run"],
        "ScoredFrames": record["scored"],
    }
