"""What training.py trains: stores on the disk, a model begun in closed form, and the whole of `train_fold`, watched.

All of a training is the package's own code: Lightning's trainer, windows read from Zarr while the ones before are
learned from, validation, logs, checkpoints, the model that is written at the end. Put in its place are two things:

- What is fitted in closed form is given, not fitted: it reads whole runs, once, and is no part of a training step. The
  recall is that of a fitted model (`forecaster_sides.fill_recall`), with a stimulus of `STIMULUS_POSITIONS` moments
  whatever the length of the runs is, and with all that a training subject is read without. It has a row of its own.
- The loader of windows has a stopwatch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from common import ROOT, BenchmarkError, disk_bytes, forget_files, use_one_thread
from forecaster_sides import STIMULUS_POSITIONS, brain, config_of, fill_recall
from scipy.signal import lfilter
from store_sides import brain as template_brain

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, RunView, open_runs, store_name, write_run
from titan_neuro.files import write_json
from titan_neuro.forecaster.recall.recall import Recall
from titan_neuro.linear.autoregression import ORDERS, Autoregression
from titan_neuro.study import StudyConfig, load_study
from titan_neuro.study.config import PRESETS
from titan_neuro.training import FoldData, find_processes, train_fold
from titan_neuro.training import fit as fitting
from titan_neuro.training.resume import Checkpoints
from titan_neuro.training.streams import StreamLoader, Windows

N_PARCELS = 200
# Time points that one subject shows alike with all others, as a share of the variance.
_STIMULUS_FRACTION, _MEMORY = 0.3, 0.8
_BLOCK_TIME_POINTS = 256
_VALIDATION_TIME_POINTS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, and the time points that it reads.

    Attributes
    ----------
    told : str
        What it is, in words.
    study : callable
        Its settings.
    space : callable
        Where its features lie.
    stimulus_positions : int
        Of the recall that it begins with.
    """

    told: str
    study: Callable[[], StudyConfig]
    space: Callable[[], Space]
    stimulus_positions: int = STIMULUS_POSITIONS


def _volumes(size: str) -> Space:
    return Space(kind="volume", name="Ball", mask=brain(size).numpy(), affine=np.eye(4))


def _parcels() -> Space:
    return Space(kind="parcels", name="Parcels", parcels=tuple(f"parcel-{i}" for i in range(N_PARCELS)))


def _large() -> StudyConfig:
    study = PRESETS["gpu-base"]()
    return dataclasses.replace(study, model=config_of("large"))


def budapest() -> StudyConfig:
    """Settings of the whole study of ds003017."""
    return load_study(default_preset="gpu-base", config_file=ROOT / "pipelines" / "budapest.yaml")


SHAPES = {
    "tiny": Shape(
        told="8 voxels a side", study=PRESETS["debug"], space=lambda: _volumes("tiny"), stimulus_positions=50
    ),
    "small": Shape(told="24 voxels a side, cpu-small", study=PRESETS["cpu-small"], space=lambda: _volumes("small")),
    "large": Shape(told="48 voxels a side, gpu-base at half its widths", study=_large, space=lambda: _volumes("large")),
    "parcels": Shape(told=f"{N_PARCELS} parcels", study=PRESETS["parcels"], space=_parcels),
    # Its test shows another part of the stimulus than its training: no stimulus is remembered.
    "budapest": Shape(
        told="2 mm, budapest.yaml", study=budapest, space=lambda: template_brain(2), stimulus_positions=0
    ),
}


def write_stores(folder: Path, shape: str, n_train: int, n_time_points: int) -> None:
    """Write so many runs to train on, and a short one to validate on: one stimulus, each subject with noise of its own."""
    space = SHAPES[shape].space()
    lengths = [*[n_time_points] * n_train, min(n_time_points, _VALIDATION_TIME_POINTS)]
    for number, length in enumerate(lengths):
        entities = {"subject": f"{number:02}", "task": "stimulus"}
        header = RunHeader(
            key=f"sub-{number:02}_task-film",
            entities=entities,
            repetition_time=1.0,
            space=space,
            scored=np.ones(length, dtype=bool),
            record={"fingerprint": f"{shape} {number} {length}", "normalizer": {"method": "none"}},
        )
        target = folder / f"sub-{number:02}" / "func" / store_name(entities, space.kind)
        write_run(target, header, _series(number, length, space.n_features))


def _series(number: int, n_time_points: int, n_features: int) -> Iterator[np.ndarray]:
    """Blocks of time points, about one standard deviation; AR(1)."""
    generators = [np.random.default_rng(seed) for seed in ([0], [1, number])]
    ends = [np.zeros((1, n_features)), np.zeros((1, n_features))]
    shares = np.sqrt([_STIMULUS_FRACTION, 1 - _STIMULUS_FRACTION])
    for start in range(0, n_time_points, _BLOCK_TIME_POINTS):
        block = np.zeros((min(_BLOCK_TIME_POINTS, n_time_points - start), n_features))
        for part, (generator, share) in enumerate(zip(generators, shares, strict=True)):
            news = generator.standard_normal(block.shape) * np.sqrt(1 - _MEMORY**2)
            values, ends[part] = lfilter([1], [1, -_MEMORY], news, axis=0, zi=ends[part])
            block += share * values
        yield block


