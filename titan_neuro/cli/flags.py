"""Flags that several subcommands share, and the `Study` that they describe."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro import __version__

if TYPE_CHECKING:
    from titan_neuro.study import Study


LEAST_GIGABYTES = 0.1


def add_version(parser: argparse.ArgumentParser) -> None:
    """Flag that says the version and ends."""
    parser.add_argument("--version", action="version", version=f"titan-neuro {__version__}")


def new_subcommand(subcommands: Any, name: str, help_text: str, **options: Any) -> argparse.ArgumentParser:
    """Add a subcommand with the flags that every one has."""
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=help_text, description=help_text, **options)
    parser.set_defaults(subparser=parser)
    add_version(parser)
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: libraries too")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Flags that choose runs of a dataset, as BIDS-Apps name them."""
    group = parser.add_argument_group("which runs")
    group.add_argument("--participant-label", nargs="+", metavar="LABEL", help="with or without sub-")
    group.add_argument("--task-id", nargs="+", metavar="TASK")
    group.add_argument("--run-id", nargs="+", metavar="RUN", help="1 and 01 are the same")
    group.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="NAME",
        help="leave runs out: sub-01_task-movie_run-2, or run-2 for that of every subject",
    )


def add_allow_missing(parser: argparse.ArgumentParser) -> None:
    """Flag that lets a selection be incomplete."""
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="warn of labels that no run has, and leave out runs that -d has nothing for, instead of refusing them",
    )


def add_bids_input(parser: argparse.ArgumentParser) -> None:
    """Flags that say how a BIDS dataset is read."""
    add_selection(parser)
    add_allow_missing(parser)
    add_sources(parser)
    add_preparation(parser)


def add_sources(parser: Any) -> None:
    """Flags that say which files of a dataset the runs are."""
    parser.add_argument("--bids-filter-file", type=Path, metavar="JSON", help='for example {"bold": {"session": "02"}}')
    parser.add_argument(
        "-d",
        "--derivatives",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders with fMRIPrep's images, masks, confounds or transforms (default: the dataset's derivatives/)",
    )


def add_preparation(parser: argparse.ArgumentParser) -> None:
    """Flags that say how runs are prepared."""
    group = parser.add_argument_group("what is prepared")
    group.add_argument(
        "--resolution",
        metavar="MM",
        dest="resolution_mm",
        help="voxels of the grid in MNI space (default: the image's, else 2)",
    )
    group.add_argument(
        "--confounds",
        metavar="PRESET",
        help="none, motion24, simple, scrubbing, compcor, ica_aroma or budapest2020 (default: none)",
    )
    group.add_argument(
        "--atlas",
        type=Path,
        metavar="FILE",
        help="labels (.nii.gz; of surfaces .dlabel.nii, .label.gii, .annot): means of its parcels instead of voxels or "
        "vertices. With tables of parcels: where these lie",
    )
    group.add_argument(
        "--rough-registration",
        action="store_const",
        const=True,
        help="register raw runs that bring no transforms, roughly (needs the extra 'raw')",
    )
    parser.add_argument(
        "--nprocs", type=positive, default=1, metavar="N", help="runs prepared side by side; CPU threads"
    )
    parser.add_argument(
        "--no-datalad-get",
        action="store_true",
        help="don't fetch what of the chosen runs a DataLad dataset has not on this machine: that is then an error",
    )
    parser.add_argument(
        "--mem",
        type=gigabytes,
        metavar="GB",
        help="upper bound of the memory (resident size) of all processes of this command together; where fewer than N "
        "fit, fewer are started (default: no bound)",
    )


def add_study(parser: argparse.ArgumentParser) -> None:
    """Flags that give the settings and the place for unfinished work."""
    group = parser.add_argument_group("settings")
    group.add_argument("--config-file", type=Path, metavar="YAML", help="a preset and what differs from it")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="one setting")
    group.add_argument("--random-seed", type=int, metavar="N", help="the one seed of weights, order and bootstrap")
    group.add_argument("-w", "--work-dir", type=Path, metavar="DIR", help="unfinished work (default: OUTPUT_DIR/.work)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Flag that chooses where the model runs."""
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda[:N]", help="default: a GPU where there is one"
    )


def add_folds_and_seeds(parser: argparse.ArgumentParser) -> None:
    """Flags that choose folds and seeds of a study."""
    parser.add_argument("--fold", type=int, nargs="+", metavar="N", help="only these folds, counted from 1")
    parser.add_argument("--seed", type=int, nargs="+", metavar="S", help="only these of the study's seeds")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Flag that says how many processes train one model."""
    parser.add_argument(
        "--devices",
        type=positive,
        metavar="N",
        help="processes that train one model together on this machine, each on a GPU of its own or on the CPU "
        "(default: 1; inside srun or torchrun those that were started)",
    )


def positive(text: str) -> int:
    """Read a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return value


def gigabytes(text: str) -> float:
    """Read an amount of memory: a finite number, not so small that it must be a mistake."""
    value = float(text)
    if not LEAST_GIGABYTES <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of GB, at least {LEAST_GIGABYTES}, found {text}")
    return value


def study_of(arguments: argparse.Namespace) -> Study:
    """Open the study that the flags describe; flags that the subcommand does not have are at their defaults."""
    from titan_neuro.study import Selection, Study
    from titan_neuro.study.output import OutputFolder
    from titan_neuro.study.settings import GivenSettings

    given: Mapping[str, Any] = vars(arguments)
    overrides = [*_of_flags(given), *given.get("overrides", ())]
    return Study(
        given.get("bids_dir"),
        OutputFolder.at(given["output_dir"], given.get("work_dir")),
        GivenSettings(config_file=given.get("config_file"), overrides=overrides, seed=given.get("random_seed")),
        selection=Selection(
            subjects=given.get("participant_label"),
            tasks=given.get("task_id"),
            runs=given.get("run_id"),
            exclude=given.get("exclude", ()),
            filter_file=given.get("bids_filter_file"),
            derivatives=given.get("derivatives", ()),
            allow_missing=given.get("allow_missing", False),
        ),
        device=given.get("device", "auto"),
    )


def _of_flags(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of preparation that have a flag of their own."""
    flags = {name: given.get(name) for name in ("resolution_mm", "confounds", "atlas", "rough_registration")}
    if flags["atlas"] is not None:
        flags["atlas"] = str(flags["atlas"].absolute())
    return [{"prepare": {name: value for name, value in flags.items() if value is not None}}]


def next_step(arguments: argparse.Namespace) -> str:
    """Name the command of the group level, with the settings that were stored, and the page that it writes."""
    command = ["titan-neuro", "run", str(arguments.bids_dir), str(arguments.output_dir), "group"]
    if arguments.work_dir is not None:
        command += ["--work-dir", str(arguments.work_dir)]
    page = arguments.output_dir / "report.html"
    return f"Next: `{shlex.join(command)}` trains, scores and probes with the same settings.\nThen look at {page}."
