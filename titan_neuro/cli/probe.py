"""``titan-neuro probe``: ask what the memory holds."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.cli import common

if TYPE_CHECKING:
    from titan_neuro.probing import ProbeResults
    from titan_neuro.training import FoldData

logger = logging.getLogger(__name__)

# Every probe, and what it asks; the workflow of `pipelines/` runs each of them.
PROBES = {
    "context-length": "how far back it reaches",
    "history-swap": "what is lost when what came before is swapped",
    "surprise": "whether it is surprised where one event of the stimulus ends and the next begins",
    "time-segment-matching": "whether it knows the moment of the stimulus",
    "decoding": "what events and annotations can be read from it",
}


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(subcommands, "probe", "Ask what the memory holds.")
    parser.add_argument("name", choices=PROBES, help="; ".join(f"{name}: {asks}" for name, asks in PROBES.items()))
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    common.add_study(parser)
    common.add_device(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Ask the study's model of the first seed about its held-out runs, and write what was found."""
    ask([arguments.name], arguments)


def ask(names: Iterable[str], arguments: argparse.Namespace) -> None:
    """Ask probes one after the other, but for those that were asked before."""
    trained = common.open_trained(arguments)
    for name in names:
        _ask(name, arguments, trained)


def _ask(name: str, arguments: argparse.Namespace, trained: common.TrainedStudy) -> None:
    from tqdm import tqdm

    from titan_neuro.data.prepare import content_id
    from titan_neuro.probing import ProbeContext, ProbedFold, make_probe, untrained_like
    from titan_neuro.provenance import digest

    study, folds, seed = trained.study, trained.folds, trained.study.seeds[0]
    settings = getattr(study.probe, name.replace("-", "_"))
    # The intervals are made with the evaluation's settings.
    follows_from = [asdict(settings), study.probe.n_permutations, asdict(study.evaluation), trained.fingerprints]
    # Of tables that are decoded: a file may change and keep its name.
    follows_from += [content_id(Path(path)) for path in getattr(settings, "tables", ()) if Path(path).is_file()]
    fingerprint = digest(follows_from)
    done = Path(f"{trained.stem}_desc-{name.replace('-', '')}_findings.json")
    if common.is_done(arguments.output_dir, f"probe {name}", fingerprint, [done]):
        logger.info("The %s probe was run before.", name)
        return
    metadata = ProbeContext(
        repetition_time=folds[0].runs[folds[0].fold.test[0]].repetition_time,
        horizons=study.model.horizons,
        n_features=folds[0].space.n_features,
        n_permutations=study.probe.n_permutations,
        n_resamples=study.evaluation.n_resamples,
        seed=seed,
    )
    probe = make_probe(name, study.probe, metadata)
    with common.stage(arguments, f"probe {name}", fingerprint=fingerprint, seed=seed, device=trained.device):
        with tqdm(total=sum(len(data.fold.test) for data in folds), desc=name, unit="run", disable=None) as bar:
            for models, data in zip(trained.models[seed], folds, strict=True):
                model = models[0]
                fold = ProbedFold(
                    model=model,
                    untrained=untrained_like(model, seed=seed),
                    tests=data.part(data.fold.test),
                    others=data.fitted_on,
                )
                for run in fold.tests:
                    probe.add(fold, run)
                    bar.update()
        found = probe.results()
        _write(found, Path(trained.stem), name, folds[0], done)
    logger.info("%s: %s", name, found.sentence)


def _write(found: ProbeResults, stem: Path, name: str, data: FoldData, done: Path) -> None:
    """Write tables and maps, and last the JSON that says that they are there."""
    from titan_neuro.data.bids.output import write_map
    from titan_neuro.files import atomic, write_json

    done.unlink(missing_ok=True)
    short = name.replace("-", "")
    shared = {"Protocol": data.protocol, "Caveats": data.caveats}
    for suffix, table in found.tables.items():
        path = stem.with_name(f"{stem.name}_desc-{short}_{suffix}.tsv")
        with atomic(path) as temporary:
            table.to_csv(temporary, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        write_json(path.with_suffix(".json"), {**found.metadata, **shared})
    for stat, (values, metadata) in found.maps.items():
        write_map(stem, f"stat-{stat}_desc-{short}", data.space, values, {**metadata, **shared})
    write_json(done, {"Probe": name, "Asks": PROBES[name], "Sentence": found.sentence, **found.metadata, **shared})
