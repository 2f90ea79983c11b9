"""Killed, stopped, requeued, short of disk: the same command goes on, and comes to the same weights, bit for bit."""

import dataclasses
import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, write_run
from titan_neuro.errors import MismatchError, OutputError
from titan_neuro.layers.decoder import LowRankConfig
from titan_neuro.layers.tokenizer import ParcelTokenizerConfig
from titan_neuro.models import ForecasterConfig, MACConfig, RecallConfig
from titan_neuro.training import FoldData, TrainingConfig, train_fold
from titan_neuro.training.module import ForecastModule
from titan_neuro.training.resume import Checkpoints

N_FEATURES, N_FRAMES, WINDOW = 8, 150, 16
SPACE = Space(kind="parcels", name="Toy", parcels=tuple(f"p{i}" for i in range(N_FEATURES)))
# Every kind of state that a stream has: memories, attention, convolutions, delay lines, evidence for a film.
MODEL = ForecasterConfig(
    tokenizer=ParcelTokenizerConfig(n_tokens=1),
    backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_frame=1, segment_frames=16),
    recall=RecallConfig(width=8, n_components=4, own_lags=2, key_lags=2, key_components=4, group_width=4),
    horizons=(1, 3),
    decoder=LowRankConfig(rank=8),
)
# Every step is saved, and streams are long, so that what they carry counts.
TRAINING = TrainingConfig(
    max_epochs=2, steps_per_epoch=8, window_frames=WINDOW, n_streams=2, learning_rate=1e-2, checkpoint_every_s=0
)


def make_data(folder: Path) -> FoldData:
    """Four runs, written once and read again by each process."""
    keys = tuple(f"sub-0{number}_task-x" for number in range(4))
    for number, key in enumerate(keys):
        if (folder / f"{key}.zarr").exists():
            continue
        generator = torch.Generator().manual_seed(number)
        frames = torch.randn(N_FRAMES, N_FEATURES, generator=generator)
        for t in range(1, N_FRAMES):
            frames[t, 1:] = 0.9 * frames[t - 1, :-1] + 0.4 * frames[t, 1:]
        header = RunHeader(
            key=key,
            entities={"subject": f"0{number}", "task": "x"},
            repetition_time=1.0,
            space=SPACE,
            scored=torch.ones(N_FRAMES, dtype=torch.bool).numpy(),
            record={"fingerprint": str(number), "normaliser": {"method": "none"}},
        )
        write_run(folder / f"{key}.zarr", header, [frames.numpy()])
    runs = {key: RunStore(folder / f"{key}.zarr").within(SPACE) for key in keys}
    return FoldData(fold=Fold(1, keys[:2], keys[2:3], keys[3:]), protocol="subject", space=SPACE, runs=runs)


def train(root: Path, training: TrainingConfig = TRAINING) -> Path:
    """Train as the command does, beside the stores."""
    folder = root / "models/fold-1/titan-mac"
    train_fold(make_data(root.parent / "stores"), MODEL, training, folder=folder, work_dir=root / ".work", seed=3)
    return folder


def train_quietly(root: Path) -> None:
    """In a process of its own, whose bars nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    train(root)


def outcome(folder: Path) -> tuple[bytes, list[float]]:
    """What must not depend on interruptions: the weights, and what was noted of each epoch but for times."""
    table = pd.read_csv(folder / "training.csv").drop(columns=["seconds", "volumes_per_s"])
    return (folder / "model.safetensors").read_bytes(), table.fillna(-1).to_numpy().ravel().tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Stores, and an undisturbed training."""
    base = tmp_path_factory.mktemp("interruptions")
    train(base / "undisturbed")
    return base


@pytest.fixture(scope="module")
def undisturbed(base):
    return outcome(base / "undisturbed/models/fold-1/titan-mac")


def checkpoints(root: Path) -> list[Path]:
    return sorted(root.glob(".work/fold-1-*/*.ckpt"))


def stop_after(monkeypatch, n_steps: int) -> None:
    """Interrupt the training after so many answers of the callback: steps, and ends of epochs."""
    answer, left = Checkpoints._answer, [n_steps]

    def counted(self, trainer, wish):
        answer(self, trainer, wish)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "_answer", counted)


# Two epochs of ten steps: the last of an epoch is answered for with its end.
@pytest.mark.parametrize("n_steps", range(1, 21))
def test_stopped_after_any_step_it_comes_to_the_same(base, undisturbed, tmp_path_factory, monkeypatch, n_steps):
    root = base / f"stopped-{n_steps}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, n_steps)
        train(root)
    assert checkpoints(root)
    assert not (root / "models/fold-1/titan-mac/model.json").exists()
    assert outcome(train(root)) == undisturbed
    assert not checkpoints(root)
