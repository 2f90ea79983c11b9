"""The first stage: every chosen run is brought to one grid, cleaned and scaled causally, and stored."""

from __future__ import annotations

import logging
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from tqdm import tqdm

from titan_neuro import __version__, manifests
from titan_neuro.data.bids.annex import annex_key, dataset_id, is_missing
from titan_neuro.data.bids.names import join_entities
from titan_neuro.data.bids.output import init_output_dir
from titan_neuro.data.fetch import get_content
from titan_neuro.data.prepare import (
    PrepareConfig,
    check_prepared,
    missing_inputs,
    prepare_run,
    preview_run,
    store_path,
)
from titan_neuro.data.prepare.atlas import check_atlas
from titan_neuro.data.prepare.inputs import unread_sources
from titan_neuro.data.prepare.outputs import manifest_of
from titan_neuro.data.prepare.preview import Preview
from titan_neuro.data.prepare.routes import REALIGNED_MASK, check_settings, is_realigned, output_route, output_space
from titan_neuro.data.prepare.timing import sidecar_repetition_time
from titan_neuro.data.prepare.workers import end_with_parent
from titan_neuro.errors import OF_ONE_RUN, FetchError, InputNotFoundError, MetadataError, TitanNeuroError, list_names
from titan_neuro.files import write_json
from titan_neuro.manifests import Check, State
from titan_neuro.provenance import digest, read_stage
from titan_neuro.stage_locks import hold
from titan_neuro.study.failures import failures_in_one, record_failures
from titan_neuro.study.memory import share_memory

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.data.store import RunStore
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.output import OutputFolder

logger = logging.getLogger(__name__)
_MAX_COLUMNS = 12
# How many runs were prepared now, and the errors of those that can't be, by the run's key.
_Outcome = tuple[int, dict[str, TitanNeuroError]]


@dataclass(frozen=True)
class PlannedRun:
    """What `prepare` would do with a run.

    Attributes
    ----------
    recording : Recording
    store : Path
        Where the prepared run lies, or will lie; the output folder for a run that can't be prepared.
    check : Check
        Whether it is prepared, of what its source files hold now and with these settings.
    route : str
        In words: which files are read, and which mask is used.
    details : tuple of str
        What is read for what, what is decided, what is left out and why, and what is missing; one line each.
    problem : str or None
        Why it can't be prepared, as far as that is known.
    """

    recording: Recording
    store: Path
    check: Check
    route: str
    details: tuple[str, ...]
    problem: str | None = None

    def __str__(self) -> str:
        """One line for the terminal, and the details below it."""
        again = "" if self.check.state is State.MISSING else f" again, {self.check}"
        what = "prepared" if self.check.is_done else f"to prepare{again} ({self.route})"
        what = f"{what} as {self.store.name}" if self.problem is None else f"CAN'T BE PREPARED: {self.problem}"
        return "\n  ".join([f"{self.recording.key}: {what}", *self.details])


def plan_runs(recordings: Sequence[Recording], output: OutputFolder, config: PrepareConfig) -> list[PlannedRun]:
    """Say for each run what `prepare_runs` would do.

    Of runs that are not prepared yet, names, settings, sidecars, headers and tables alone are read.
    """
    _check_atlas(config)
    planned = []
    for recording in recordings:
        if recording.failure is not None:
            planned.append(PlannedRun(recording, output.path, Check(State.MISSING), "", (), recording.failure.message))
            continue
        check_settings(recording, config)
        store = store_path(recording, output.path, config)
        missing = missing_inputs(recording, output.path, config)
        details = tuple(_details(recording, config, missing))
        check = check_prepared(recording, output.path, config)
        preview = Preview() if check.is_done else preview_run(recording, config)
        route = _route_in_words(recording, config)
        planned.append(PlannedRun(recording, store, check, route, (*details, *preview.notes), preview.problem))
    return planned


