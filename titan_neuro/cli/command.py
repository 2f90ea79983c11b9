"""Parsing and running: one module a subcommand, each of which imports what is heavy only when it runs."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from titan_neuro.cli import evaluate, fetch, flags, predict, prepare, probe, report, run, simulate, status, train
from titan_neuro.cli.interruption import raise_at_signal
from titan_neuro.errors import TitanNeuroError, near_miss
from titan_neuro.study import pipelines

logger = logging.getLogger(__name__)

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
_SUBCOMMANDS = (simulate, fetch, prepare, train, predict, evaluate, probe, report, status, run)


class _Parser(argparse.ArgumentParser):
    """Parser of the whole command, which reads the list of studies when somebody asks for help, and only then."""

    def format_help(self) -> str:
        """Return the help, with the command of each study."""
        return f"{super().format_help()}\n{pipelines.describe_pipelines()}\n"


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command."""
    parser = _Parser(
        prog="titan-neuro",
        description="Forecast whole fMRI recordings with a memory that learns at test time, and ask what it contains.",
        epilog="The main job: `titan-neuro run BIDS_DIR OUTPUT_DIR participant`, then `... group`.",
    )
    flags.add_version(parser)
    subcommands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", parser_class=argparse.ArgumentParser)
    for subcommand in _SUBCOMMANDS:
        subcommand.add_parser(subcommands)
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace | None:
    """Parse the command line; None, after the help, where it names no subcommand."""
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse(getattr(arguments, "subparser", parser), unknown)
    if arguments.subcommand is None:
        parser.print_help()
        return None
    return arguments


def execute(arguments: argparse.Namespace | None) -> int:
    """Run a subcommand and return the exit code."""
    if arguments is None:
        return 0
    _set_up_logging(arguments.verbose)
    if sys.stderr.isatty():
        # What follows loads libraries, which takes seconds; in a log nobody waits for this.
        logger.info("titan-neuro %s starts ...", arguments.subcommand)
    with raise_at_signal() as interruption:
        try:
            arguments.execute(arguments)
            return 0
        except KeyboardInterrupt:
            return interruption.end()
        except Exception as error:
            if interruption.number is not None:  # some library has made an error of it
                return interruption.end()
            if arguments.debug:
                raise
            return _explain(arguments.subcommand, error)


def _explain(subcommand: str, error: Exception) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(error, TitanNeuroError):
        print(f"titan-neuro {subcommand}: {error.message}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader of our output (`| head`) has closed it; what is buffered can go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    # The last resort: whoever runs the command can do nothing with a traceback.
    print(f"titan-neuro {subcommand}: internal error: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
    print("  This is a fault of ours. Run it with --debug and report what it says.", file=sys.stderr)  # noqa: T201
    return INTERNAL_ERROR


def _refuse(subparser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """Name the flags that a subcommand does not have, and the nearest that it has; else what is too many."""
    unknown_flags = [argument.partition("=")[0] for argument in unknown if argument.startswith("-")]
    if not unknown_flags:
        subparser.error(f"unexpected arguments: {' '.join(unknown)}")
    flags_of_subcommand = set(re.findall(r"--[a-z][a-z-]*", subparser.format_help()))
    subparser.error(" ".join(f"unknown flag {flag}.{near_miss(flag, flags_of_subcommand)}" for flag in unknown_flags))


def _set_up_logging(verbosity: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s" if verbosity == 0 else "%(name)s: %(message)s"))
    logger = logging.getLogger("titan_neuro")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbosity else logging.INFO)
    logger.propagate = False
    if verbosity > 1:
        logging.basicConfig(level=logging.INFO)
