"""``titan-neuro train``: fit the forecaster of every fold."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from titan_neuro.cli import common

logger = logging.getLogger(__name__)


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = common.new_verb(verbs, "train", "Train the forecaster, a model for each fold.")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `prepare` has written")
    parser.add_argument("--fold", type=int, nargs="+", metavar="N", help="only these folds, counted from 1")
    common.add_study(parser)
    common.add_device(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Train the folds that are not trained yet."""
    from titan_neuro.data.derivative import check_output
    from titan_neuro.data.store import open_runs
    from titan_neuro.errors import UsageError
    from titan_neuro.training import train_fold

    check_output(arguments.output_dir)
    stores = open_runs(arguments.output_dir)
    study = common.resolve_study(arguments, stores[0].space.kind)
    device = common.torch_device(arguments.device)
    folds = common.study_folds(stores, study)
    wanted = getattr(arguments, "fold", None)
    if wanted and not set(wanted) <= {data.fold.number for data in folds}:
        raise UsageError(f"--fold {' '.join(map(str, wanted))}: the study has the folds 1 to {len(folds)}.")
    common.record_study(arguments, study)
    for data in folds:
        number = data.fold.number
        if wanted and number not in wanted:
            continue
        folder = common.model_folder(arguments.output_dir, number)
        logger.info(
            "Fold %d of %d: %d runs to train on, %d to choose the epoch, %d to test.",
            *(number, len(folds), len(data.fold.train), len(data.fold.validation), len(data.fold.test)),
        )
        with common.stage(arguments, f"train fold-{number}", seed=study.seed, device=device) as record:
            made = train_fold(
                data,
                study.model,
                study.training,
                folder=folder,
                work_dir=common.work_dir(arguments),
                seed=study.seed,
                device=device,
            )
            if not made:
                record.clear()
        if not made:
            logger.info("Fold %d was trained before.", number)
