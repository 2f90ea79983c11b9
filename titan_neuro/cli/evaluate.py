"""``titan-neuro evaluate``: score every held-out run beside controls, comparison models, baselines and references."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(subcommands, "evaluate", "Score the forecasts of held-out runs beside the baselines.")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    flags.add_folds_and_seeds(parser)
    flags.add_study(parser)
    flags.add_device(parser)
    group = parser.add_argument_group("null control")
    group.add_argument(
        "--null-control",
        choices=["white", "phase"],
        help="go the whole way, preparation and training included, on noise of the data's shape (white) or on the data "
        "with shuffled phases, into OUTPUT_DIR/null-...; fails where the model, a control or a comparison model scores "
        "more than 0.02 above chance",
    )
    flags.add_sources(group)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Score the folds and say what was found, with -v also the tables; or do it all on noise."""
    study = flags.study_of(arguments)
    part = {"folds": arguments.fold, "seeds": arguments.seed}
    if arguments.null_control:
        evaluation, check = study.null_control(arguments.null_control, **part)
        tables = [evaluation] if arguments.verbose else evaluation.caveats
        print(*tables, check, sep="\n")  # noqa: T201
    else:
        evaluation = study.evaluate(**part)
        tables = [evaluation] if arguments.verbose else []
        print(*tables, *study.headlines(probes=False), f"Tables: {evaluation.path}", sep="\n")  # noqa: T201
