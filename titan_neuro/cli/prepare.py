"""``titan-neuro prepare``: from recordings to stores of causally normalized time series."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags
from titan_neuro.errors import UsageError

logger = logging.getLogger(__name__)


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands, "prepare", "Resample recordings to one grid, clean and normalize them causally, and store them."
    )
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    flags.add_bids_input(parser)
    flags.add_study(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and write nothing")
    parser.add_argument(
        "--filters",
        type=Path,
        metavar="DIR",
        help="with --dry-run: write into DIR, for each run, a --bids-filter-file that selects it: for job arrays",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Prepare every selected run that is not prepared yet, or print what would be done."""
    filters: Path | None = getattr(arguments, "filters", None)
    if filters is not None and not arguments.dry_run:
        raise UsageError("prepare: --filters needs --dry-run: one job lists the runs, other jobs prepare them.")
    study = flags.study_of(arguments)
    if not arguments.dry_run:
        memory_bytes = None if arguments.mem is None else int(arguments.mem * 1e9)
        study.prepare(n_processes=arguments.nprocs, memory_bytes=memory_bytes, fetch=not arguments.no_datalad_get)
        return
    planned = study.plan()
    from titan_neuro.study.prepare import run_table

    for line in run_table([run.recording for run in planned]):
        logger.info("%s", line)
    for run in planned:
        logger.info("%s", run)
    n_failing = sum(run.problem is not None for run in planned)
    failing = f"{n_failing} of {len(planned)} runs can't be prepared. " if n_failing else ""
    logger.info("%sNothing was prepared (--dry-run).", failing)
    if filters is not None:
        study.write_filters(filters, planned)
