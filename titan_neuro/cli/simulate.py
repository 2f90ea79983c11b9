"""``titan-neuro simulate``: a small twin of ds003017 whose truth is known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import common


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = common.new_verb(
        verbs, "simulate", "Write a small twin of OpenNeuro ds003017, a real DataLad dataset with a planted truth."
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--subjects", type=int, metavar="N", dest="n_subjects", help="of 25 (default: 6)")
    parser.add_argument("--runs", type=int, metavar="N", dest="n_runs", help="of 5 (default: 3)")
    parser.add_argument(
        "--volume-scale", type=float, metavar="SHARE", help="length of the runs (default: 0.25; 1 is real)"
    )
    parser.add_argument("--voxel-size-mm", type=float, metavar="MM", help="default: 12")
    parser.add_argument("--random-seed", type=int, metavar="N", dest="seed", help="default: 0")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Write the dataset, unless it is there."""
    from pydantic import ValidationError

    from titan_neuro.data.simulate import SimulateConfig, simulate
    from titan_neuro.errors import UsageError

    names = ("n_subjects", "n_runs", "volume_scale", "voxel_size_mm", "seed")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    try:
        config = SimulateConfig(**given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UsageError(f"{problem['loc'][0]}: {problem['msg']}; found {problem['input']!r}.") from error
    simulate(arguments.directory, config)
