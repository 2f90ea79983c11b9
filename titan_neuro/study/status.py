"""What of a study is done, stale, damaged or missing: from manifests and the content of files, at one place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from titan_neuro import __version__, manifests
from titan_neuro.data.prepare import content_id
from titan_neuro.data.prepare.inputs import recorded_settings
from titan_neuro.errors import ConfigError, InputNotFoundError, TitanNeuroError, list_names
from titan_neuro.files import WORK_FOLDER
from titan_neuro.manifests import Check, ResultOf, State
from titan_neuro.probing import PROBES
from titan_neuro.provenance import commit
from titan_neuro.stage_locks import Holder, holders
from titan_neuro.study.failures import recorded_failures
from titan_neuro.study.load import load_study

if TYPE_CHECKING:
    from pathlib import Path

    from titan_neuro.data.prepare import PrepareConfig
    from titan_neuro.study.models import PlannedModel, StudyPlan
    from titan_neuro.study.output import OutputFolder
    from titan_neuro.study.study import Study

_THREADS = 4
_STAGES = ("prepare", "train", "evaluate", "probe", "predict", "report")
_GROUP = ("train", "evaluate", "probe", "report")
_LABELS = {"evaluate": "forecast scores", "report": "report.html"}
_MOST_ROWS = 12
# Raised when the same results come to another page.
_REPORT_VERSION = 1


@dataclass(frozen=True)
class StudyStatus:
    """The state of every result of a study.

    Attributes
    ----------
    checks : dict of str to Check
        By the name of the manifest: ``prepare/sub-01_task-movie``, ``train/seed-0_fold-1_titan-mac``, ``evaluate``,
        ``probe/surprise``, ``predict/sub-01_task-movie_H1``, ``report``; in the order of the stages.
    problem : str or None
        Why the models and what follows from them can't be compared with the prepared runs: a run is damaged, settings
        don't fit. They are then listed as stale.
    at_work : tuple of Holder
        Processes that read or write the results now: what they write is not finished.
    """

    checks: dict[str, Check]
    problem: str | None = None
    at_work: tuple[Holder, ...] = ()

    def of(self, stage: str) -> dict[str, Check]:
        """Return the results of one stage."""
        return {name: check for name, check in self.checks.items() if name.partition("/")[0] == stage}

    def lines(self) -> list[str]:
        """Return a table for the terminal, and what a run would do next."""
        rows = [("stage", "result", "state", "why")]
        for stage in _STAGES:
            rows += _rows(stage, self.of(stage))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
            for row in rows
        ]
        problem = [] if self.problem is None else [f"Models can't be compared with the prepared runs: {self.problem}"]
        at_work = [f"At work: `{holder.stage}` ({holder.who})." for holder in self.at_work]
        return [*table, *problem, *at_work, *self._next_steps()]

    def _next_steps(self) -> Iterator[str]:
        runs = [name.partition("/")[2] for name, check in self.of("prepare").items() if not check.is_done]
        if runs:
            yield f"Next: `titan-neuro run ... participant` would prepare: {list_names(runs, 4)}."
        todo = [name for stage in _GROUP for name, check in self.of(stage).items() if not check.is_done]
        if todo:
            yield f"Next: `titan-neuro run ... group` would make: {list_names(todo, 6)}."
        if not runs and not todo:
            yield "Nothing is left to do."


def _rows(stage: str, checks: dict[str, Check]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each result; of many that are done, one row for all."""
    done = [name for name, check in checks.items() if check.is_done]
    together = len(checks) > _MOST_ROWS
    if together and done:
        yield stage, f"{len(done)} of {len(checks)}", State.DONE, ""
    for name, check in checks.items():
        if not (together and check.is_done):
            yield stage, _LABELS.get(name, name.partition("/")[2]), check.state, check.why


def study_status(
    study: Study, plan: StudyPlan | None = None, *, read_runs: bool = True, read_results: bool = True
) -> StudyStatus:
    """Compare every manifest with the inputs and settings in force, and with the files.

    Parameters
    ----------
    study : Study
    plan : StudyPlan, optional
        From :meth:`Study.plan_group`, where the caller has it already.
    read_runs : bool
        Whether prepared runs are read, and the files of the dataset that they are from. False: only whether the runs
        are there, and of their size.
    read_results : bool
        The same of what follows from the runs.

    Raises
    ------
    InputNotFoundError
        The output folder does not exist.
    """
    output = study.output
    if not output.path.is_dir():
        raise InputNotFoundError(f"{output.path}: no such folder.", "Name the OUTPUT_DIR of a study.")
    at_work = tuple(holders(output.locks))
    checks = _check_prepared(output, contents=read_runs)
    problem = None
    try:
        checks |= check_group(plan or study.plan_group(), contents=read_results)
        if "evaluate" in checks:
            checks["report"] = report_result(output, StudyStatus(checks)).check(contents=read_results)
    except TitanNeuroError as error:
        if any(check.is_done for check in checks.values()) or manifests.names(output.path, "train"):
            problem = error.message
        checks |= _uncomparable(output, error.message)
    return StudyStatus(checks, problem, at_work)