def open_prepared(output: OutputFolder) -> list[RunStore]:
    """Open all prepared runs of an output folder, sorted by name.

    Raises
    ------
    InputNotFoundError
        There is none; or one is not whole: without it the study would silently become another.
    MismatchError
        See :func:`titan_neuro.data.store.open_runs`.
    """
    from titan_neuro.data.store import open_runs

    listed = manifests.names(output.path, "prepare")
    damaged = {}
    for name in listed:
        found = manifests.check_recorded(output.path, name, contents=False)
        if not found.is_done:
            damaged[name.removeprefix("prepare/")] = found.why
    if damaged:
        raise InputNotFoundError(
            f"{output.path}: {len(damaged)} of {len(listed)} prepared runs are not whole any more: "
            + "; ".join(f"{key}: {why}" for key, why in damaged.items()),
            "Prepare them again with `titan-neuro prepare`. To leave a run out of the study instead, remove its store "
            f"and its manifest in {output.path / manifests.FOLDER / 'prepare'}.",
        )
    runs = open_runs(output.path)
    finished = set(listed)
    unfinished = [run.key for run in runs if manifest_of(Path(run.path)) not in finished]
    if unfinished:
        raise InputNotFoundError(
            f"{output.path}: the preparation of {list_names(unfinished)} was not finished: there is a store, but no "
            "manifest.",
            "Run `titan-neuro prepare` again. If the store was copied here, copy its file in manifests/prepare, too. "
            "To leave the run out, remove its store.",
        )
    return runs


def _check_atlas(config: PrepareConfig) -> None:
    """Refuse a file that is no atlas at once, not run by run."""
    if config.atlas is not None and not is_missing(config.atlas):
        check_atlas(config.atlas)


def _details(recording: Recording, config: PrepareConfig, missing: Sequence[Path]) -> Iterator[str]:
    """Say what is read for what, what is left out, and what is missing."""
    if recording.hemispheres:
        yield from (f"hemi-{side}: {path}" for side, path in recording.hemispheres.items())
    else:
        yield f"{'table' if recording.kind == 'parcels' else 'image'}: {recording.path}"
    if recording.kind == "volume":
        yield f"grid: {_grid_in_words(recording, config)}"
        yield f"mask: {_mask_in_words(recording, config)}"
    if config.atlas is not None:
        purpose = ", to say where the parcels lie" if recording.kind == "parcels" else ""
        yield f"atlas: {config.atlas}{purpose}"
    for role, path in recording.transforms.items():
        yield f"{role.replace('_', ' ')}: {path.name}"
    yield f"repetition time: {_repetition_time_in_words(recording)}"
    yield f"events: {recording.events or 'no table: all time points after the warm-up are scored'}"
    yield from (f"continuous table: {table.path}" for table in recording.continuous)
    table = "computed here" if is_realigned(recording, config) else recording.confounds or "none"
    yield f"confounds: regressed out: {config.confounds}; table: {table}"
    yield from recording.notes
    for path in dict.fromkeys(missing):
        what = "subdataset that is not installed" if path in recording.uninstalled else "not on this machine"
        yield f"missing: {path} ({what})"


def _repetition_time_in_words(recording: Recording) -> str:
    try:
        given_s = sidecar_repetition_time(recording)
    except MetadataError:
        # Why is said by `preview_run`.
        return "not valid in the sidecar"
    if given_s is not None:
        return f"{given_s:g} s, from the sidecar"
    return f"{'no sidecar on this machine' if recording.missing_sidecars else 'not in the sidecar'}: from the header"


def _grid_in_words(recording: Recording, config: PrepareConfig) -> str:
    space, resolution_mm = output_space(recording, config)
    label = recording.entities.get("resolution")
    own = "that of the image" + (f", res-{label}" if label else "")
    return f"{space or recording.entities.get('space', 'own space')}, " + (
        f"{resolution_mm:g} mm" if resolution_mm else own
    )


def _mask_in_words(recording: Recording, config: PrepareConfig) -> str:
    if is_realigned(recording, config):
        return REALIGNED_MASK
    return str(recording.mask) if recording.mask else "the dataset has none: computed from the first volumes"


def run_table(recordings: Sequence[Recording]) -> list[str]:
    """Return a table of the runs of each subject, and a line for each subject that lacks runs which most others have.

    Parameters
    ----------
    recordings : sequence of Recording

    Returns
    -------
    list of str
        Lines for the terminal. Columns are the runs; subjects with the same runs share a row.
    """
    runs: dict[str, set[str]] = {}
    for recording in recordings:
        labels = {name: label for name, label in recording.run_entities.items() if name != "subject"}
        runs.setdefault(recording.subject, set()).add(join_entities(labels) or "(no label)")
    columns = sorted(set().union(*runs.values()))
    rows: dict[tuple[str, ...], list[str]] = {}
    for subject in sorted(runs):
        rows.setdefault(tuple(sorted(runs[subject])), []).append(subject)
    subjects_in_words = "1 subject" if len(runs) == 1 else f"{len(runs)} subjects"
    lines = [f"{subjects_in_words}, {len(recordings)} {'run' if len(recordings) == 1 else 'runs'}:"]
    if len(columns) <= _MAX_COLUMNS:
        lines += [f"  {number}: {column}" for number, column in enumerate(columns, start=1)]
    for present, subjects in sorted(rows.items(), key=lambda row: (-len(row[0]), row[1])):
        marks = " ".join(str(number) if run in present else "-" for number, run in enumerate(columns, start=1))
        which = f" ({marks})" if len(columns) <= _MAX_COLUMNS else ""
        count = f"{len(present)} {'run' if len(present) == 1 else 'runs'}"
        lines.append(f"  {count}{which}: {' '.join(f'sub-{subject}' for subject in subjects)}")
    return [*lines, *_incomplete(runs)]


