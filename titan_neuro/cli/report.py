"""``titan-neuro report``: one page with everything."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from titan_neuro.cli import common

logger = logging.getLogger(__name__)


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(
        subcommands, "report", "Write report.html from what the other subcommands have made."
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Write the page, unless nothing has changed since it was written."""
    from titan_neuro.data.bids.output import check_output
    from titan_neuro.errors import InputNotFoundError
    from titan_neuro.report import write_report

    check_output(arguments.output_dir)
    if not (arguments.output_dir / "group").is_dir():
        raise InputNotFoundError(
            f"{arguments.output_dir}: there is nothing to report: no folder group/.",
            "Run `titan-neuro evaluate` first.",
        )
    page = arguments.output_dir / "report.html"
    inputs = [*arguments.output_dir.glob("group/*"), *arguments.output_dir.glob("models/*/*/*/*")]
    if page.is_file() and page.stat().st_mtime > max((path.stat().st_mtime for path in inputs), default=0):
        logger.info("The report is up to date: %s", page)
        return
    logger.info("Report: %s", write_report(arguments.output_dir))
