"""``titan-neuro probe``: ask what the memory holds."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from titan_neuro.cli import common

logger = logging.getLogger(__name__)

# Every probe, and what it asks; the workflow of `pipelines/` runs each of them.
PROBES = {"context-length": "how far back it reaches"}


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = common.new_verb(verbs, "probe", "Ask what the memory holds.")
    parser.add_argument("name", choices=PROBES, help="; ".join(f"{name}: {asks}" for name, asks in PROBES.items()))
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    common.add_study(parser)
    common.add_device(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Score the held-out runs with the memory cut to each length, and write the curve and the map of timescales.

    It asks the study's model of the first seed.
    """
    from tqdm import tqdm

    from titan_neuro.probing import ContextLengthProbe
    from titan_neuro.provenance import digest

    trained = common.open_trained(arguments)
    study, folds = trained.study, trained.folds
    curve_path = Path(f"{trained.stem}_desc-contextlength_curve.tsv")
    # The curve's intervals are made with the evaluation's settings.
    fingerprint = digest([asdict(study.probe), asdict(study.evaluation), trained.fingerprints])
    if common.is_done(arguments.output_dir, "probe context-length", fingerprint, [curve_path]):
        logger.info("The context-length probe was run before.")
        return
    probe = ContextLengthProbe(
        study.probe,
        repetition_time=folds[0].runs[folds[0].fold.test[0]].repetition_time,
        horizons=study.model.horizons,
        n_features=folds[0].space.n_features,
    )
    with common.stage(
        arguments, "probe context-length", fingerprint=fingerprint, seed=study.seeds[0], device=trained.device
    ):
        tests = [
            (models, view)
            for models, data in zip(trained.models[study.seeds[0]], folds, strict=True)
            for view in data.part(data.fold.test)
        ]
        for models, view in tqdm(tests, desc="probe", unit="run", disable=None):
            probe.add(models[0], view)
        _write(probe, study, trained.stem, curve_path, folds[0])
    logger.info("%s", curve_path)


def _write(probe: Any, study: Any, stem: str, curve_path: Path, data: Any) -> None:
    from titan_neuro.data.derivative import write_map
    from titan_neuro.files import atomic, write_json

    curve = probe.curve(n_resamples=study.evaluation.n_resamples, seed=study.seeds[0])
    with atomic(curve_path) as temporary:
        curve.to_csv(temporary, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    subjects, _ = probe.skill()
    write_json(
        curve_path.with_suffix(".json"),
        {
            "Description": "skill_ar of held-out runs with the memory cut to the last seconds",
            "Protocol": data.protocol,
            "Caveats": data.caveats,
            "Subjects": subjects,
            "TargetsPerRun": study.probe.targets_per_run,
            "Interval": "95 % bootstrap over subjects",
            "context_s": {"Description": "What the memory has read before the forecast", "Units": "s"},
        },
    )
    write_map(
        Path(stem),
        "stat-timescale_desc-contextlength",
        data.space,
        probe.timescale(),
        {
            "Description": f"Shortest context with {study.probe.gain_share:.0%} of the gain, at the shortest horizon",
            "Units": "s",
            "NumberOfSubjects": len(subjects),
            "Caveats": data.caveats,
        },
    )
