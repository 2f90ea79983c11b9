"""``titan-neuro fetch``: get the recordings of a DataLad dataset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags
from titan_neuro.errors import UsageError


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands, "fetch", "Clone a DataLad dataset and get the recordings that the job needs."
    )
    parser.add_argument("source", metavar="SOURCE", help="an accession number (ds003017), a URL, or a path")
    parser.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="default: SOURCE, if it is a clone")
    flags.add_selection(parser)
    parser.add_argument(
        "--with",
        choices=("transforms", "fmriprep"),
        dest="derivative",
        help="what is published of a known dataset (ds003017), into DIR/derivatives: the transforms that take its raw "
        "images to a standard space, or preprocessed images in their place",
    )
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="files at a time (default: 4)")
    parser.add_argument(
        "--drop",
        action="store_true",
        help="free the content of the chosen files in the clone (and in clones in it), where it is elsewhere, too",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, and leave nothing behind")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Fetch, say what would be fetched, or free it."""
    from titan_neuro.data.fetch import drop, fetch

    directory = arguments.directory or Path(arguments.source)
    if arguments.directory is None and not directory.is_dir():
        raise UsageError(f"fetch {arguments.source}: no folder was named to fetch into.", "Add it: fetch SOURCE DIR.")
    if arguments.drop:
        if arguments.dry_run or arguments.derivative:
            other = "--dry-run" if arguments.dry_run else "--with"
            raise UsageError(f"fetch: --drop and {other} don't go together.")
        drop(directory, subjects=arguments.participant_label, tasks=arguments.task_id, runs=arguments.run_id)
        return
    fetch(
        arguments.source,
        directory,
        subjects=arguments.participant_label,
        tasks=arguments.task_id,
        runs=arguments.run_id,
        derivative=arguments.derivative,
        n_jobs=arguments.jobs,
        dry_run=arguments.dry_run,
    )
