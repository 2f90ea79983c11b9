"""Flags that several subcommands share, and what they stand for."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro import __version__
from titan_neuro.errors import MismatchError, UsageError

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.data.space import Space
    from titan_neuro.data.store import RunStore
    from titan_neuro.forecaster import Forecaster, ForecasterConfig
    from titan_neuro.study import StudyConfig
    from titan_neuro.training import FoldData

logger = logging.getLogger(__name__)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Flag that says the version and ends."""
    parser.add_argument("--version", action="version", version=f"titan-neuro {__version__}")


def new_subcommand(subcommands: Any, name: str, help_text: str, **options: Any) -> argparse.ArgumentParser:
    """Add a subcommand with the flags that every subcommand has."""
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=help_text, description=help_text, **options)
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
    group.add_argument("--atlas", type=Path, metavar="IMAGE", help="labels image: parcels instead of voxels")
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
    parser.add_argument("--mem", type=float, metavar="GB", help="memory that preparing may use in all")


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


def positive(text: str) -> int:
    """Read a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return value


def work_dir(arguments: argparse.Namespace) -> Path:
    """Return the folder for unfinished work."""
    from titan_neuro.files import WORK_FOLDER

    given: Path | None = arguments.work_dir
    return given if given is not None else arguments.output_dir / WORK_FOLDER


def find(arguments: argparse.Namespace) -> list[Recording]:
    """List the recordings that the flags choose."""
    from titan_neuro.data.bids.recordings import find_recordings

    return find_recordings(
        arguments.bids_dir,
        subjects=arguments.participant_label,
        tasks=arguments.task_id,
        runs=arguments.run_id,
        filter_file=arguments.bids_filter_file,
        derivatives=arguments.derivatives,
    )


def resolve_study(arguments: argparse.Namespace, kind: str, prepared: Mapping[str, Any] | None = None) -> StudyConfig:
    """Put the settings together: a preset, what was resolved before or the file given, then ``--set``.

    Parameters
    ----------
    arguments : argparse.Namespace
    kind : {"volume", "parcels"}
        Of the data; chooses the preset where no file names one.
    prepared : mapping, optional
        Settings of preparation that runs were made with, instead of the preset's, and of those that were resolved
        before: an interrupted `prepare` has left its own there.
    """
    from titan_neuro.study import load_study

    resolved = _resolved_path(arguments)
    goes_on = arguments.config_file is None and resolved.is_file()
    overrides = [*_of_flags(arguments), *arguments.overrides]
    if goes_on and prepared:
        overrides = [*_as_overrides(prepared), *overrides]
    return load_study(
        default_preset="cpu-small" if kind == "volume" else "parcels",
        config_file=resolved if goes_on else arguments.config_file,
        overrides=overrides,
        seed=arguments.random_seed,
        prepared=prepared,
    )


def resolve_prepared(arguments: argparse.Namespace, stores: Sequence[RunStore]) -> StudyConfig:
    """Put the settings of a study together whose runs are prepared.

    How they were prepared is not up for choice any more: it is taken from the runs (where the atlas lies, from what was
    resolved before), and a file or a flag that says otherwise is refused.

    Raises
    ------
    MismatchError
        Settings of preparation that are not those of the runs, or runs that were prepared differently.
    """
    from dataclasses import fields

    from pydantic import TypeAdapter

    from titan_neuro.data.prepare import PrepareConfig, content_id
    from titan_neuro.study import load_study

    _require_same_preparation(stores)
    names = {field.name for field in fields(PrepareConfig)}
    kind, record = stores[0].space.kind, stores[0].record
    prepared = {name: value for name, value in record.get("settings", {}).items() if name in names}
    atlas, resolved = None, _resolved_path(arguments)
    if resolved.is_file():
        atlas = load_study(default_preset="debug", config_file=resolved).prepare.atlas
    study = resolve_study(arguments, kind, {"atlas": atlas and str(atlas), **prepared})
    told = TypeAdapter(PrepareConfig).dump_python(study.prepare, mode="json")
    for name, found in prepared.items():
        if told[name] != found:
            raise _prepared_otherwise(arguments, name, told[name], found)
    if study.prepare.atlas is not None and study.prepare.atlas != atlas:
        used = record.get("sources", {}).get("atlas")
        if used is None or content_id(study.prepare.atlas) != used["content"]:
            raise _prepared_otherwise(arguments, "atlas", study.prepare.atlas, used and used["name"])
    return study


def _prepared_otherwise(arguments: argparse.Namespace, name: str, told: object, found: object) -> MismatchError:
    return MismatchError(
        f"{arguments.output_dir}: the settings say prepare.{name} {told}, the runs there were prepared with {found}.",
        "Prepare them so with `titan-neuro prepare`, or leave this setting out.",
    )


def _of_flags(arguments: argparse.Namespace) -> list[str]:
    """Settings that have a flag of their own, as ``--set`` would give them."""
    flags = {
        name: getattr(arguments, name, None) for name in ("resolution_mm", "confounds", "atlas", "rough_registration")
    }
    if flags["atlas"] is not None:
        flags["atlas"] = str(flags["atlas"].absolute())
    return _as_overrides({name: value for name, value in flags.items() if value is not None})


def _as_overrides(prepare: Mapping[str, Any]) -> list[str]:
    # JSON is YAML, and a path with a colon stays one text.
    return [f"prepare.{name}={json.dumps(value)}" for name, value in prepare.items()]


def record_study(arguments: argparse.Namespace, study: StudyConfig) -> None:
    """Write ``config.resolved.yaml``; once it is sure that the settings fit what is there."""
    from titan_neuro.files import file_lock
    from titan_neuro.study import write_resolved

    path = _resolved_path(arguments)
    with file_lock(path, work_dir=work_dir(arguments)):
        write_resolved(path, study)


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
    from titan_neuro.training import FoldData

    times = {store.repetition_time for store in stores}
    if len(times) > 1:
        raise ImageError(
            f"The prepared runs differ in their repetition time: {', '.join(f'{t:g} s' for t in sorted(times))}.",
            "A model is bound to one; prepare runs that share it into a folder of their own (--task-id).",
        )
    space = common_space({store.key: store.space for store in stores})
    protocol, folds = make_folds(stores, study.split)
    views = {store.key: store.within(space) for store in stores}
    return [FoldData(fold=fold, protocol=protocol, space=space, runs=views) for fold in folds]


def _require_same_preparation(stores: Sequence[RunStore]) -> None:
    first = stores[0]
    for store in stores[1:]:
        for name in dict.fromkeys([*first.preparation, *store.preparation]):
            expected, found = first.preparation.get(name), store.preparation.get(name)
            if found != expected:
                raise MismatchError(
                    f"The prepared runs differ in {name}: {first.key} has {expected}, {store.key} has {found}.",
                    "Prepare all runs with the same settings, or each kind into a folder of its own.",
                )


def study_models(study: StudyConfig, space: Space) -> dict[str, ForecasterConfig]:
    """List the forecasters that are trained, by name: the study's model first, then its comparison models."""
    import torch

    from titan_neuro.forecaster import match_comparison_models

    models = [study.model]
    if study.comparison_models:
        mask = None if space.mask is None else torch.from_numpy(space.mask)
        models += match_comparison_models(study.model, n_features=space.n_features, mask=mask)
    return {model.backbone.name: model for model in models}