def read_data(folder: Path) -> FoldData:
    """The runs as one fold; the last of them validates."""
    stores = open_runs(folder)
    keys = tuple(store.key for store in stores)
    space = stores[0].space
    runs = {store.key: store.within(space) for store in stores}
    return FoldData(fold=Fold(1, keys[:-1], keys[-1:], ()), protocol="subject", space=space, runs=runs)


def forget_stores(folder: Path) -> None:
    """Take all stores out of the system's cache."""
    forget_files([path for path in folder.glob("sub-*/**/*") if path.is_file()])


def given_recall(data: FoldData, shape: str) -> Recall | None:
    """A recall that is not empty, with what each of these subjects is read without."""
    model = SHAPES[shape].study().model
    if model.recall is None:
        return None
    torch.manual_seed(0)
    recall = model.recall.build(
        horizons=model.horizons, n_features=data.space.n_features, context_width=model.backbone.dim
    )
    fill_recall(recall, SHAPES[shape].stimulus_positions)
    n_subjects, n_folds = len(data.fit_runs), min(4, len(data.fit_runs))
    recall.runs = {run.key: (place, place % n_folds) for place, run in enumerate(data.fit_runs)}
    recall.set_own_map(recall.own_map.clone(), recall.own_map.expand(n_folds, *recall.own_map.shape).clone())
    stimulus = recall.stimulus
    stimulus.set_held_out(
        stimulus.keys.expand(n_subjects, -1, -1).clone(), stimulus.values.expand(n_subjects, -1, -1).clone()
    )
    stimulus.set_reader(stimulus.reader.clone(), stimulus.reader.expand(n_folds, *stimulus.reader.shape).clone())
    return recall


def given_linear(data: FoldData, horizons: tuple[int, ...]) -> Autoregression:
    """Weights of a linear skip, the present time point's alone."""
    coefficients = torch.zeros(len(horizons), max(ORDERS), data.space.n_features)
    for index, horizon in enumerate(horizons):
        coefficients[index, 0] = _MEMORY**horizon
    n = len(horizons)
    return Autoregression(coefficients, torch.zeros_like(coefficients[:, 0]), horizons, (1,) * n, (1.0,) * n)


@dataclasses.dataclass
class Pass:
    """One pass through a loader: when it began, how long its windows were waited for, how many there were.

    `cores` is how many of them this process has had: less than 1 where others wanted them, too.
    """

    began: float
    waited_s: float = 0.0
    steps: int = 0
    cores: float = 0.0


def watched_loader(passes: list[Pass], *, ahead: bool) -> type[StreamLoader]:
    """Make a loader that notes what it does in `passes`; it may read each window only when it is asked for."""

    class Watched(StreamLoader):
        def __iter__(self) -> Iterator[Windows]:
            source = super().__iter__() if ahead else (self._read(index) for index in range(len(self)))
            noted = Pass(time.time())
            passes.append(noted)
            first, worked = time.perf_counter(), time.process_time()
            while True:
                start = time.perf_counter()
                windows = next(source, None)
                now = time.perf_counter()
                noted.waited_s += now - start
                noted.cores = (time.process_time() - worked) / (now - first)
                if windows is None:
                    return
                noted.steps += 1
                yield windows

    return Watched


class _Sizes(Checkpoints):
    """Checkpoints as they are written, and how large the largest is."""

    largest = 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            type(self).largest = max(path.stat().st_size for path in Path(trainer.default_root_dir).glob("step-*.ckpt"))


