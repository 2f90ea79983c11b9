"""The fourth stage: probes ask what the memory of the study's model holds."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.prepare import content_id
from titan_neuro.files import inside, read_json, write_json
from titan_neuro.probing import PROBES, ProbedFold, ProbeSetup, untrained_like
from titan_neuro.probing.tools.annotations import annotation_files
from titan_neuro.probing.tools.results import RESULT_SUFFIX
from titan_neuro.provenance import digest
from titan_neuro.tables import read_written_tsv, write_tsv

if TYPE_CHECKING:
    from titan_neuro.probing import Probe, ProbeResults
    from titan_neuro.study.models import TrainedStudy
    from titan_neuro.study.output import OutputFolder
    from titan_neuro.training import FoldData

logger = logging.getLogger(__name__)


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


def probe_study(name: str, trained: TrainedStudy, output: OutputFolder) -> ProbeOutcome:
    """Ask one probe about the study's model of the first seed and its held-out runs, unless that was done before."""
    config, folds, seed = trained.config, trained.folds, trained.config.seeds[0]
    settings = config.probe.settings(name)
    # The intervals are made with the evaluation's settings.
    follows_from = [asdict(settings), config.probe.n_permutations, asdict(config.evaluation), trained.fingerprints]
    # Of tables that are decoded: a file may change and keep its name.
    tables = annotation_files(getattr(settings, "tables", ()))
    follows_from += [content_id(path) for path in tables if path.is_file()]
    fingerprint = digest(follows_from)
    short = name.replace("-", "")
    stem = trained.stem.with_name(f"{trained.stem.name}_desc-{short}")
    done = stem.with_name(f"{stem.name}{RESULT_SUFFIX}")
    if output.is_done(f"probe {name}", fingerprint, [done]):
        logger.info("The %s probe was run before.", name)
    else:
        setup = ProbeSetup(
            repetition_time=folds[0].runs[folds[0].fold.test[0]].repetition_time,
            horizons=config.model.horizons,
            n_features=folds[0].space.n_features,
            n_permutations=config.probe.n_permutations,
            n_resamples=config.evaluation.n_resamples,
            seed=seed,
        )
        with output.stage(f"probe {name}", fingerprint=fingerprint, seed=seed, device=trained.device):
            results = _run(config.probe.build(name, setup), name, trained)
            _write(results, stem, name, trained, done)
    return _read(name, stem, done)


def _run(probe: Probe, name: str, trained: TrainedStudy) -> ProbeResults:
    seed = trained.config.seeds[0]
    with tqdm(total=sum(len(data.fold.test) for data in trained.folds), desc=name, unit="run", disable=None) as bar:
        for models, data in zip(trained.models[seed], trained.folds, strict=True):
            model = models[0]
            fold = ProbedFold(
                model=model,
                untrained_model=untrained_like(model, seed=seed),
                test_runs=data.select(data.fold.test),
                training_runs=data.fit_runs,
            )
            for run in fold.test_runs:
                probe.add(fold, run)
                bar.update()
    return probe.results()


def _write(results: ProbeResults, stem: Path, name: str, trained: TrainedStudy, done: Path) -> None:
    """Write tables and maps, and last the JSON that says that they are there."""
    data: FoldData = trained.folds[0]
    done.unlink(missing_ok=True)
    shared = {"Protocol": data.protocol, "Caveats": data.caveats}
    for suffix, table in results.tables.items():
        path = stem.with_name(f"{stem.name}_{suffix}.tsv")
        write_tsv(path, table, float_format="%.6g")
        write_json(path.with_suffix(".json"), {**results.metadata, **shared})
    for stat, (values, metadata) in results.maps.items():
        label = f"stat-{stat}_desc-{name.replace('-', '')}"
        write_map(trained.stem, label, data.space, values, {**metadata, **shared})
    tables = list(results.tables)
    found = {"Probe": name, "Asks": PROBES[name].question, "Summary": results.summary, "Tables": tables}
    write_json(done, {**found, **results.metadata, **shared})


def _read(name: str, stem: Path, done: Path) -> ProbeOutcome:
    metadata = read_json(done)
    # Names of tables are what the file says.
    paths = {suffix: inside(stem.parent, f"{stem.name}_{suffix}.tsv") for suffix in metadata["Tables"]}
    tables = {suffix: read_written_tsv(path) for suffix, path in paths.items()}
    return ProbeOutcome(name, metadata["Summary"], tables, metadata)
