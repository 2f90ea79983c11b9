"""Flags that several verbs share, and what they stand for."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro import __version__
from titan_neuro.errors import UsageError

if TYPE_CHECKING:
    from titan_neuro.config import StudyConfig
    from titan_neuro.data.bids import Recording
    from titan_neuro.data.store import RunStore
    from titan_neuro.models import Forecaster
    from titan_neuro.training.fit import FoldData

logger = logging.getLogger(__name__)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Flag that says the version and ends."""
    parser.add_argument("--version", action="version", version=f"titan-neuro {__version__}")


def new_verb(verbs: Any, name: str, help_text: str, **options: Any) -> argparse.ArgumentParser:
    """Add a verb with the flags that every verb has."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text, **options)
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


def add_bids_input(parser: argparse.ArgumentParser) -> None:
    """Flags that say how a BIDS dataset is read."""
    add_selection(parser)
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
    group.add_argument("--atlas", type=Path, metavar="IMAGE", help="labels image: parcels in the place of voxels")
    group.add_argument(
        "--quick-look",
        action="store_const",
        const=True,
        help="register raw runs that bring no transforms, roughly (needs the extra 'raw')",
    )
    parser.add_argument(
        "--nprocs", type=_positive, default=1, metavar="N", help="runs prepared side by side; CPU threads"
    )
    parser.add_argument(
        "--no-datalad-get",
        action="store_true",
        help="don't fetch what of the chosen runs a DataLad dataset has not on this machine: that is then an error",
    )
    parser.add_argument("--mem", type=float, metavar="GB", help="memory that preparing may use in all")


def add_study(parser: argparse.ArgumentParser) -> None:
    """Flags that give the settings and the place for unfinished work."""
    group = parser.add_argument_group("settings")
    group.add_argument("--config-file", type=Path, metavar="YAML", help="a preset and what differs from it")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="one setting")
    group.add_argument("--random-seed", type=int, metavar="N", help="seed of weights, order and bootstrap")
    group.add_argument("-w", "--work-dir", type=Path, metavar="DIR", help="unfinished work (default: OUTPUT_DIR/.work)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Flag that chooses where the model runs."""
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda[:N]", help="default: a GPU where there is one"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return value


def work_dir(arguments: argparse.Namespace) -> Path:
    """Return the folder for unfinished work."""
    given: Path | None = arguments.work_dir
    return given if given is not None else arguments.output_dir / ".work"


def find(arguments: argparse.Namespace) -> list[Recording]:
    """List the recordings that the flags choose."""
    from titan_neuro.data.bids import find_recordings

    return find_recordings(
        arguments.bids_dir,
        subjects=arguments.participant_label,
        tasks=arguments.task_id,
        runs=arguments.run_id,
        filter_file=arguments.bids_filter_file,
        derivatives=arguments.derivatives,
    )


def resolve_study(arguments: argparse.Namespace, kind: str) -> StudyConfig:
    """Put the settings together: a preset, what was resolved before or the file given, then ``--set``.

    Parameters
    ----------
    arguments : argparse.Namespace
    kind : {"volume", "parcels"}
        Of the data; chooses the preset where no file names one.
    """
    from titan_neuro.config import load_study

    resolved = _resolved_path(arguments)
    return load_study(
        default_preset="cpu-small" if kind == "volume" else "parcels",
        config_file=arguments.config_file or (resolved if resolved.is_file() else None),
        overrides=[*_of_flags(arguments), *arguments.overrides],
        seed=arguments.random_seed,
    )


def _of_flags(arguments: argparse.Namespace) -> list[str]:
    """Settings that have a flag of their own, as ``--set`` would give them."""
    flags = {name: getattr(arguments, name, None) for name in ("resolution_mm", "confounds", "atlas", "quick_look")}
    if flags["atlas"] is not None:
        flags["atlas"] = str(flags["atlas"].absolute())
    # JSON is YAML, and a path with a colon stays one text.
    return [f"prepare.{name}={json.dumps(value)}" for name, value in flags.items() if value is not None]


def record_study(arguments: argparse.Namespace, study: StudyConfig) -> None:
    """Write ``config.resolved.yaml``; once it is sure that the settings fit what is there."""
    from titan_neuro.config import write_resolved

    write_resolved(_resolved_path(arguments), study)


def _resolved_path(arguments: argparse.Namespace) -> Path:
    path: Path = arguments.output_dir / "config.resolved.yaml"
    return path


