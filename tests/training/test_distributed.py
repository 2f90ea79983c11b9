"""Several processes train one model: they come to what one comes to, and survive what one survives."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import time

import pandas as pd
import pytest
import torch
from interrupted_training import TRAINING, start_training, train, write_stores
from safetensors.torch import load_file

from titan_neuro.errors import UsageError
from titan_neuro.training import find_processes
from titan_neuro.training.resume import Checkpoints


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Stores, and a training by one process."""
    base = tmp_path_factory.mktemp("distributed")
    write_stores(base / "stores")
    train(base / "one")
    return base


@pytest.fixture
def root(base, request):
    root = base / request.node.name.replace("[", "-").replace("]", "")
    root.mkdir()
    return root


def start(n, root, training=TRAINING):
    """Start a training by `n` processes, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "GROUP_RANK": "0"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]
    return [start_training(root, training, variables={**shared, **rank}) for rank in ranks]


def finish(root, processes):
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * len(processes), [
        path.read_text() for path in root.glob("ended-with-*.txt")
    ]


def assert_agree(base, root):
    """Sums are taken in another order; nothing else differs."""
    folders = [folder / "models/fold-1/titan-mac" for folder in (base / "one", root)]
    expected, found = (load_file(folder / "model.safetensors") for folder in folders)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-5, msg=f"{name} differs")
    tables = [pd.read_csv(folder / "training.csv").drop(columns=["seconds", "volumes_per_s"]) for folder in folders]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)
    assert not [path for path in root.rglob("*") if path.suffix in {".tmp", ".ckpt"}]


# There are two streams: of three processes one has none, and none is split.
@pytest.mark.parametrize("n", [2, 3])
def test_streams_are_shared_out(base, root, n):
    finish(root, start(n, root))
    assert_agree(base, root)


def test_weights_are_shared_out(base, root):
    finish(root, start(2, root, dataclasses.replace(TRAINING, strategy="fsdp")))
    assert_agree(base, root)


def stop_at(root, processes, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert all(process.is_alive() for process in processes), "it was over before its time"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def saved(root):
    return list(root.glob(".work/fold-1-*/step-*.ckpt"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_signal_to_all_saves_one_step_and_fewer_processes_go_on(base, root, strategy):
    training = dataclasses.replace(TRAINING, strategy=strategy)
    processes = start(2, root, training)
    stop_at(root, processes, lambda: saved(root))
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.join(timeout=60)
    assert saved(root)
    assert (root / "ended-with-0.txt").read_text().startswith("KeyboardInterrupt")
    train(root, training)
    assert_agree(base, root)


def stop_after(n, function):
    """Interrupt the training after so many calls."""
    left = [n]

    def stop(*arguments, **options):
        function(*arguments, **options)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return stop


def test_more_processes_go_on_where_one_was_stopped(base, root, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_save", stop_after(5, Checkpoints._save))
    with pytest.raises(KeyboardInterrupt):
        train(root)
    finish(root, start(2, root))
    assert_agree(base, root)


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_process_dies_the_others_say_so_and_what_is_saved_stays(base, root, victim):
    processes = start(2, root)
    stop_at(root, processes, lambda: saved(root))
    processes[victim].kill()
    left = processes[1 - victim]
    left.join(timeout=90)
    assert not left.is_alive()
    said = (root / f"ended-with-{1 - victim}.txt").read_text()
    assert said.startswith(f"TrainingError: Process {1 - victim} of 2 lost the others")
    assert "the same command goes on from there" in said
    train(root)
    assert_agree(base, root)


def test_a_damaged_checkpoint_is_left_out_by_all(base, root, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_save", stop_after(5, Checkpoints._save))
    with pytest.raises(KeyboardInterrupt):
        train(root)
    newest = max(saved(root))
    newest.write_bytes(newest.read_bytes()[:1000])
    finish(root, start(2, root))
    assert_agree(base, root)


@pytest.mark.parametrize(
    ("variables", "device", "n", "message"),
    [
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "cpu", 3, "--devices 3: 2 processes were started"),
        ({}, "cuda", 2, "2 processes need a GPU each, and there is 0 GPUs"),
        ({}, "cuda:0", 2, "the one GPU of --device cuda:0"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, "cpu", None, "srun has started 2 tasks"),
    ],
)
def test_processes_that_can_not_train_together_are_refused(monkeypatch, variables, device, n, message):
    if "WORLD_SIZE" in variables:
        variables |= {"TORCHELASTIC_RUN_ID": "test"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message) as caught:
        find_processes(device, n)
    assert caught.value.hint


def test_the_command_starts_them_itself(study, titan_neuro, tmp_path):
    """And they go on together to the next model."""
    output = tmp_path / "output"
    shutil.copytree(study / "output", output, ignore=shutil.ignore_patterns("models", "group", ".work"))
    settings = ("--fold", 1, "--set", "training.max_epochs=1", "--set", "training.steps_per_epoch=2")
    said = titan_neuro("train", output, "--devices", 2, *settings).stderr
    assert said.count("is trained:") == len(list(output.glob("models/seed-0/fold-1/*/config.json"))) == 3
    stage = json.loads((output / "provenance.json").read_text())["stages"]["train seed-0 fold-1"]
    assert stage["processes"] == 2
