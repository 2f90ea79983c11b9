"""``titan-neuro status``: what of a study is done, stale, damaged or missing, and what a run would do next."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.cli import flags

if TYPE_CHECKING:
    from titan_neuro.study.status import StudyStatus


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands,
        "status",
        "Say what of a study is done, stale, damaged or missing, and what a run would do next. Nothing is written.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument(
        "--quick", action="store_true", help="don't read files, only see whether they are there and of their size"
    )
    flags.add_study(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Print the table."""
    show(flags.study_of(arguments).status(contents=not arguments.quick))


def show(status: StudyStatus) -> None:
    """Print the table of a status."""
    print("\n".join(status.lines()))  # noqa: T201
