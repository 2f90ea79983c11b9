"""Trainings that training.py measures: stores on the disk, a model with closed-form fits, and calls of `train_fold`.

All code of a training is that of the package: Lightning's trainer, windows read from Zarr during each step, validation,
logs, checkpoints, the model that is saved at the end. Two parts are replaced:

- The closed-form fits are given: they read whole runs once, and are no part of a training step. The recall is that of
  a fitted model (`forecaster_sides.noise_fit`), with a stimulus memory of `STIMULUS_POSITIONS` time points whatever
  the length of the runs, and with the held-out fits for each training subject. A separate row measures the fits.
- The loader of windows is timed.
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
from common import BUDAPEST, BenchmarkError, disk_bytes, forget_files, use_one_thread
from forecaster_sides import STIMULUS_POSITIONS, brain, config_of, noise_fit
from scipy.signal import lfilter
from store_sides import brain as template_brain

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, RunView, open_runs, store_name, write_run
from titan_neuro.files import write_json
from titan_neuro.forecaster.fit import ClosedFormFit
from titan_neuro.linear.autoregression import ORDERS, Autoregression
from titan_neuro.study import StudyConfig, load_study
from titan_neuro.study.config import PRESETS
from titan_neuro.training import FoldData, find_processes, train_fold
from titan_neuro.training import fit as fitting
from titan_neuro.training.resume import Checkpoints
from titan_neuro.training.streams import StreamLoader, WindowBatch

N_PARCELS = 200
# What the study is not by default: gradient training of a Swin, with comparison models.
GRADIENTS = (
    "training.max_epochs=30",
    "seeds=[0, 1, 2]",
    "comparison_models=true",
    "model.tokenizer={kind: swin, embed_dim: 24, depths: [2, 2, 2, 2], token_grid: [3, 3, 3]}",
)
# Fraction of variance that all subjects share, and coefficient of the AR(1) process.
_STIMULUS_FRACTION, _MEMORY = 0.3, 0.8
_BLOCK_TIME_POINTS = 256
_VALIDATION_TIME_POINTS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and the size of its data.

    Attributes
    ----------
    label : str
        In the tables.
    study : callable
        Returns the settings.
    space : callable
        Returns the space of the features.
    stimulus_positions : int
        Time points of the recall's stimulus memory; 0 for none.
    """

    label: str
    study: Callable[[], StudyConfig]
    space: Callable[[], Space]
    stimulus_positions: int = STIMULUS_POSITIONS


def _volumes(size: str) -> Space:
    return Space(kind="volume", name="Ball", mask=brain(size).numpy(), affine=np.eye(4))


def _parcels() -> Space:
    return Space(kind="parcels", name="Parcels", parcels=tuple(f"parcel-{i}" for i in range(N_PARCELS)))


def _small() -> StudyConfig:
    return dataclasses.replace(PRESETS["cpu-small"](), model=config_of("small"))


def _large() -> StudyConfig:
    return dataclasses.replace(PRESETS["gpu-base"](), model=config_of("large"))


def budapest() -> StudyConfig:
    """Return the settings of the study of ds003017 with gradient training and a Swin of its size."""
    return load_study(default_preset="gpu-base", config_file=BUDAPEST, overrides=GRADIENTS)


SHAPES = {
    "tiny": Shape(
        label="8 voxels a side", study=PRESETS["debug"], space=lambda: _volumes("tiny"), stimulus_positions=50
    ),
    "small": Shape(label="24 voxels a side, cpu-small", study=_small, space=lambda: _volumes("small")),
    "large": Shape(
        label="48 voxels a side, gpu-base at half its widths", study=_large, space=lambda: _volumes("large")
    ),
    "parcels": Shape(label=f"{N_PARCELS} parcels", study=PRESETS["parcels"], space=_parcels),
    # Test runs have another part of the stimulus than training runs: there is no stimulus memory.
    "budapest": Shape(
        label="2 mm, budapest.yaml", study=budapest, space=lambda: template_brain(2), stimulus_positions=0
    ),
}


def write_stores(folder: Path, shape: str, n_train: int, n_time_points: int) -> None:
    """Write training runs and a short validation run: one stimulus, independent noise for each subject."""
    space = SHAPES[shape].space()
    lengths = [*[n_time_points] * n_train, min(n_time_points, _VALIDATION_TIME_POINTS)]
    for number, length in enumerate(lengths):
        entities = {"subject": f"{number:02}", "task": "stimulus"}
        header = RunHeader(
            key=f"sub-{number:02}_task-stimulus",
            entities=entities,
            repetition_time=1.0,
            space=space,
            scored=np.ones(length, dtype=bool),
            record={"fingerprint": f"{shape} {number} {length}", "normalizer": {"method": "none"}},
        )
        target = folder / f"sub-{number:02}" / "func" / store_name(entities, space.kind)
        write_run(target, header, _series(number, length, space.n_features))