def _incomplete(runs: Mapping[str, Set[str]]) -> list[str]:
    most = max(map(len, runs.values()))
    fewer = [subject for subject in sorted(runs) if len(runs[subject]) < most]
    common = {
        run for run, count in Counter(run for each in runs.values() for run in each).items() if 2 * count > len(runs)
    }
    lines = []
    for subject in fewer:
        lacking = sorted(common - runs[subject])
        which = f": {', '.join(lacking)} missing" if lacking else ""
        lines.append(f"sub-{subject} has fewer runs than others: {len(runs[subject])} of {most}{which}.")
    return lines


def _route_in_words(recording: Recording, config: PrepareConfig) -> str:
    return {
        "parcels": "parcel time series",
        "surface": "time series on surfaces",
        "native": "raw image, in its own space: not registered",
        "preprocessed": "preprocessed image",
        "transforms": "raw image and fMRIPrep's transforms, in one interpolation",
        "rough registration": "raw image, ROUGH REGISTRATION estimated from the image alone",
    }[output_route(recording, config)]


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
        if given.get("regex_search"):
            entities = {name: label and f"^{re.escape(label)}$" for name, label in entities.items()}
        write_json(folder / f"{recording.key}.json", {"bold": {**given, **entities}})


def fetch_missing(recordings: Sequence[Recording], output: OutputFolder, config: PrepareConfig) -> bool:
    """Get what of these recordings a DataLad dataset has not on this machine; whether there was anything to get.

    Sidecars and subdatasets come first: what else a run needs is known only with them.

    Raises
    ------
    FetchError
        No recording has all of its files. Where some have, the others are left to fail when they are prepared.
    """

    def missing(recording: Recording) -> list[Path]:
        unread = list(unread_sources(recording, config).values())
        return unread or missing_inputs(recording, output.path, config)

    wanted = [missing(recording) for recording in recordings]
    try:
        return get_content([path for paths in wanted for path in paths]) > 0
    except FetchError as error:
        left = [missing(recording) for recording in recordings]
        if all(left):
            raise
        logger.warning("%s The runs whose files are here are prepared.", error)
        return left != wanted


def prepare_runs(
    recordings: Sequence[Recording],
    bids_dir: Path,
    output: OutputFolder,
    config: StudyConfig,
    *,
    n_processes: int,
    memory_bytes: int | None,
) -> tuple[list[RunStore], int]:
    """Prepare every run that is not prepared yet, with its record in ``provenance.json``.

    Others may prepare further runs with the same settings at the same time. Who reads the runs, or prepares runs with
    other settings, is waited for, unless there is nothing to prepare.

    Parameters
    ----------
    recordings : sequence of Recording
    bids_dir : Path
    output : OutputFolder
    config : StudyConfig
    n_processes : int
        Runs prepared side by side.
    memory_bytes : int, optional
        Bound on the resident size of all processes together; see :func:`titan_neuro.study.memory.share_memory`.

    Returns
    -------
    runs : list of RunStore
        Of these recordings; others may be in work.
    n_made : int
        How many of them were prepared now.

    Raises
    ------
    ImageError, MetadataError, NotFetchedError, InputNotFoundError
        Some runs can't be prepared; the others are.
    OutputError, ConfigError, UsageError
        The folder can't be written, a setting does not fit, or not one process fits into the memory: this stops all.
    """
    from titan_neuro.data.store import RunStore

    n_workers, memory_bytes = share_memory(recordings, config.prepare, n_processes, memory_bytes)
    _check_atlas(config.prepare)
    init_output_dir(output.path, bids_dir, __version__, output.work_dir)
    options = {"work_dir": output.work_dir, "memory_bytes": memory_bytes}
    is_done = _are_prepared(recordings, output.path, config.prepare, n_workers, options)
    alike = digest(TypeAdapter(PrepareConfig).dump_python(config.prepare, mode="json"))
    with nullcontext() if is_done else hold(output.locks, "prepare", shares=["runs"], alike=alike):
        output.record_settings(config)
        work = None if is_done else partial(_prepare_all, recordings, output.path, config.prepare, n_workers, options)
        n_made, failures = _record(output, bids_dir, recordings, work)
        if failures:
            raise failures_in_one(failures, len(recordings))
        return [RunStore(store_path(recording, output.path, config.prepare)) for recording in recordings], n_made


