"""``titan-neuro prepare``: from recordings to stores of causally scaled time points."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro import __version__
from titan_neuro.cli import common
from titan_neuro.errors import TitanNeuroError, UsageError

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.data.prepare import PrepareConfig

logger = logging.getLogger(__name__)


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(
        subcommands,
        "prepare",
        "Bring recordings to one grid, clean and scale them causally, and store them as time points.",
    )
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    common.add_bids_input(parser)
    common.add_study(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.add_argument(
        "--filters",
        type=Path,
        metavar="DIR",
        help="with --dry-run: write a --bids-filter-file for each run there, that chooses it alone: for arrays of jobs",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Prepare every chosen run that is not prepared yet."""
    from titan_neuro.data.bids.annex import dataset_id
    from titan_neuro.data.bids.output import check_output, init_output_dir
    from titan_neuro.provenance import read_stage

    filters: Path | None = getattr(arguments, "filters", None)
    if filters is not None and not arguments.dry_run:
        raise UsageError("prepare: --filters goes with --dry-run alone: one job lists the runs, others prepare them.")
    recordings = common.find(arguments)
    check_output(arguments.output_dir, arguments.bids_dir)
    if arguments.dry_run:
        _show_plan(arguments, recordings)
        if filters is not None:
            _write_filters(filters, recordings, arguments.bids_filter_file)
        return
    study = common.resolve_study(arguments, recordings[0].kind)
    if not arguments.no_datalad_get and _get_missing(arguments, recordings, study.prepare):
        # Sidecars may have been among them.
        recordings = common.find(arguments)
    init_output_dir(arguments.output_dir, arguments.bids_dir, __version__, common.work_dir(arguments))
    common.record_study(arguments, study)
    subjects = sorted({recording.subject for recording in recordings})
    metadata = {"input_dataset_id": dataset_id(arguments.bids_dir), "input_keys": _input_keys(recordings)}
    who = f"sub-{subjects[0]}" + (f" to sub-{subjects[-1]}" if len(subjects) > 1 else "")
    stage = f"prepare {who}"
    with common.stage(arguments, stage, **metadata) as record:
        made = _prepare_all(arguments, recordings, study.prepare)
        record["n_made"], record["n_runs"] = made, len(recordings)
        # A process that was killed may have made all runs, and left no record.
        if not made and read_stage(arguments.output_dir, stage):
            record.clear()
    logger.info("%d runs prepared, %d of them now.", len(recordings), made)


def _get_missing(arguments: argparse.Namespace, recordings: list[Recording], config: PrepareConfig) -> bool:
    from titan_neuro.data.fetch import get_content
    from titan_neuro.data.prepare import missing_inputs

    missing = [path for recording in recordings for path in missing_inputs(recording, arguments.output_dir, config)]
    return get_content(missing) > 0


def _input_keys(recordings: list[Recording]) -> dict[str, str | None]:
    from titan_neuro.data.bids.annex import annex_key

    return {recording.path.name: annex_key(recording.path) for recording in recordings}


def _show_plan(arguments: argparse.Namespace, recordings: list[Recording]) -> None:
    from titan_neuro.data.prepare import missing_inputs, store_path

    config = common.resolve_study(arguments, recordings[0].kind).prepare
    for recording in recordings:
        store = store_path(recording, arguments.output_dir, config)
        missing = missing_inputs(recording, arguments.output_dir, config)
        logger.info(
            "%s: %s as %s%s",
            recording.key,
            "prepared" if store.exists() else f"to prepare ({_describe(recording, config)})",
            store.name,
            f"; {len(missing)} files are not fetched yet" if missing else "",
        )
    logger.info("%d runs; nothing was prepared.", len(recordings))


def _write_filters(folder: Path, recordings: list[Recording], given: Path | None) -> None:
    """Write ``KEY.json`` for each run: what a given filter asks for, and the run's own entities."""
    from titan_neuro.files import read_json, write_json

    asked = {} if given is None else read_json(given).get("bold", {})
    names = sorted({name for recording in recordings for name in recording.run_entities})
    for recording in recordings:
        # None: a run without a label must not match those that have one.
        own = {name: recording.run_entities.get(name) for name in names}
        write_json(folder / f"{recording.key}.json", {"bold": {**asked, **own}})


def _describe(recording: Recording, config: PrepareConfig) -> str:
    if recording.route == "native" and config.rough_registration:
        return "raw, registered roughly: QUICK LOOK"
    mask = f"mask: {recording.mask.name}" if recording.mask else "mask computed from the first volumes"
    return {
        "parcels": "parcel time series",
        "native": f"raw, in its own space, {mask}",
        "preprocessed": f"preprocessed image {recording.path.name}, {mask}",
        "transforms": "raw and fMRIPrep's transforms, in one interpolation",
    }[recording.route]


def _prepare_all(arguments: argparse.Namespace, recordings: list[Recording], config: PrepareConfig) -> int:
    from tqdm import tqdm

    from titan_neuro.data.prepare import prepare_run
    from titan_neuro.data.prepare.workers import end_with_parent

    workers = min(arguments.nprocs, len(recordings))
    memory = None if arguments.mem is None else int(arguments.mem * 1e9 / workers)
    options = {"work_dir": common.work_dir(arguments), "memory_bytes": memory}
    made = 0
    with tqdm(total=len(recordings), desc="prepare", unit="run", disable=None) as bar:
        if workers == 1:
            for recording in recordings:
                bar.set_postfix_str(recording.key)
                made += prepare_run(recording, arguments.output_dir, config, **options)[1]
                bar.update()
            return made
        # Libraries that are loaded here run threads, which a forked process would find stopped in the middle.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
            jobs = [
                pool.submit(prepare_run, recording, arguments.output_dir, config, **options) for recording in recordings
            ]
            made = _collect(pool, jobs, bar)
    return made


def _collect(pool: Executor, jobs: list[Future[tuple[Path, bool]]], bar: Any) -> int:
    made = 0
    try:
        for job in as_completed(jobs):
            made += job.result()[1]
            bar.update()
    except BrokenProcessPool as error:
        raise TitanNeuroError(
            "A process that prepared a run was killed, most likely because the memory was full.",
            "Run the same command again with fewer --nprocs: what is done stays done. A run needs up to 1.5 GiB.",
        ) from error
    except BaseException:
        # Runs that have not begun are not begun; those under way finish, and are found done the next time.
        pool.shutdown(cancel_futures=True)
        raise
    return made
