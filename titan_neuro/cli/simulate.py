"""``titan-neuro simulate``: a synthetic dataset of ds003017 whose ground truth is known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from titan_neuro.cli import flags


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = flags.new_subcommand(
        subcommands,
        "simulate",
        "Write a synthetic dataset of OpenNeuro ds003017, a real DataLad dataset whose ground truth is known.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        default="small",
        help="settings under the others: small (default), or story, which only a memory of the same person can use",
    )
    parser.add_argument("--subjects", type=int, metavar="N", dest="n_subjects", help="of 25 (default: 6)")
    parser.add_argument("--runs", type=int, metavar="N", dest="n_runs", help="of 5 (default: 3; story: 1)")
    scale = "length of the runs; 1 is real (default: 0.25; story: 0.8)"
    parser.add_argument("--volume-scale", type=float, metavar="FRACTION", help=scale)
    parser.add_argument("--voxel-size-mm", type=float, metavar="MM", help="default: 12; story: 6")
    parser.add_argument(
        "--transforms",
        action="store_true",
        default=None,
        help="record moving, distorted heads, and write the transforms of fMRIPrep that undo it",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="one setting of the ground truth, as association_fraction=0.2 or delayed_response_lags_s=[30,120]",
    )
    parser.add_argument("--random-seed", type=int, metavar="N", dest="seed", help="default: 0")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Write the dataset, unless it is there."""
    from titan_neuro.data.simulate import settings_of, simulate
    from titan_neuro.study import parse_setting

    names = ("n_subjects", "n_runs", "volume_scale", "voxel_size_mm", "transforms", "seed")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for override in map(parse_setting, arguments.overrides):
        given.update(override)
    simulate(arguments.directory, settings_of(arguments.preset, given))
