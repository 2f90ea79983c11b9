"""The fourth stage: probes ask what the memory of the study's model holds."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import TypeAdapter

from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.prepare import content_id
from titan_neuro.files import find_with_leftovers, inside, read_json, remove_files, write_json
from titan_neuro.manifests import ResultOf, State
from titan_neuro.probing import PROBES, ProbedFold, ProbeSetup, untrained_like
from titan_neuro.probing.tools.annotations import annotation_files
from titan_neuro.probing.tools.results import RESULT_SUFFIX
from titan_neuro.progress import Progress
from titan_neuro.tables import read_written_tsv, write_tsv
from titan_neuro.training import run_digest

if TYPE_CHECKING:
    from titan_neuro.probing import Probe, ProbeResults
    from titan_neuro.study.models import StudyPlan, TrainedStudy
    from titan_neuro.training import FoldData

logger = logging.getLogger(__name__)

# Raised when the same models and settings come to other results of a probe.
_METHOD_VERSION = 4


@dataclass(frozen=True)
class ProbeOutcome:
    """What a probe has found, as it lies on the disk.

    Attributes
    ----------
    name : str
    summary : str
        What was found, in words.
    tables : dict of str to pandas.DataFrame
        ``scores`` and the probe's further tables.
    metadata : dict
        Sizes, tests and settings that belong to the result.
    """

    name: str
    summary: str
    tables: dict[str, pd.DataFrame]
    metadata: dict[str, Any]

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.name}: {self.summary}"


def probe_result(name: str, plan: StudyPlan) -> ResultOf:
    """Return what a probe's results follow from: their manifest."""
    config = plan.config
    settings = config.probe.settings(name)
    # Of tables that are decoded: a file may change and keep its name.
    tables = [path for path in annotation_files(getattr(settings, "tables", ())) if path.is_file()]
    set_aside = plan.folds[0].set_aside if getattr(settings, "tasks", None) else ()
    return ResultOf(
        root=plan.output.path,
        name=f"probe/{name}",
        method=_METHOD_VERSION,
        settings={
            name: TypeAdapter(type(settings)).dump_python(settings, mode="json"),
            "n_permutations": config.probe.n_permutations,
            # The intervals are made with the evaluation's settings.
            "evaluation": asdict(config.evaluation),
            "tested": plan.tested,
            "caveats": plan.folds[0].caveats,
        },
        inputs={
            **plan.inputs(plan.main_models),
            **{f"run {run.key}": run_digest(run) for run in set_aside},
            **{f"table {path.name}": content_id(path) for path in tables},
        },
    )


def probe_study(name: str, trained: TrainedStudy) -> ProbeOutcome:
    """Ask one probe about the study's model of the first seed and its held-out runs, unless that was done before."""
    config, folds, seed = trained.config, trained.folds, trained.config.seeds[0]
    result = probe_result(name, trained.plan)
    stem = trained.plan.stem.with_name(f"{trained.plan.stem.name}_desc-{name.replace('-', '')}")
    found = result.check()
    if found.is_done:
        logger.info("The %s probe was run before.", name)
    else:
        if found.state is not State.MISSING:
            logger.info("The %s probe is run again: %s", name, found)
        setup = ProbeSetup(
            repetition_time=folds[0].runs[folds[0].fold.test[0]].repetition_time,
            horizons=config.model.horizons,
            n_features=folds[0].space.n_features,
            n_permutations=config.probe.n_permutations,
            n_resamples=config.evaluation.n_resamples,
            seed=seed,
        )
        with trained.plan.output.stage(f"probe {name}", seed=seed, device=trained.device):
            results = _run(config.probe.build(name, setup), name, trained)
            with result.writing() as written:
                remove_files(_files_of(stem))
                _write(results, stem, name, trained)
                written.files += _files_of(stem)
    return _read(name, stem)


def _files_of(stem: Path) -> list[Path]:
    """Tables and maps of a probe, also those that an interrupted one has left."""
    start, _, desc = stem.name.rpartition("_")
    patterns = (f"{stem.name}_*", f"{start}_*stat-*_{desc}_statmap.*")
    return [path for pattern in patterns for path in find_with_leftovers(stem.parent, pattern)]


def _run(probe: Probe, name: str, trained: TrainedStudy) -> ProbeResults:
    seed = trained.config.seeds[0]
    with Progress(sum(len(data.fold.test) for data in trained.folds), f"Probe {name}") as progress:
        for models, data in zip(trained.models[seed], trained.folds, strict=True):
            model = models[0]
            fold = ProbedFold(
                model=model,
                untrained_model=untrained_like(model, seed=seed),
                test_runs=data.select(data.fold.test),
                training_runs=data.fit_runs,
                set_aside_runs=data.set_aside,
            )
            for run in fold.test_runs:
                probe.add(fold, run)
                progress.step(f"{run.key} is read")
    return probe.results()


def _write(results: ProbeResults, stem: Path, name: str, trained: TrainedStudy) -> None:
    """Write tables and maps, and a JSON that names the tables."""
    data: FoldData = trained.folds[0]
    shared = {"Protocol": data.protocol, "Caveats": data.caveats}
    for suffix, table in results.tables.items():
        path = stem.with_name(f"{stem.name}_{suffix}.tsv")
        write_tsv(path, table, float_format="%.6g")
        write_json(path.with_suffix(".json"), {**results.metadata, **shared})
    for stat, (values, metadata) in results.maps.items():
        label = f"stat-{stat}_desc-{name.replace('-', '')}"
        write_map(trained.plan.stem, label, data.space, values, {**metadata, **shared})
    tables = list(results.tables)
    found = {"Probe": name, "Asks": PROBES[name].question, "Summary": results.summary, "Tables": tables}
    write_json(_overview(stem), {**found, **results.metadata, **shared})


def _overview(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}{RESULT_SUFFIX}")


def _read(name: str, stem: Path) -> ProbeOutcome:
    metadata = read_json(_overview(stem))
    # Names of tables are what the file says.
    paths = {suffix: inside(stem.parent, f"{stem.name}_{suffix}.tsv") for suffix in metadata["Tables"]}
    tables = {suffix: read_written_tsv(path) for suffix, path in paths.items()}
    return ProbeOutcome(name, metadata["Summary"], tables, metadata)
