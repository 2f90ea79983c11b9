"""``titan-neuro run``: the BIDS-App interface, the whole way in two calls."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags, prepare, status
from titan_neuro.errors import UsageError
from titan_neuro.probing import PROBES

logger = logging.getLogger(__name__)


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands,
        "run",
        "The whole way as a BIDS-App: `participant` prepares runs, `group` trains, evaluates, probes and reports.",
    )
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("analysis_level", choices=["participant", "group"])
    flags.add_bids_input(parser)
    flags.add_study(parser)
    flags.add_device(parser)
    flags.add_processes(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Prepare the chosen runs, or do everything that needs all subjects."""
    if arguments.analysis_level == "participant":
        prepare.execute(arguments)
        if not arguments.dry_run:
            print(flags.next_step(arguments))  # noqa: T201
        return
    refused = ("participant_label", "task_id", "run_id", "exclude", "allow_missing", "bids_filter_file", "derivatives")
    for name in refused:
        if getattr(arguments, name):
            raise UsageError(
                f"run ... group: --{name.replace('_', '-')} has no meaning here: the group is every run in OUTPUT_DIR.",
                "Choose runs at the participant level, into an output folder of their own.",
            )
    plan = (study := flags.study_of(arguments)).plan_group()
    if arguments.dry_run:
        logger.info("%s", "\n".join(map(str, plan.folds)))
        status.show(study.status(plan))
        return
    import torch  # Which takes seconds: nothing is refused after it.

    torch.set_num_threads(arguments.nprocs)
    if study.train(n_processes=arguments.devices):
        results = [study.evaluate(), *study.probes(PROBES)]
        tables, page = results if arguments.verbose else [], study.report()
        print(*tables, *study.headlines(), f"Report: {page}", sep="\n")  # noqa: T201
