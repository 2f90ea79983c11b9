"""``titan-neuro report``: one page with everything, one for a person, or two studies side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags
from titan_neuro.errors import UsageError


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands,
        "report",
        "Write report.html from what the other stages have made; with OTHER_DIR, a page with two studies side by side.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument(
        "other_dir",
        type=Path,
        nargs="?",
        metavar="OTHER_DIR",
        help="output folder of another study: OUTPUT_DIR/compared-with-NAME.html shows what differs",
    )
    parser.add_argument(
        "--participant-label",
        nargs="+",
        metavar="LABEL",
        dest="people",
        help="with or without sub-: a page for each of these people instead, OUTPUT_DIR/sub-LABEL.html",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Write the page; that of one study only where something has changed since it was written."""
    study = flags.study_of(arguments)
    if arguments.people:
        if arguments.other_dir is not None:
            raise UsageError("--participant-label and OTHER_DIR don't go together.", "Leave one of them out.")
        print(*(f"Report: {page}" for page in study.report_people(arguments.people)), sep="\n")  # noqa: T201
        return
    if arguments.other_dir is None:
        print(f"Report: {study.report()}")  # noqa: T201
        return
    from titan_neuro.study import Study

    comparison = study.compare(Study.open(None, arguments.other_dir))
    print(*comparison.lines, f"Report: {comparison.page}", sep="\n")  # noqa: T201