def _record(
    output: OutputFolder, bids_dir: Path, recordings: Sequence[Recording], work: Callable[[], _Outcome] | None
) -> _Outcome:
    """Prepare the runs (None: all of them are) with a record of the stage, and one of the runs that can't be."""
    subjects = sorted({recording.subject for recording in recordings})
    stage = f"prepare sub-{subjects[0]}" + (f" to sub-{subjects[-1]}" if len(subjects) > 1 else "")
    keys = {recording.path.name: annex_key(recording.path) for recording in recordings}
    with output.stage(stage, input_dataset_id=dataset_id(bids_dir), input_keys=keys) as record:
        n_made, failures = (0, {}) if work is None else work()
        record["n_made"], record["n_runs"] = n_made, len(recordings)
        record["failed"] = {key: error.message for key, error in failures.items()}
        # A process that was killed may have made all runs, and left no record.
        if not n_made and not failures and read_stage(output.path, stage):
            record.clear()
    record_failures(output, [recording.key for recording in recordings], failures)
    return n_made, failures


def _are_prepared(
    recordings: Sequence[Recording], output_dir: Path, config: PrepareConfig, n_workers: int, options: dict[str, Any]
) -> bool:
    """Whether every run is prepared from what its files hold now, with these settings."""
    for recording in recordings:
        # Without reading gigabytes of recordings where something is to be done anyway.
        if (
            recording.failure is not None
            or not manifests.manifest_path(output_dir, manifest_of(store_path(recording, output_dir, config))).exists()
        ):
            return False
    return _prepare_all(recordings, output_dir, config, n_workers, {**options, "may_write": False}) == (0, {})


def _prepare_all(
    recordings: Sequence[Recording], output_dir: Path, config: PrepareConfig, n_workers: int, options: dict[str, Any]
) -> _Outcome:
    desc = "prepare" if options.get("may_write", True) else "check"
    with tqdm(total=len(recordings), desc=desc, unit="run", disable=None) as bar:
        if n_workers == 1:
            outcomes = []
            for recording in recordings:
                bar.set_postfix_str(recording.key)
                outcomes.append(_attempt(recording, output_dir, config, options))
                _report(recording, outcomes[-1], bar)
        else:
            # Libraries that are loaded here run threads, which a forked process would find stopped in the middle.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(n_workers, mp_context=context, initializer=end_with_parent) as pool:
                jobs = [pool.submit(_attempt, recording, output_dir, config, options) for recording in recordings]
                outcomes = _collect(pool, dict(zip(jobs, recordings, strict=True)), bar)
    errors = {
        recording.key: outcome
        for recording, outcome in zip(recordings, outcomes, strict=True)
        if isinstance(outcome, TitanNeuroError)
    }
    return sum(outcome is True for outcome in outcomes), errors


def _attempt(
    recording: Recording, output_dir: Path, config: PrepareConfig, options: dict[str, Any]
) -> bool | TitanNeuroError:
    """Prepare a run: whether that was done now (or is to be done), or what is wrong with its files."""
    try:
        return prepare_run(recording, output_dir, config, **options)[1]
    except OF_ONE_RUN as error:
        return error


def _report(recording: Recording, outcome: bool | TitanNeuroError, bar: tqdm) -> None:
    """Say at once that one of several runs can't be prepared: the others may take hours."""
    bar.update()
    if isinstance(outcome, TitanNeuroError) and bar.total > 1:
        logger.warning("%s can't be prepared (why is said at the end).", recording.key)


def _collect(
    pool: Executor, jobs: dict[Future[bool | TitanNeuroError], Recording], bar: tqdm
) -> list[bool | TitanNeuroError]:
    try:
        for job in as_completed(jobs):
            _report(jobs[job], job.result(), bar)
    except BrokenProcessPool as error:
        raise TitanNeuroError(
            "A process that prepared a run was killed, most likely because the memory was full.",
            "Run the same command again with --mem or with fewer --nprocs: what is done stays done.",
        ) from error
    except BaseException:
        # Runs that have not begun are not begun; those under way finish, and are found done the next time.
        pool.shutdown(cancel_futures=True)
        raise
    return [job.result() for job in jobs]
