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
from titan_neuro.data.prepare.inputs import missing_files, preparation, require_content, source_contents, source_paths
from titan_neuro.data.prepare.inspection import Inspection
from titan_neuro.data.prepare.memory import bytes_for_blocks, release_memory
from titan_neuro.data.prepare.outputs import (
    OutputFiles,
    build_header,
    manifest_of,
    output_files,
    write_mean_image,
    write_sidecar,
    write_snr_image,
)
from titan_neuro.data.prepare.routes import OpenRun, open_run
from titan_neuro.data.store.schema import RunHeader
from titan_neuro.files import file_lock, remove_files, writing_to
from titan_neuro.manifests import Check, ResultOf, State, manifest_path
from titan_neuro.provenance import digest

logger = logging.getLogger(__name__)


def prepare_run(
    recording: Recording,
    output_dir: Path,
    config: PrepareConfig,
    *,
    work_dir: Path,
    memory_bytes: int | None = None,
    may_write: bool = True,
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
        Bound on the resident size of this process. By default a block of time points takes 192 MiB.
    may_write : bool
        False: nothing is prepared, only said whether that is to be done.

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
        folder can't be written; a setting does not fit the data, or the run the memory.
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
        follows_from = preparation(recording, sources, config)
        result = ResultOf(root=output_dir, name=manifest_of(files.store), **follows_from)
        if (found := result.check()).is_done or not may_write:
            return files.store, not found.is_done
        _begin(recording, config, found, scratch_dir)
        if memory_bytes is not None:
            release_memory()
        run = open_run(recording, config, scratch_dir, stack)
        header = build_header(recording, run, config, {"fingerprint": digest(follows_from), "sources": sources})
        block_bytes = None if memory_bytes is None else bytes_for_blocks(recording.key, run, memory_bytes)
        with result.writing(sources=source_paths(recording, config)) as written:
            _store(run, header, files, config, scratch_dir / "cleaned", block_bytes)
            written.files += [path for path in files.all if path.exists()]
    return files.store, True


def _begin(recording: Recording, config: PrepareConfig, found: Check, scratch_dir: Path) -> None:
    """Say why a run is prepared again, check that its files are on this machine, and make the folder for its work."""
    if found.state is not State.MISSING:
        logger.info("%s is prepared again: %s", recording.key, found)
    require_content(recording, config)
    with writing_to(scratch_dir):
        scratch_dir.mkdir(parents=True, exist_ok=True)


def _store(
    run: OpenRun,
    header: RunHeader,
    files: OutputFiles,
    config: PrepareConfig,
    scratch_file: Path,
    block_bytes: int | None,
) -> None:
    """Write the store of a run and the files beside it, in place of all that an earlier preparation wrote."""
    from titan_neuro.data.store import write_run

    remove_files(files.all[1:])
    inspection = Inspection(header.key, header.space.n_features, header.repetition_time)
    write_run(files.store, header, _clean(run, inspection, config, scratch_file, block_bytes))
    if inspection.n_constant:
        logger.warning("%s: %d voxels or parcels are constant; they are 0.", header.key, inspection.n_constant)
    if run.computed is not None:
        write_confounds(files.confounds, run.computed)
    write_mean_image(files, header, inspection.mean)
    write_snr_image(files, header, inspection.temporal_snr)
    write_sidecar(files, header, inspection)


def check_prepared(recording: Recording, output_dir: Path, config: PrepareConfig) -> Check:
    """Say whether a recording is prepared: of what its source files hold now, with these settings.

    Raises
    ------
    InputNotFoundError
        A source file can't be read.
    """
    name = manifest_of(output_files(recording, output_dir, config).store)
    if not manifest_path(output_dir, name).exists():
        # Without reading gigabytes of recordings.
        return Check(State.MISSING)
    follows_from = preparation(recording, source_contents(recording, config), config)
    return ResultOf(root=output_dir, name=name, **follows_from).check()


def store_path(recording: Recording, output_dir: Path, config: PrepareConfig) -> Path:
    """Return the path of a recording's store."""
    return output_files(recording, output_dir, config).store


def missing_inputs(recording: Recording, output_dir: Path, config: PrepareConfig) -> list[Path]:
    """Return the files that `prepare_run` needs and whose content is not on this machine; none for a finished run."""
    if recording.failure is not None:
        return []
    missing = list(missing_files(recording, config).values())
    return [] if missing and check_prepared(recording, output_dir, config).is_done else missing


def _clean(
    run: OpenRun, inspection: Inspection, config: PrepareConfig, scratch_file: Path, block_bytes: int | None
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
    blocks = read_in_blocks(run.series, inspection, block_bytes, first)
    if config.estimation == "whole-run":
        yield from clean_whole_run(blocks, n_features, cleaning, scratch_file)
    else:
        yield from clean_causally(blocks, n_features, cleaning)