def _series(number: int, n_time_points: int, n_features: int) -> Iterator[np.ndarray]:
    """Yield blocks of time points: AR(1) processes of unit variance."""
    generators = [np.random.default_rng(seed) for seed in ([0], [1, number])]
    ends = [np.zeros((1, n_features)), np.zeros((1, n_features))]
    weights = np.sqrt([_STIMULUS_FRACTION, 1 - _STIMULUS_FRACTION])
    for start in range(0, n_time_points, _BLOCK_TIME_POINTS):
        block = np.zeros((min(_BLOCK_TIME_POINTS, n_time_points - start), n_features))
        for part, (generator, weight) in enumerate(zip(generators, weights, strict=True)):
            innovations = generator.standard_normal(block.shape) * np.sqrt(1 - _MEMORY**2)
            values, ends[part] = lfilter([1], [1, -_MEMORY], innovations, axis=0, zi=ends[part])
            block += weight * values
        yield block


def read_data(folder: Path) -> FoldData:
    """Read the runs as one fold; the last is the validation run."""
    stores = open_runs(folder)
    keys = tuple(store.key for store in stores)
    space = stores[0].space
    runs = {store.key: store.within(space) for store in stores}
    return FoldData(fold=Fold(1, keys[:-1], keys[-1:], ()), protocol="subject", space=space, runs=runs)


def forget_stores(folder: Path) -> None:
    """Drop all stores from the operating system's cache."""
    forget_files([path for path in folder.glob("sub-*/**/*") if path.is_file()])


def preset_closed_form(data: FoldData, shape: str) -> ClosedFormFit | None:
    """Return a fit of noise, with held-out fits for each training and validation run."""
    model = SHAPES[shape].study().model
    if model.recall is None:
        return None
    torch.manual_seed(0)
    keys = [run.key for run in data.fit_runs]
    return noise_fit(model, data.space.n_features, SHAPES[shape].stimulus_positions, keys)


def preset_linear_skip(data: FoldData, horizons: tuple[int, ...]) -> Autoregression:
    """Return a linear skip that uses the present time point only."""
    coefficients = torch.zeros(len(horizons), max(ORDERS), data.space.n_features)
    for index, horizon in enumerate(horizons):
        coefficients[index, 0] = _MEMORY**horizon
    n = len(horizons)
    return Autoregression(coefficients, torch.zeros_like(coefficients[:, 0]), horizons, (1,) * n, (1.0,) * n)


@dataclasses.dataclass
class Pass:
    """One pass through a loader.

    Attributes
    ----------
    start_s : float
        When it began, in seconds since the epoch.
    waited_s : float
        Time that the training waited for windows.
    steps : int
        Number of windows.
    cores : float
        Cores that this process had on average: less than 1 where it shared one with other programs.
    """

    start_s: float
    waited_s: float = 0.0
    steps: int = 0
    cores: float = 0.0


def timed_loader(passes: list[Pass], *, prefetch: bool) -> type[StreamLoader]:
    """Make a loader that appends its timings to `passes`; without `prefetch` it reads each window when it is needed."""

    class TimedLoader(StreamLoader):
        def __iter__(self) -> Iterator[WindowBatch]:
            source = super().__iter__() if prefetch else (self._read(index) for index in range(len(self)))
            current = Pass(time.time())
            passes.append(current)
            first, cpu_s_before = time.perf_counter(), time.process_time()
            while True:
                start = time.perf_counter()
                windows = next(source, None)
                now = time.perf_counter()
                current.waited_s += now - start
                current.cores = (time.process_time() - cpu_s_before) / (now - first)
                if windows is None:
                    return
                current.steps += 1
                yield windows

    return TimedLoader


class _Sizes(Checkpoints):
    """Checkpoints that also record the size of the largest file, in bytes."""

    largest = 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            type(self).largest = max(path.stat().st_size for path in Path(trainer.default_root_dir).glob("step-*.ckpt"))


