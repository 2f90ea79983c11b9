"""``titan-neuro evaluate``: score every held-out run beside the baselines."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.cli import common

if TYPE_CHECKING:
    from titan_neuro.config import StudyConfig
    from titan_neuro.evaluation import Scores
    from titan_neuro.training import FoldData

logger = logging.getLogger(__name__)


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = common.new_verb(verbs, "evaluate", "Score the forecasts of held-out runs beside the baselines.")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    common.add_study(parser)
    common.add_device(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Score all folds, write the tables and maps, and print the table."""
    import pandas as pd

    from titan_neuro.evaluation import combine, format_table, score_fold, verdict
    from titan_neuro.provenance import digest

    trained = common.open_trained(arguments)
    study, folds = trained.study, trained.folds
    table_path = Path(f"{trained.stem}_desc-forecast_scores.tsv")
    fingerprint = digest([asdict(study.evaluation), trained.fingerprints])
    if common.is_done(arguments.output_dir, "evaluate", fingerprint, [table_path]):
        logger.info("The forecasts were scored before: %s", table_path)
    else:
        with common.stage(arguments, "evaluate", fingerprint=fingerprint, seed=study.seeds[0], device=trained.device):
            parts = []
            for models, data in zip(trained.models[study.seeds[0]], folds, strict=True):
                train = data.part((*data.fold.train, *data.fold.validation))
                parts.append(score_fold(list(models), train, data.part(data.fold.test), study.evaluation))
            scores = combine(parts)
            _write_tables(scores, folds[0], study, table_path)
            _write_maps(scores, folds[0], trained.stem)
    table = pd.read_csv(table_path, sep="\t")
    print(format_table(table))  # noqa: T201
    print(verdict(table))  # noqa: T201
    for caveat in folds[0].caveats:
        print(caveat)  # noqa: T201


def _write_tables(scores: Scores, data: FoldData, study: StudyConfig, path: Path) -> None:
    from titan_neuro.evaluation import ScoreContext, write_scores

    run = data.runs[data.fold.test[0]]
    context = ScoreContext(
        task=path.name.split("_")[0].removeprefix("task-"),
        protocol=data.protocol,
        repetition_time_s=run.repetition_time,
        space=data.space.name,
        normalisation=run.store.record["normaliser"]["method"],
        caveats=data.caveats,
    )
    write_scores(path.parent, scores, context, study.evaluation, study.seeds[0])


def _write_maps(scores: Scores, data: FoldData, stem: str) -> None:
    from titan_neuro.data.derivative import write_map

    for model in scores.models:
        for horizon in scores.horizons:
            for metric in ("skill_ar", "r2"):
                if metric == "skill_ar" and model == "ar":
                    continue  # 0 everywhere, by definition
                label = f"stat-{metric.replace('_', '')}_desc-{model.replace('-', '')}H{horizon}"
                facts = {
                    "Description": f"{metric} of {model}, {horizon} frames ahead, mean over subjects",
                    "Units": "1 is a perfect forecast",
                    "NumberOfSubjects": len(scores.subjects),
                    "Protocol": data.protocol,
                    "Caveats": data.caveats,
                }
                write_map(Path(f"{stem}_{label}"), data.space, scores.feature_map(metric, model, horizon), facts)
