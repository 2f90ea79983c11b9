"""``titan-neuro report``: one page with everything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(subcommands, "report", "Write report.html from what the other stages have made.")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Write the page, unless nothing has changed since it was written."""
    print(f"Report: {flags.study_of(arguments).report()}")  # noqa: T201