def train(
    folder: Path, shape: str, name: str, training: Mapping[str, Any], *, prefetch: bool = True, device: str = "cpu"
) -> dict[str, float]:
    """Train on the stores of `folder` for one epoch, with `train_fold`, together with other processes where started.

    Parameters
    ----------
    folder : Path
    shape : str
        Key of `SHAPES`.
    name : str
        Folder of the outputs, removed at the end.
    training : mapping
        Settings of `TrainingConfig` that differ from the study's.
    prefetch : bool
        Windows are read during the step before; else by the training thread.
    device : str

    Returns
    -------
    dict
        ``start_s``, ``waited_s``, ``steps``, ``cores`` of the epoch. From the first process also ``seconds`` and
        ``volumes_per_s`` as in ``training.csv`` (over all processes), and the bytes of model and checkpoint.
    """
    data, study = read_data(folder), SHAPES[shape].study()
    settings = dataclasses.replace(study.training, max_epochs=1, **training)
    fit = preset_closed_form(data, shape)
    processes = find_processes(device, None)
    target, passes = folder / name, []
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            stack.callback(shutil.rmtree, target, ignore_errors=True)
        replacements = {
            "fitted_linear_skip": lambda data, horizons, *, work_dir: preset_linear_skip(data, tuple(horizons)),
            "fitted_closed_form": lambda data, model, *, work_dir, start: fit,
            "StreamLoader": timed_loader(passes, prefetch=prefetch),
            "Checkpoints": _Sizes,
        }
        for attribute, replacement in replacements.items():
            stack.enter_context(mock.patch.object(fitting, attribute, replacement))
        train_fold(
            data,
            study.model,
            settings,
            folder=target / "model",
            work_dir=target / "work",
            seed=0,
            processes=processes,
        )
        # Passes: validation, training, validation.
        _, epoch, _ = passes
        result = dataclasses.asdict(epoch)
        if processes.is_first:
            row = pd.read_csv(target / "model" / "training.csv").set_index("epoch").loc[1]
            result |= {"seconds": float(row["seconds"]), "volumes_per_s": float(row["volumes_per_s"])}
            result |= {"model_bytes": (target / "model/model.safetensors").stat().st_size}
            result |= {"checkpoint_bytes": _Sizes.largest}
    return result


def measure_training(
    folder: str, shape: str, name: str, training: Mapping[str, Any], prefetch: bool = True, device: str = "cpu"
) -> dict[str, float]:
    """Train in a process of its own, with one thread beside the reading one; stores are not in the system's cache.

    Returns
    -------
    dict
        The result of `train`, ``disk_bytes`` that were read, and on a GPU ``busy``, the fraction of time in use.
    """
    use_one_thread()
    forget_stores(Path(folder))
    before = disk_bytes()
    with sample_gpu() if device != "cpu" else contextlib.nullcontext([]) as samples:
        result = train(Path(folder), shape, name, training, prefetch=prefetch, device=device)
    result["disk_bytes"] = disk_bytes() - before
    if device != "cpu":
        result["busy"] = busy_fraction(samples, result["start_s"], result["start_s"] + result["seconds"])
    return result


@contextlib.contextmanager
def sample_gpu(every_ms: int = 100) -> Iterator[list[tuple[float, float]]]:
    """Sample the utilization of the GPU with nvidia-smi.

    Yields
    ------
    list of (float, float)
        Time in seconds since the epoch, and the fraction of time in use since the last sample; it grows during the
        block.
    """
    which = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}" if torch.cuda.is_available() else "--id=0"
    command = ["nvidia-smi", which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    samples: list[tuple[float, float]] = []
    with subprocess.Popen([*command, f"--loop-ms={every_ms}"], stdout=subprocess.PIPE, text=True) as process:

        def collect() -> None:
            samples.extend((time.time(), float(line) / 100) for line in process.stdout or ())

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            process.terminate()
            thread.join()


def busy_fraction(samples: list[tuple[float, float]], start_s: float, stop_s: float) -> float:
    """Return the mean fraction of the samples between two times.

    Raises
    ------
    BenchmarkError
        There is no sample.
    """
    within = [fraction for time_s, fraction in samples if start_s <= time_s <= stop_s]
    if not within:
        raise BenchmarkError("nvidia-smi gave no sample while the training ran.", "Train longer, or see its message.")
    return float(np.mean(within))


def torchrun_variables(n: int, port: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each of `n` processes on this machine."""
    shared = {"TORCHELASTIC_RUN_ID": "benchmark", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "GROUP_RANK": "0"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]


def open_repeatedly(folder: Path, n_times: int) -> list[RunView]:
    """Open the first run of a folder `n_times`, as `titan-neuro train` opens each run of a study."""
    path = next(folder.glob("sub-*/func/*.zarr"))
    space = RunStore(path).space
    if space.mask is not None:
        # The mask that all runs share is smaller than the mask of each.
        common = space.mask.copy()
        common.flat[np.flatnonzero(common)[0]] = False
        space = dataclasses.replace(space, mask=common)
    return [RunStore(path).within(space) for _ in range(n_times)]


def write_index(root: Path, n_subjects: int) -> None:
    """Write the files of a BIDS dataset with one run and one events table for each subject; the images are empty."""
    write_json(root / "dataset_description.json", {"Name": "Names", "BIDSVersion": "1.9.0"})
    write_json(root / "task-rest_bold.json", {"TaskName": "rest", "RepetitionTime": 0.735})
    for number in range(n_subjects):
        func = root / f"sub-{number:05}" / "func"
        func.mkdir(parents=True)
        (func / f"{func.parent.name}_task-rest_bold.nii.gz").touch()
        (func / f"{func.parent.name}_task-rest_events.tsv").write_text("onset\tduration\ttrial_type\n")
