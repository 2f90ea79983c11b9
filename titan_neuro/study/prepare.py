"""The first stage: every chosen run is brought to one grid, cleaned and scaled causally, and stored."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from titan_neuro import __version__
from titan_neuro.data.bids.annex import annex_key, dataset_id
from titan_neuro.data.bids.output import init_output_dir
from titan_neuro.data.fetch import get_content
from titan_neuro.data.prepare import missing_inputs, prepare_run, store_path
from titan_neuro.data.prepare.workers import end_with_parent
from titan_neuro.errors import TitanNeuroError
from titan_neuro.files import write_json
from titan_neuro.provenance import read_stage

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.data.prepare import PrepareConfig
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.output import OutputFolder


@dataclass(frozen=True)
class PlannedRun:
    """What `prepare` would do with a run.

    Attributes
    ----------
    recording : Recording
    store : Path
        Where the prepared run lies, or will lie.
    is_prepared : bool
    route : str
        In words: which files are read, and which mask is used.
    n_missing : int
        Files that are not fetched yet.
    """

    recording: Recording
    store: Path
    is_prepared: bool
    route: str
    n_missing: int

    def __str__(self) -> str:
        """One line for the terminal."""
        what = "prepared" if self.is_prepared else f"to prepare ({self.route})"
        missing = f"; {self.n_missing} files are not fetched yet" if self.n_missing else ""
        tables = ", ".join(table.name for table in self.recording.continuous)
        decoded = f"; continuous tables: {tables}" if tables else ""
        return f"{self.recording.key}: {what} as {self.store.name}{decoded}{missing}"


def plan_runs(recordings: Sequence[Recording], output: OutputFolder, config: PrepareConfig) -> list[PlannedRun]:
    """Say for each run what `prepare_runs` would do, from file names and settings alone."""
    planned = []
    for recording in recordings:
        store = store_path(recording, output.path, config)
        n_missing = len(missing_inputs(recording, output.path, config))
        planned.append(PlannedRun(recording, store, store.exists(), _route_in_words(recording, config), n_missing))
    return planned


def _route_in_words(recording: Recording, config: PrepareConfig) -> str:
    if recording.route == "native" and config.rough_registration:
        return "raw, ROUGH REGISTRATION estimated from the image alone"
    mask = f"mask: {recording.mask.name}" if recording.mask else "mask computed from the first volumes"
    return {
        "parcels": "parcel time series",
        "native": f"raw, in its own space, {mask}",
        "preprocessed": f"preprocessed image {recording.path.name}, {mask}",
        "transforms": "raw and fMRIPrep's transforms, in one interpolation",
    }[recording.route]


def write_filters(folder: Path, recordings: Sequence[Recording], given: dict[str, Any]) -> None:
    """Write ``KEY.json`` for each run, a filter file that chooses it alone: for arrays of jobs.

    Parameters
    ----------
    folder : Path
    recordings : sequence of Recording
    given : dict
        The ``bold`` part of the filter that chose the recordings; it stays in force.
    """
    names = sorted({name for recording in recordings for name in recording.run_entities})
    for recording in recordings:
        # None: a run without a label must not match those that have one.
        entities = {name: recording.run_entities.get(name) for name in names}
        write_json(folder / f"{recording.key}.json", {"bold": {**given, **entities}})


def fetch_missing(recordings: Sequence[Recording], output: OutputFolder, config: PrepareConfig) -> bool:
    """Get what of these recordings a DataLad dataset has not on this machine; whether there was anything to get."""
    missing = [path for recording in recordings for path in missing_inputs(recording, output.path, config)]
    return get_content(missing) > 0


def prepare_runs(
    recordings: Sequence[Recording],
    bids_dir: Path,
    output: OutputFolder,
    config: StudyConfig,
    *,
    n_processes: int,
    memory_bytes: int | None,
) -> int:
    """Prepare every run that is not prepared yet, with its record in ``provenance.json``.

    Parameters
    ----------
    recordings : sequence of Recording
    bids_dir : Path
    output : OutputFolder
    config : StudyConfig
    n_processes : int
        Runs prepared side by side.
    memory_bytes : int, optional
        For all processes together.

    Returns
    -------
    int
        Runs that were prepared now.
    """
    init_output_dir(output.path, bids_dir, __version__, output.work_dir)
    output.record_settings(config)
    subjects = sorted({recording.subject for recording in recordings})
    stage = f"prepare sub-{subjects[0]}" + (f" to sub-{subjects[-1]}" if len(subjects) > 1 else "")
    keys = {recording.path.name: annex_key(recording.path) for recording in recordings}
    with output.stage(stage, input_dataset_id=dataset_id(bids_dir), input_keys=keys) as record:
        n_workers = min(n_processes, len(recordings))
        options = {"work_dir": output.work_dir, "memory_bytes": memory_bytes and memory_bytes // n_workers}
        n_made = _prepare_all(recordings, output.path, config.prepare, n_workers, options)
        record["n_made"], record["n_runs"] = n_made, len(recordings)
        # A process that was killed may have made all runs, and left no record.
        if not n_made and read_stage(output.path, stage):
            record.clear()
    return n_made


def _prepare_all(
    recordings: Sequence[Recording], output_dir: Path, config: PrepareConfig, n_workers: int, options: dict[str, Any]
) -> int:
    with tqdm(total=len(recordings), desc="prepare", unit="run", disable=None) as bar:
        if n_workers == 1:
            n_made = 0
            for recording in recordings:
                bar.set_postfix_str(recording.key)
                n_made += prepare_run(recording, output_dir, config, **options)[1]
                bar.update()
            return n_made
        # Libraries that are loaded here run threads, which a forked process would find stopped in the middle.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(n_workers, mp_context=context, initializer=end_with_parent) as pool:
            jobs = [pool.submit(prepare_run, recording, output_dir, config, **options) for recording in recordings]
            return _collect(pool, jobs, bar)


def _collect(pool: Executor, jobs: list[Future[tuple[Path, bool]]], bar: tqdm) -> int:
    n_made = 0
    try:
        for job in as_completed(jobs):
            n_made += job.result()[1]
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
    return n_made
