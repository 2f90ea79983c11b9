"""``titan-neuro predict``: write forecasts as images or tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands,
        "predict",
        "Write the forecasts of held-out runs by the study's model (first seed): volume t is what was expected of it.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    parser.add_argument("--horizon", type=int, default=1, metavar="H", help="lead time in time points (default: 1)")
    flags.add_selection(parser)
    flags.add_allow_missing(parser)
    flags.add_study(parser)
    flags.add_device(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Forecast every chosen run with the study's model, of the first seed and the fold that holds the run out."""
    flags.study_of(arguments).predict(arguments.horizon)