def model_folder(output_dir: Path, seed: int, fold_number: int, name: str) -> Path:
    """Return where a model lies: ``OUT/models/seed-0/fold-1/titan-mac``."""
    return output_dir / "models" / f"seed-{seed}" / f"fold-{fold_number}" / name


def find_model(
    output_dir: Path, data: FoldData, study: StudyConfig, seed: int, model: ForecasterConfig
) -> tuple[Path, str]:
    """Find a trained model without loading it; refuse one of other runs or settings.

    Returns
    -------
    folder : Path
    fingerprint : str
        Of everything that the model follows from.
    """
    from titan_neuro.training import fold_fingerprint, require_match, require_record

    folder = model_folder(output_dir, seed, data.fold.number, model.backbone.name)
    record = require_record(folder)
    require_match(record, data.identity(), str(output_dir))
    fingerprint = fold_fingerprint(data, model, study.training, seed)
    if record["fingerprint"] != fingerprint:
        raise MismatchError(
            f"{folder}: was trained on other runs or with other settings than those in force now.",
            f"Run `titan-neuro train {output_dir}` first.",
        )
    return folder, fingerprint


class StoredModels(Sequence["Forecaster"]):
    """Models of one seed and fold, each read from its folder when it is asked for, and not kept.

    Parameters
    ----------
    folders : sequence of Path
    device : str
    """

    def __init__(self, folders: Sequence[Path], device: str) -> None:
        self._folders, self._device = folders, device

    def __len__(self) -> int:
        """Number of models."""
        return len(self._folders)

    def __getitem__(self, index: Any) -> Any:
        """Load a model, or those of a slice."""
        from titan_neuro.training import load_forecaster

        if isinstance(index, slice):
            return StoredModels(self._folders[index], self._device)
        return load_forecaster(self._folders[index], self._device)[0]


