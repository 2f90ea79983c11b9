"""``titan-neuro probe``: ask what the memory contains."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags
from titan_neuro.probing import PROBES

logger = logging.getLogger(__name__)


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(subcommands, "probe", "Ask what the memory contains.")
    questions = "; ".join(f"{name}: {entry.question}" for name, entry in PROBES.items())
    parser.add_argument("name", choices=PROBES, help=questions)
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    flags.add_study(parser)
    flags.add_device(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Ask the study's model of the first seed about its held-out runs."""
    logger.info("%s", flags.study_of(arguments).probe(arguments.name))
