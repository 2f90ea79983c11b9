"""``titan-neuro simulate``: a synthetic dataset of ds003017 whose truth is known."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titan_neuro.cli import common


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(
        subcommands,
        "simulate",
        "Write a synthetic dataset of OpenNeuro ds003017, a real DataLad dataset with a planted truth.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--subjects", type=int, metavar="N", dest="n_subjects", help="of 25 (default: 6)")
    parser.add_argument("--runs", type=int, metavar="N", dest="n_runs", help="of 5 (default: 3)")
    parser.add_argument(
        "--volume-scale", type=float, metavar="SHARE", help="length of the runs (default: 0.25; 1 is real)"
    )
    parser.add_argument("--voxel-size-mm", type=float, metavar="MM", help="default: 12")
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
        help="one setting of what is planted, for example association_fraction=0.2 or delayed_response_lags_s=[30,120]",
    )
    parser.add_argument("--random-seed", type=int, metavar="N", dest="seed", help="default: 0")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Write the dataset, unless it is there."""
    from pydantic import ValidationError

    from titan_neuro.data.simulate import SimulateConfig, simulate
    from titan_neuro.errors import UsageError

    names = ("n_subjects", "n_runs", "volume_scale", "voxel_size_mm", "transforms", "seed")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    try:
        config = SimulateConfig(**{**given, **_overrides(arguments.overrides)})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] == "unexpected_keyword_argument":
            known = ", ".join(SimulateConfig.__dataclass_fields__)
            raise UsageError(f"--set: unknown setting {place!r}.", f"There are: {known}.") from error
        raise UsageError(f"{place}: {problem['msg']}; found {problem['input']!r}.") from error
    simulate(arguments.directory, config)


def _overrides(overrides: Sequence[str]) -> dict[str, Any]:
    import yaml

    from titan_neuro.errors import UsageError

    settings = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {override}: expected KEY=VALUE, for example --set association_fraction=0.2.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {override}: the value is not valid YAML: {error}") from error
    return settings
