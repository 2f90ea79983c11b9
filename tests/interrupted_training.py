"""A small training on small stores, which can also run in a process of its own, to be killed there."""

import os
import resource
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pandas as pd
import torch
from forked import CONTEXT
from small_folds import read_small_fold, write_small_run

from titan_neuro.data.space import Space
from titan_neuro.forecaster import ForecasterConfig, LookaheadConfig, RecallConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.titans.models import MACConfig
from titan_neuro.training import FoldData, TrainingConfig, find_processes, train_fold
from titan_neuro.training.module import ForecastModule

N_FEATURES, N_TIME_POINTS, WINDOW = 8, 80, 16
SPACE = Space(kind="parcels", name="Toy", parcels=tuple(f"p{i}" for i in range(N_FEATURES)))
# The state of a stream has all parts: memories, attention, convolutions, delayed responses, position in the stimulus.
# The recall has too few components for the data, so that training improves on it.
MODEL = ForecasterConfig(
    tokenizer=LinearTokenizerConfig(n_tokens=1),
    backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1, segment_time_points=16),
    recall=RecallConfig(width=2, n_components=2, autoregressive_lags=2),
    lookahead=LookaheadConfig(n_lags=2, n_components=2, key_width=8),
    horizons=(1, 3),
    decoder=LowRankConfig(rank=8),
)
# A checkpoint is saved at every step, and a stream has several windows, so that its state matters.
TRAINING = TrainingConfig(
    max_epochs=2, steps_per_epoch=4, window_time_points=WINDOW, n_streams=2, learning_rate=1e-2, checkpoint_every_s=0
)
N_STEPS = 10
"""Steps of each of the two epochs."""
MODEL_FOLDER = "models/fold-1/titan-mac"

KEYS = tuple(f"sub-0{number}_task-x" for number in range(4))


def write_store(folder: Path, number: int, *, seed: int, fingerprint: str) -> None:
    """Write one run; an existing one is replaced."""
    generator = torch.Generator().manual_seed(seed)
    series = torch.randn(N_TIME_POINTS, N_FEATURES, generator=generator)
    for t in range(1, N_TIME_POINTS):
        series[t, 1:] = 0.9 * series[t - 1, :-1] + 0.4 * series[t, 1:]
    record = {"fingerprint": fingerprint, "normalizer": {"method": "none"}}
    write_small_run(folder / f"{KEYS[number]}.zarr", number, series.numpy(), SPACE, record=record)


def write_stores(folder: Path) -> None:
    """Write four runs."""
    for number in range(4):
        write_store(folder, number, seed=number, fingerprint=str(number))


def read_data(folder: Path) -> FoldData:
    """Return one fold of the four runs."""
    return read_small_fold([folder / f"{key}.zarr" for key in KEYS], SPACE)


def train(root: Path, training: TrainingConfig = TRAINING, *, stores: Path | None = None, seed: int = 3) -> Path:
    """Train into `root` as the command does, with the processes that were started together with this one."""
    folder = root / MODEL_FOLDER
    data = read_data(stores or root.parent / "stores")
    processes = find_processes("cpu", None)
    train_fold(data, MODEL, training, folder=folder, work_dir=root / ".work", seed=seed, processes=processes)
    return folder


def train_in_process(
    root: Path,
    training: TrainingConfig = TRAINING,
    *,
    largest_file_bytes: int | None = None,
    variables: Mapping[str, str] | None = None,
    pause_s: float = 0.0,
) -> None:
    """Train in this process without output; write the error with which it ends into a file."""
    os.environ.update(variables or {})
    if pause_s:
        step = ForecastModule.training_step
        ForecastModule.training_step = lambda *arguments: (time.sleep(pause_s), step(*arguments))[1]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if largest_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
    try:
        train(root, training)
    except BaseException as error:
        (root / f"ended-with-{os.environ.get('RANK', 0)}.txt").write_text(f"{type(error).__name__}: {error}")
        raise


def outcome(folder: Path) -> tuple[bytes, list[float]]:
    """Return what must not depend on interruptions: the weights, and the table of epochs without its times."""
    table = pd.read_csv(folder / "training.csv").drop(columns=["seconds", "volumes_per_s"])
    return (folder / "model.safetensors").read_bytes(), table.fillna(-1).to_numpy().ravel().tolist()


def start_training(*arguments: object, **options: object) -> ForkServerProcess:
    """Start a training in a process forked from one that has imported everything."""
    process = CONTEXT.Process(target=train_in_process, args=arguments, kwargs=options)
    process.start()
    return process