def torch_device(name: str) -> str:
    """Turn ``auto`` into what there is, and check the rest.

    Raises
    ------
    UsageError
        No such device on this machine.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this machine has no usable GPU.", "Use --device cpu.")
    if kind not in {"cpu", "cuda"} or (index and not index.isdecimal()):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N.")
    if index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0.")
    return name


def study_folds(stores: Sequence[RunStore], study: StudyConfig) -> list[FoldData]:
    """Divide prepared runs into folds, all seen through the mask that they share."""
    from titan_neuro.data.space import common_space
    from titan_neuro.data.splits import make_folds
    from titan_neuro.errors import ImageError
    from titan_neuro.training.fit import FoldData

    times = {store.repetition_time for store in stores}
    if len(times) > 1:
        raise ImageError(
            f"The prepared runs differ in their repetition time: {', '.join(f'{t:g} s' for t in sorted(times))}.",
            "A model is bound to one; prepare runs that share it into a folder of their own (--task-id).",
        )
    _require_same_preparation(stores)
    space = common_space({store.key: store.space for store in stores})
    protocol, folds = make_folds(stores, study.split)
    views = {store.key: store.within(space) for store in stores}
    return [FoldData(fold=fold, protocol=protocol, space=space, runs=views) for fold in folds]


def _require_same_preparation(stores: Sequence[RunStore]) -> None:
    from titan_neuro.errors import MismatchError

    first = stores[0]
    for store in stores[1:]:
        for name, value in store.preparation.items():
            if value != first.preparation[name]:
                raise MismatchError(
                    f"The prepared runs differ in {name}: {first.key} has {first.preparation[name]}, {store.key} "
                    f"has {value}.",
                    "Prepare all runs with the same settings, or each kind into a folder of its own.",
                )


def model_folder(output_dir: Path, fold_number: int) -> Path:
    """Return where the model of a fold lies."""
    return output_dir / "models" / f"fold-{fold_number}"


def load_fold(arguments: argparse.Namespace, data: FoldData, study: StudyConfig, device: str) -> tuple[Forecaster, str]:
    """Load the model of a fold, and its fingerprint; refuse one of other runs or settings."""
    from titan_neuro.errors import MismatchError
    from titan_neuro.training import fold_fingerprint, load_forecaster, require_match

    folder = model_folder(arguments.output_dir, data.fold.number)
    model, record = load_forecaster(folder, device)
    require_match(record, data.identity(), str(arguments.output_dir))
    fingerprint = fold_fingerprint(data, study.model, study.training, study.seed)
    if record["fingerprint"] != fingerprint:
        raise MismatchError(
            f"{folder}: was trained on other runs or with other settings than those in force now.",
            f"Run `titan-neuro train {arguments.output_dir}` first.",
        )
    return model, fingerprint


@dataclass(frozen=True, kw_only=True)
class TrainedStudy:
    """A study whose folds are all trained: what scoring and probing start from.

    Attributes
    ----------
    study : StudyConfig
    device : str
    folds : list of FoldData
    models : list of Forecaster
        One for each fold.
    fingerprints : dict
        JSON: what the models follow from, and the runs that they are tested on.
    stem : str
        Start of the names of group results: ``OUT/group/task-movie``.
    """

    study: StudyConfig
    device: str
    folds: list[FoldData]
    models: list[Forecaster]
    fingerprints: dict[str, Any]
    stem: str


def open_trained(arguments: argparse.Namespace) -> TrainedStudy:
    """Open the runs and models of a study, and record its settings once all of them fit."""
    from titan_neuro.data.store import open_runs

    stores = open_runs(arguments.output_dir)
    study = resolve_study(arguments, stores[0].space.kind)
    device = torch_device(arguments.device)
    folds = study_folds(stores, study)
    loaded = [load_fold(arguments, data, study, device) for data in folds]
    record_study(arguments, study)
    return TrainedStudy(
        study=study,
        device=device,
        folds=folds,
        models=[model for model, _ in loaded],
        fingerprints={
            "models": [fingerprint for _, fingerprint in loaded],
            "tested": {key: data.runs[key].store.record["fingerprint"] for data in folds for key in data.fold.test},
            "seed": study.seed,
        },
        stem=_task_stem(arguments.output_dir, stores),
    )


def _task_stem(output_dir: Path, stores: Sequence[RunStore]) -> str:
    """Return the start of the names of group results: ``OUT/group/task-movie``."""
    tasks = sorted({store.entities.get("task", "unknown") for store in stores})
    # BIDS labels are letters and digits alone.
    return str(output_dir / "group" / f"task-{''.join(tasks)}")


@contextmanager
def stage(arguments: argparse.Namespace, name: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Run a stage with its record in the output folder's ``provenance.json``."""
    from titan_neuro.provenance import recorded

    with recorded(arguments.output_dir, work_dir(arguments), name, **facts) as record:
        yield record


def is_done(output_dir: Path, name: str, fingerprint: str, outputs: Sequence[Path]) -> bool:
    """Whether a stage has been run on the same inputs with the same settings, and its outputs are there."""
    from titan_neuro.provenance import read_stage

    same = read_stage(output_dir, name).get("fingerprint") == fingerprint
    return same and all(path.exists() for path in outputs)
