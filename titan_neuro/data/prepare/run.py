"""Prepare one run: recognize what is finished, open it by its route, clean it, store it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.cleaning import Cleaning, clean_causally, clean_whole_run, read_in_blocks
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.confound_table import write_confounds
from titan_neuro.data.prepare.inputs import (
    fingerprint,
    input_files,
    missing_files,
    recorded_settings,
    require_content,
    source_contents,
)
from titan_neuro.data.prepare.inspection import Inspection
from titan_neuro.data.prepare.outputs import OutputFiles, build_header, output_files, write_mean_image, write_sidecar
from titan_neuro.data.prepare.routes import OpenRun, open_run, output_route
from titan_neuro.data.store import RunStore, write_run
from titan_neuro.errors import TitanNeuroError
from titan_neuro.files import file_lock, remove_file, writing_to

logger = logging.getLogger(__name__)


def prepare_run(
    recording: Recording, output_dir: Path, config: PrepareConfig, *, work_dir: Path, memory_bytes: int | None = None
) -> tuple[Path, bool]:
    """Prepare one recording, unless its store exists already with the same sources and settings.

    Parameters
    ----------
    recording : Recording
    output_dir : Path
        Root of the output dataset; the store goes to ``sub-X/[ses-Y/]func/``.
    config : PrepareConfig
    work_dir : Path
        Folder for locks and scratch files.
    memory_bytes : int, optional
        Bound on the size of a block of time points (128 MiB by default); a block has at least one time point.

    Returns
    -------
    path : Path
        The store.
    is_new : bool
        False when the store existed already.

    Raises
    ------
    NotFetchedError, ImageError, MetadataError, OutputError, ConfigError
        The content is not on this machine; the image can't be used; the metadata are incomplete or contradictory; the
        folder can't be written; a setting does not fit the data.
    """
    if recording.failure is not None:
        raise recording.failure
    files = output_files(recording, output_dir, config)
    with ExitStack() as stack:
        stack.enter_context(file_lock(*files.all, work_dir=work_dir))
        scratch_dir = work_dir / "scratch" / files.store.name
        # Also for a finished run: a killed process may have left files there.
        stack.callback(shutil.rmtree, scratch_dir, ignore_errors=True)
        sources = source_contents(recording, config)
        digest = fingerprint(recording, sources, config)
        if _is_prepared(files, digest):
            return files.store, False
        require_content(recording, config)
        with writing_to(scratch_dir):
            scratch_dir.mkdir(parents=True, exist_ok=True)
        run = open_run(recording, config, scratch_dir, stack)
        header = build_header(recording, run, config, {"fingerprint": digest, "sources": sources})
        inspection = Inspection(recording.key, header.space.n_features, header.repetition_time)
        # The sidecar is removed first and written last: with it the run is complete.
        with writing_to(files.sidecar):
            remove_file(files.sidecar)
        write_run(files.store, header, _clean(run, inspection, config, scratch_dir / "cleaned", memory_bytes))
        if inspection.n_constant:
            logger.warning("%s: %d voxels or parcels are constant; they are 0.", recording.key, inspection.n_constant)
        if run.computed is not None:
            write_confounds(files.confounds, run.computed)
        write_mean_image(files, header, inspection.mean)
        write_sidecar(files, header, inspection.n_constant)
    return files.store, True


def store_path(recording: Recording, output_dir: Path, config: PrepareConfig) -> Path:
    """Return the path of a recording's store."""
    return output_files(recording, output_dir, config).store


def missing_inputs(recording: Recording, output_dir: Path, config: PrepareConfig) -> list[Path]:
    """Return the files that `prepare_run` needs and whose content is not on this machine; none for a finished run."""
    if recording.failure is not None:
        return []
    missing = list(missing_files(recording, config).values())
    if missing:
        digest = fingerprint(recording, source_contents(recording, config), config)
        if _is_prepared(output_files(recording, output_dir, config), digest):
            return []
    return missing


def was_prepared_alike(recording: Recording, output_dir: Path, config: PrepareConfig) -> bool:
    """Whether a recording was prepared by the same route from files of the same names with the same settings.

    Nothing is read but the record of the store; `prepare_run` compares the content, too.
    """
    files = output_files(recording, output_dir, config)
    if not (files.store.exists() and files.sidecar.is_file()):
        return False
    try:
        record = RunStore(files.store).record
    except TitanNeuroError:
        return False
    names = {role: path.name for role, path in input_files(recording, config).items()}
    return (
        record.get("settings") == recorded_settings(config)
        and record.get("route") == output_route(recording, config)
        and {role: source["name"] for role, source in record.get("sources", {}).items()} == names
    )


def _is_prepared(files: OutputFiles, digest: str) -> bool:
    if not (files.store.exists() and files.sidecar.is_file()):
        return False
    try:
        is_same = RunStore(files.store).record.get("fingerprint") == digest
    except TitanNeuroError:
        is_same = False
    if not is_same:
        logger.info("%s was prepared from other data or with other settings: it is prepared again.", files.store.name)
    return is_same


def _clean(
    run: OpenRun, inspection: Inspection, config: PrepareConfig, scratch_file: Path, memory_bytes: int | None
) -> Iterator[np.ndarray]:
    """Clean the run as if it began with its steady state; the volumes before it are 0, the value of a mean volume."""
    n_features, first = run.series.space.n_features, run.steady_state.n_volumes_before
    cleaning = Cleaning(
        confounds=replace(run.confounds, values=run.confounds.values[first:]),
        high_pass_hz=config.high_pass_hz,
        repetition_time=run.repetition_time,
    )
    if first:
        yield np.zeros((first, n_features), dtype=np.float32)
    blocks = read_in_blocks(run.series, inspection, memory_bytes, first)
    if config.estimation == "whole-run":
        yield from clean_whole_run(blocks, n_features, cleaning, scratch_file)
    else:
        yield from clean_causally(blocks, n_features, cleaning)
