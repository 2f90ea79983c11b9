"""Several processes train one model: with the weights of a single process, and with the same safety."""

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
from interrupted_training import MODEL_FOLDER, TRAINING, start_training, train, write_stores
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


def start(n, root, training=TRAINING, *, around=(), **options):
    """Start a training by `n` processes, as torchrun does where the variables `around` are set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**dict(around), "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "GROUP_RANK": "0"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]
    return [start_training(root, training, variables={**shared, **rank}, **options) for rank in ranks]


def finish(root, processes):
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * len(processes), [
        path.read_text() for path in root.glob("ended-with-*.txt")
    ]


def assert_agree(base, root):
    """Equal except for rounding: sums are taken in another order."""
    folders = [folder / MODEL_FOLDER for folder in (base / "one", root)]
    expected, trained = (load_file(folder / "model.safetensors") for folder in folders)
    assert expected.keys() == trained.keys()
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, rtol=2e-3, atol=2e-5, msg=f"{name} differs")
    tables = [pd.read_csv(folder / "training.csv").drop(columns=["seconds", "volumes_per_s"]) for folder in folders]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)
    assert not [path for path in root.rglob("*") if path.suffix in {".tmp", ".ckpt"}]


# There are two streams. Of three processes one has no stream.
@pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_share_the_streams(base, root, n):
    finish(root, start(n, root))
    assert_agree(base, root)


def test_processes_share_the_weights(base, root):
    finish(root, start(2, root, dataclasses.replace(TRAINING, strategy="fsdp")))
    assert_agree(base, root)


def wait_until(processes, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert all(process.is_alive() for process in processes), "a process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def checkpoints(root):
    return list(root.glob(".work/fold-1-*/step-*.ckpt"))


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_fewer_processes_resume_after_sigterm(base, root, strategy):
    training = dataclasses.replace(TRAINING, strategy=strategy)
    processes = start(2, root, training, pause_s=0.05)
    wait_until(processes, lambda: checkpoints(root))
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.join(timeout=60)
    assert checkpoints(root)
    assert (root / "ended-with-0.txt").read_text().startswith("KeyboardInterrupt")
    train(root, training)
    assert_agree(base, root)


def stop_after(n, function):
    """Interrupt the training after `n` calls of the function."""
    remaining = [n]

    def stop(*arguments, **options):
        function(*arguments, **options)
        remaining[0] -= 1
        if not remaining[0]:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("is_damaged", [pytest.param(False, marks=pytest.mark.slow), True])
def test_more_processes_resume_from_the_newest_intact_checkpoint(base, root, monkeypatch, is_damaged):
    monkeypatch.setattr(Checkpoints, "_save", stop_after(4, Checkpoints._save))
    with pytest.raises(KeyboardInterrupt):
        train(root)
    if is_damaged:
        newest = max(checkpoints(root))
        newest.write_bytes(newest.read_bytes()[:1000])
    finish(root, start(2, root))
    assert_agree(base, root)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_death_of_one_process_ends_the_others(base, root, victim):
    processes = start(2, root, pause_s=0.05)
    wait_until(processes, lambda: checkpoints(root))
    processes[victim].kill()
    survivor = processes[1 - victim]
    survivor.join(timeout=90)
    assert not survivor.is_alive()
    message = (root / f"ended-with-{1 - victim}.txt").read_text()
    assert message.startswith(f"TrainingError: Process {1 - victim} of 2 lost the connection to the others")
    assert "the same command resumes from it" in message
    train(root)
    assert_agree(base, root)


@pytest.mark.parametrize(
    ("variables", "device", "n", "message"),
    [
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "cpu", 3, "--devices 3: 2 processes were started"),
        ({}, "cuda", 2, "2 processes need a GPU each; available: 0 GPUs"),
        ({}, "cuda:0", 2, "available: the one GPU of --device cuda:0"),
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


SLURM_STEP = {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
SLURM_STEP |= {"SLURM_NNODES": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
SLURM_STEP |= {"SLURM_NODEID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize("job_name", ["train", "bash"])
@pytest.mark.parametrize("rank", range(4))
def test_torchrun_inside_srun_numbers_the_processes(monkeypatch, rank, job_name):
    """Two nodes with one task each, in which torchrun has started two processes."""
    of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank % 2), "GROUP_RANK": str(rank // 2)}
    for name, value in (SLURM_STEP | {"SLURM_JOB_NAME": job_name} | TORCHRUN | of_rank).items():
        monkeypatch.setenv(name, value)
    processes = find_processes("cpu", None)
    assert (processes.n, processes.n_nodes) == (2, 2)
    assert (processes.environment.global_rank(), processes.environment.world_size()) == (rank, 4)
    assert processes.environment.local_rank() == rank % 2
    assert processes.is_first == (rank == 0)
    with pytest.raises(UsageError, match="--devices 4: 2 processes were started on this machine"):
        find_processes("cpu", 4)


def test_tasks_of_srun_alone_are_the_processes(monkeypatch):
    for name, value in SLURM_STEP.items():
        monkeypatch.setenv(name, value)
    processes = find_processes("cpu", None)
    assert (processes.n, processes.n_nodes, processes.environment.global_rank()) == (1, 2, 1)
    assert not processes.is_first


def test_training_inside_srun_and_torchrun_agrees(base, root):
    one_task = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    finish(root, start(2, root, around=SLURM_STEP | one_task))
    assert_agree(base, root)


@pytest.mark.slow
def test_the_command_starts_several_processes(study, titan_neuro, tmp_path):
    """They also train the comparison models together."""
    output = tmp_path / "output"
    shutil.copytree(study / "output", output, ignore=shutil.ignore_patterns("models", "group", ".work"))
    settings = ("--fold", 1, "--set", "training.max_epochs=1", "--set", "training.steps_per_epoch=2")
    messages = titan_neuro("train", output, "--devices", 2, *settings).stderr
    assert messages.count("is trained:") == len(list(output.glob("models/seed-0/fold-1/*/config.json"))) == 3
    stage = json.loads((output / "provenance.json").read_text())["stages"]["train seed-0 fold-1"]
    assert stage["processes"] == 2