def _uncomparable(output: OutputFolder, reason: str) -> dict[str, Check]:
    """Call all that follows from the prepared runs stale, for this reason."""
    listed = [name for stage in ("train", "probe", "predict") for name in manifests.names(output.path, stage)]
    found = {name: manifests.check_recorded(output.path, name, lambda _: [reason]) for name in (*listed, "evaluate")}
    return {name: check for name, check in found.items() if check.state is not State.MISSING}


def _check_prepared(output: OutputFolder, *, contents: bool) -> dict[str, Check]:
    from titan_neuro.study.null_control import source_of

    config, dataset = None, None
    if output.resolved_settings.is_file():
        # Where they are damaged, that is said of all that follows from them.
        with contextlib.suppress(ConfigError):
            config = load_study(default_preset="debug", config_file=output.resolved_settings).prepare
    if contents:
        try:
            dataset = source_of(output.path)
        except TitanNeuroError:
            # A study whose dataset is not on this machine: its stores speak for themselves.
            dataset = None
    names = manifests.names(output.path, "prepare")
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: _check_run(output.path, name, config, dataset, contents=contents), names)
    checks = dict(zip(names, found, strict=True))
    failed = {f"prepare/{key}": Check(State.MISSING, (reason,)) for key, reason in recorded_failures(output).items()}
    return {**checks, **{name: check for name, check in failed.items() if name not in checks}}


def _check_run(root: Path, name: str, config: PrepareConfig | None, dataset: Path | None, *, contents: bool) -> Check:
    """Compare a prepared run with the settings in force and the files that it was prepared from."""

    def changes(manifest: Mapping[str, Any]) -> Iterator[str]:
        if config is not None:
            before = manifest["settings"].get("prepare", {})
            yield from manifests.differences(before, manifests.as_json(recorded_settings(config)), "prepare")
        if dataset is not None:
            yield from _changed_sources(manifest, dataset)

    return manifests.check_recorded(root, name, changes, contents=contents)


def _changed_sources(manifest: Mapping[str, Any], dataset: Path) -> Iterator[str]:
    for name, where in manifest["made"].get("sources", {}).items():
        path = dataset / where
        if WORK_FOLDER in path.parts:
            # Noise of a null control, which is removed once it is prepared.
            continue
        try:
            if content_id(path) != manifest["inputs"].get(name):
                yield f"{name} has changed since"
        except InputNotFoundError:
            yield f"{name} is no longer in the dataset"


def report_result(output: OutputFolder, status: StudyStatus) -> ResultOf:
    """Return what the report follows from: every result and its state, and the files that describe the study."""
    states = {
        name: check for name, check in status.checks.items() if name.partition("/")[0] not in {"predict", "report"}
    }
    described = ("dataset_description.json", output.resolved_settings.name, "provenance.json")
    files = {name: content_id(output.path / name) for name in described if (output.path / name).is_file()}
    results = {name: manifests.result_digest(output.path, name) or "" for name in states}
    return ResultOf(
        root=output.path,
        name="report",
        method=_REPORT_VERSION,
        settings={
            "code": f"{__version__}, commit {(commit() or 'not known')[:12]}",
            "state": {name: str(check) for name, check in states.items()},
            "problem": status.problem,
        },
        inputs={**results, **files},
    )


def check_group(plan: StudyPlan, *, contents: bool = True) -> dict[str, Check]:
    """Return the state of all that follows from the prepared runs, by the names of the manifests.

    Parameters
    ----------
    plan : StudyPlan
    contents : bool
        Whether files are read.
    """
    from titan_neuro.study.evaluate import evaluation_result
    from titan_neuro.study.predict import forecast_result
    from titan_neuro.study.probe import probe_result

    models = manifests.check_all([model.result for model in plan.models], contents=contents)
    trained = dict(zip([model.result.name for model in plan.models], models, strict=True))
    results: list[ResultOf] = []
    needed: list[Sequence[PlannedModel]] = []
    if any(data.fold.test for data in plan.folds):
        results = [evaluation_result(plan), *(probe_result(name, plan) for name in PROBES)]
        needed = [plan.models, *(plan.main_models for _ in PROBES)]
    for model in plan.main_models:
        for run in model.data.select(model.data.fold.test):
            for horizon in plan.config.model.horizons:
                result = forecast_result(plan, model, run, horizon)
                if result.path.exists():
                    results.append(result)
                    needed.append([model])
    found = manifests.check_all(results, contents=contents)
    follows = {
        result.name: _with_models(check, [(model.label, trained[model.result.name]) for model in of])
        for result, check, of in zip(results, found, needed, strict=True)
    }
    return {**trained, **follows}


def _with_models(check: Check, models: Sequence[tuple[str, Check]]) -> Check:
    """Call a result stale that is of models which would be trained again with the settings in force."""
    outdated = [f"model {label} is stale: {model.why}" for label, model in models if model.state is State.STALE]
    return Check(State.STALE, (*outdated, *check.reasons)) if outdated and check.is_done else check