@dataclass(frozen=True, kw_only=True)
class TrainedStudy:
    """A study whose folds are all trained: what scoring and probing start from.

    Attributes
    ----------
    study : StudyConfig
    device : str
    folds : list of FoldData
    models : dict of int to list of sequences of Forecaster
        Seed, then fold: the study's model and, where the study has them, ``gru`` and ``transformer-20``. A model is
        read from disk each time that it is asked for, so that no more are held than are in use.
    fingerprints : dict
        JSON: what the models follow from, and the runs that they are tested on.
    stem : str
        Start of the names of group results: ``OUT/group/task-movie``.
    """

    study: StudyConfig
    device: str
    folds: list[FoldData]
    models: dict[int, list[Sequence[Forecaster]]]
    fingerprints: dict[str, Any]
    stem: str


def open_trained(arguments: argparse.Namespace) -> TrainedStudy:
    """Open the runs and models of a study, and record its settings once all of them fit."""
    from titan_neuro.data.store import open_runs

    stores = open_runs(arguments.output_dir)
    study = resolve_prepared(arguments, stores)
    device = torch_device(arguments.device)
    folds = study_folds(stores, study)
    configs = study_models(study, folds[0].space).values()
    found = {
        seed: [[find_model(arguments.output_dir, data, study, seed, model) for model in configs] for data in folds]
        for seed in study.seeds
    }
    record_study(arguments, study)
    return TrainedStudy(
        study=study,
        device=device,
        folds=folds,
        models={
            seed: [StoredModels([folder for folder, _ in fold], device) for fold in of_seed]
            for seed, of_seed in found.items()
        },
        fingerprints={
            "models": [print_ for of_seed in found.values() for fold in of_seed for _, print_ in fold],
            "tested": {key: data.runs[key].store.record["fingerprint"] for data in folds for key in data.fold.test},
            "seeds": list(study.seeds),
        },
        stem=_task_stem(arguments.output_dir, stores),
    )


def _task_stem(output_dir: Path, stores: Sequence[RunStore]) -> str:
    """Return the start of the names of group results: ``OUT/group/task-movie``."""
    tasks = sorted({store.entities.get("task", "unknown") for store in stores})
    # BIDS labels are letters and digits alone.
    return str(output_dir / "group" / f"task-{''.join(tasks)}")


@contextmanager
def stage(arguments: argparse.Namespace, name: str, **metadata: Any) -> Iterator[dict[str, Any]]:
    """Run a stage with its record in the output folder's ``provenance.json``."""
    from titan_neuro.provenance import recorded

    with recorded(arguments.output_dir, work_dir(arguments), name, **metadata) as record:
        yield record


def is_done(output_dir: Path, name: str, fingerprint: str, outputs: Sequence[Path]) -> bool:
    """Whether a stage has been run on the same inputs with the same settings, and its outputs are there."""
    from titan_neuro.provenance import read_stage

    same = read_stage(output_dir, name).get("fingerprint") == fingerprint
    return same and all(path.exists() for path in outputs)