def train(
    folder: Path, shape: str, name: str, training: Mapping[str, Any], *, ahead: bool = True, device: str = "cpu"
) -> dict[str, float]:
    """Train on the stores of `folder` for one epoch, by `train_fold`, together with the processes started beside.

    Parameters
    ----------
    folder : Path
    shape : str
        Of `SHAPES`.
    name : str
        Folder of what is written, removed at the end.
    training : mapping
        Settings of `TrainingConfig` other than the study's.
    ahead : bool
        Windows are read while the ones before are learned from; else by the thread that learns.
    device : str

    Returns
    -------
    dict
        ``seconds``, ``volumes_per_s`` as the training's own table has them (of all processes), ``waited_s``, ``steps``,
        ``began``, ``cores`` of the training's one epoch; bytes of model and checkpoint. Of the processes that write
        nothing, no table.
    """
    data, study = read_data(folder), SHAPES[shape].study()
    settings = dataclasses.replace(study.training, max_epochs=1, **training)
    recall = given_recall(data, shape)
    processes = find_processes(device, None)
    target, passes = folder / name, []
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            stack.callback(shutil.rmtree, target, ignore_errors=True)
        put = {
            "fitted_linear_skip": lambda data, horizons, *, work_dir: given_linear(data, tuple(horizons)),
            "fitted_recall": lambda data, model, *, work_dir: recall,
            "StreamLoader": watched_loader(passes, ahead=ahead),
            "Checkpoints": _Sizes,
        }
        for what, instead in put.items():
            stack.enter_context(mock.patch.object(fitting, what, instead))
        train_fold(
            data,
            study.model,
            settings,
            folder=target / "model",
            work_dir=target / "work",
            seed=0,
            processes=processes,
        )
        # Validated, trained, validated.
        _, epoch, _ = passes
        found = dataclasses.asdict(epoch)
        if processes.is_first:
            row = pd.read_csv(target / "model" / "training.csv").set_index("epoch").loc[1]
            found |= {"seconds": float(row["seconds"]), "volumes_per_s": float(row["volumes_per_s"])}
            found |= {"model_bytes": (target / "model/model.safetensors").stat().st_size}
            found |= {"checkpoint_bytes": _Sizes.largest}
    return found


def watch_training(
    folder: str, shape: str, name: str, training: Mapping[str, Any], ahead: bool = True, device: str = "cpu"
) -> dict[str, float]:
    """Train in a process of its own, of one thread beside the one that reads; stores come from the disk.

    Returns
    -------
    dict
        What `train` returns, ``disk_bytes`` that were read, and on a GPU ``busy``, the share of time in which it was.
    """
    use_one_thread()
    forget_stores(Path(folder))
    before = disk_bytes()
    with watched_gpu() if device != "cpu" else contextlib.nullcontext([]) as samples:
        found = train(Path(folder), shape, name, training, ahead=ahead, device=device)
    found["disk_bytes"] = disk_bytes() - before
    if device != "cpu":
        found["busy"] = busy_fraction(samples, found["began"], found["began"] + found["seconds"])
    return found


@contextlib.contextmanager
def watched_gpu(every_ms: int = 100) -> Iterator[list[tuple[float, float]]]:
    """Ask the driver, again and again, in which share of the time since it was last asked the GPU had work.

    Yields
    ------
    list of (float, float)
        Time, and share; it grows while the block runs.
    """
    which = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}" if torch.cuda.is_available() else "--id=0"
    command = ["nvidia-smi", which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    samples: list[tuple[float, float]] = []
    with subprocess.Popen([*command, f"--loop-ms={every_ms}"], stdout=subprocess.PIPE, text=True) as asked:

        def note() -> None:
            samples.extend((time.time(), float(line) / 100) for line in asked.stdout or ())

        thread = threading.Thread(target=note, daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            asked.terminate()
            thread.join()


def busy_fraction(samples: list[tuple[float, float]], began: float, ended: float) -> float:
    """Mean of what was told between two moments.

    Raises
    ------
    BenchmarkError
        Nothing was told.
    """
    within = [share for position, share in samples if began <= position <= ended]
    if not within:
        raise BenchmarkError("nvidia-smi told nothing while the training ran.", "Train longer, or look at its message.")
    return float(np.mean(within))


def torchrun_variables(n: int, port: int) -> list[dict[str, str]]:
    """What torchrun tells each of `n` processes on this machine."""
    shared = {"TORCHELASTIC_RUN_ID": "benchmark", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "GROUP_RANK": "0"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]


def open_again(folder: Path, n_times: int) -> list[RunView]:
    """Open the first run of a folder so many times, as `titan-neuro train` opens each run of a study."""
    path = next(folder.glob("sub-*/func/*.zarr"))
    space = RunStore(path).space
    if space.mask is not None:
        # What all runs have in common is less than each of them has.
        common = space.mask.copy()
        common.flat[np.flatnonzero(common)[0]] = False
        space = dataclasses.replace(space, mask=common)
    return [RunStore(path).within(space) for _ in range(n_times)]


def write_index(root: Path, n_subjects: int) -> None:
    """Write the names of a BIDS dataset of so many subjects, a run and an events table each, and nothing in them."""
    write_json(root / "dataset_description.json", {"Name": "Names", "BIDSVersion": "1.9.0"})
    write_json(root / "task-rest_bold.json", {"TaskName": "rest", "RepetitionTime": 0.735})
    for number in range(n_subjects):
        func = root / f"sub-{number:05}" / "func"
        func.mkdir(parents=True)
        (func / f"{func.parent.name}_task-rest_bold.nii.gz").touch()
        (func / f"{func.parent.name}_task-rest_events.tsv").write_text("onset\tduration\ttrial_type\n")
