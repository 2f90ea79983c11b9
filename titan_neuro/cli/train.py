"""``titan-neuro train``: fit the forecaster and its comparison models, for every seed and fold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands, "train", "Train the forecaster and its comparison models, for each seed and fold."
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `prepare` has written")
    flags.add_folds_and_seeds(parser)
    flags.add_study(parser)
    flags.add_device(parser)
    flags.add_processes(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Train what is not trained yet."""
    study = flags.study_of(arguments)
    study.train(folds=arguments.fold, seeds=arguments.seed, n_processes=arguments.devices)
