"""``titan-neuro train``: fit the forecaster and its comparison models, for every seed and fold."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.cli import common

if TYPE_CHECKING:
    from titan_neuro.forecaster import ForecasterConfig
    from titan_neuro.study import StudyConfig
    from titan_neuro.training import FoldData, Processes

logger = logging.getLogger(__name__)


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(
        subcommands, "train", "Train the forecaster and its comparison models, for each seed and fold."
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `prepare` has written")
    parser.add_argument("--fold", type=int, nargs="+", metavar="N", help="only these folds, counted from 1")
    parser.add_argument("--seed", type=int, nargs="+", metavar="S", help="only these of the study's seeds")
    common.add_study(parser)
    common.add_device(parser)
    add_processes(parser)
    parser.set_defaults(execute=execute)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Flag that says how many processes train one model."""
    parser.add_argument(
        "--devices",
        type=common.positive,
        metavar="N",
        help="processes that train one model together on this machine, each on a GPU of its own or on the CPU "
        "(default: 1; inside srun or torchrun those that were started)",
    )


def execute(arguments: argparse.Namespace) -> bool:
    """Train what is not trained yet.

    Returns
    -------
    bool
        Whether this is the process that goes on when several have trained together.
    """
    from titan_neuro.data.bids.output import check_output
    from titan_neuro.data.store import open_runs
    from titan_neuro.training import expect_time_limit, find_processes

    expect_time_limit()
    check_output(arguments.output_dir)
    stores = open_runs(arguments.output_dir)
    study = common.resolve_prepared(arguments, stores)
    processes = find_processes(common.torch_device(arguments.device), getattr(arguments, "devices", None))
    folds = common.study_folds(stores, study)
    numbers = _chosen(arguments, "fold", [data.fold.number for data in folds])
    seeds = _chosen(arguments, "seed", study.seeds)
    models = common.study_models(study, folds[0].space)
    if processes.is_first:
        common.record_study(arguments, study)
    else:
        logging.getLogger("titan_neuro").setLevel(logging.WARNING)
    for seed in seeds:
        for data in folds:
            if data.fold.number in numbers:
                _train(arguments, study, data, seed, models, processes)
    return processes.is_first


def _chosen(arguments: argparse.Namespace, flag: str, there: Sequence[int]) -> list[int]:
    """Return what the flag chooses of what is there; all of it, where it is not given."""
    from titan_neuro.errors import UsageError

    wanted = getattr(arguments, flag, None)
    if wanted and not set(wanted) <= set(there):
        raise UsageError(
            f"--{flag} {' '.join(map(str, wanted))}: the study has the {flag}s {', '.join(map(str, there))}."
        )
    return [number for number in there if not wanted or number in wanted]


def _train(
    arguments: argparse.Namespace,
    study: StudyConfig,
    data: FoldData,
    seed: int,
    models: Mapping[str, ForecasterConfig],
    processes: Processes,
) -> None:
    """Train the models of one seed and fold that are not trained yet."""
    from titan_neuro.training import train_fold

    fold, output_dir = data.fold, arguments.output_dir
    logger.info(
        "Seed %d, fold %d: %d runs to train on, %d to choose the epoch, %d to test.",
        *(seed, fold.number, len(fold.train), len(fold.validation), len(fold.test)),
    )
    metadata = {"seed": seed, "device": processes.device, "processes": processes.n * processes.n_nodes}
    stage = common.stage(arguments, f"train seed-{seed} fold-{fold.number}", **metadata)
    with stage if processes.is_first else contextlib.nullcontext({}) as record:
        made = []
        for name, model in models.items():
            folder = common.model_folder(output_dir, seed, fold.number, name)
            where = {"folder": folder, "work_dir": common.work_dir(arguments)}
            if train_fold(data, model, study.training, **where, seed=seed, processes=processes):
                made.append(name)
                logger.info("%s is trained: %s", name, folder)
        record["models"] = made
        if not made:
            record.clear()
    if not made:
        logger.info("Seed %d, fold %d was trained before.", seed, fold.number)
