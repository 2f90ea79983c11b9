"""``titan-neuro run``: the BIDS-App face, the whole way in two calls."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import common, evaluate, prepare, probe, report, train
from titan_neuro.errors import UsageError


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(
        subcommands,
        "run",
        "The whole way as a BIDS-App: `participant` prepares runs, `group` trains, evaluates, probes and reports.",
    )
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("analysis_level", choices=["participant", "group"])
    common.add_bids_input(parser)
    common.add_study(parser)
    common.add_device(parser)
    train.add_processes(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Prepare the chosen runs, or do everything that needs all subjects."""
    if arguments.analysis_level == "participant":
        prepare.execute(arguments)
        return
    chosen = ("participant_label", "task_id", "run_id", "bids_filter_file", "derivatives")
    given = [name for name in chosen if getattr(arguments, name)]
    if given:
        raise UsageError(
            f"run ... group: --{given[0].replace('_', '-')} has no meaning here: the group is every run in OUTPUT_DIR.",
            "Choose runs at the participant level, into an output folder of their own.",
        )
    if arguments.dry_run:
        _show_group_plan(arguments)
        return
    import torch

    torch.set_num_threads(arguments.nprocs)
    if train.execute(arguments):
        evaluate.execute(arguments)
        probe.ask(probe.PROBES, arguments)
        report.execute(arguments)


def _show_group_plan(arguments: argparse.Namespace) -> None:
    from titan_neuro.data.store import open_runs

    stores = open_runs(arguments.output_dir)
    study = common.resolve_prepared(arguments, stores)
    folds = common.study_folds(stores, study)
    names = common.study_models(study, folds[0].space)
    for data in folds:
        folders = [
            common.model_folder(arguments.output_dir, seed, data.fold.number, name)
            for seed in study.seeds
            for name in names
        ]
        n_trained = sum((folder / "model.json").is_file() for folder in folders)
        common.logger.info(
            "Fold %d (%d of %d models trained, by %s): train on %s; choose by %s; test %s",
            data.fold.number,
            n_trained,
            len(folders),
            data.protocol,
            ", ".join(data.fold.train),
            ", ".join(data.fold.validation),
            ", ".join(data.fold.test),
        )
