"""Interrupted trainings (killed, stopped, requeued, disk full) resume and end with the same weights, bit for bit."""

import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import time
import zipfile
from pathlib import Path

import interrupted_training as example
import pandas as pd
import pytest
import torch
from interrupted_training import (
    MODEL_FOLDER,
    N_STEPS,
    TRAINING,
    outcome,
    start_training,
    train,
    write_store,
    write_stores,
)

from titan_neuro.errors import OutputError
from titan_neuro.training.module import ForecastModule
from titan_neuro.training.resume import TIME_LIMIT, Checkpoints, ignore_time_limit


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Stores, and an undisturbed training."""
    base = tmp_path_factory.mktemp("interruptions")
    write_stores(base / "stores")
    train(base / "undisturbed")
    return base


@pytest.fixture(scope="module")
def undisturbed(base):
    folder = base / "undisturbed" / MODEL_FOLDER
    # The weights are those of the last step, which depend on every step.
    assert json.loads((folder / "config.json").read_text())["metadata"]["selected_epoch"] == 2
    assert pd.read_csv(folder / "training.csv")["step"].tolist() == [0, N_STEPS, 2 * N_STEPS]
    return outcome(folder)


def checkpoints(root: Path) -> list[Path]:
    """Checkpoints of an unfinished training, the newest last."""
    return sorted(root.glob(".work/fold-1-*/step-*.ckpt"))


def stop_after(monkeypatch, n_steps: int) -> None:
    """Interrupt the training after `n_steps`; the last step of an epoch ends with its validation."""
    act, remaining = Checkpoints._act, [n_steps]

    def counted(self, trainer, action, *, may_save=True):
        act(self, trainer, action, may_save=may_save)
        remaining[0] -= may_save
        if remaining[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "_act", counted)


def stop(monkeypatch, root: Path, n_steps: int) -> list[Path]:
    """Train for `n_steps`, and return the checkpoints."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, n_steps)
        train(root)
    return checkpoints(root)


def test_a_closed_form_without_epochs_is_stopped_and_made_again(root, monkeypatch):
    """It has no step to save: what is repeated is its validation."""
    closed_form_alone = dataclasses.replace(TRAINING, max_epochs=0)
    undisturbed = outcome(train(root / "undisturbed", closed_form_alone, stores=root.parent / "stores"))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "on_validation_batch_end", interrupt)
        train(root, closed_form_alone)
    assert not (root / MODEL_FOLDER / "config.json").exists() and not checkpoints(root)
    assert outcome(train(root, closed_form_alone)) == undisturbed
    assert not list(root.glob(".work/fold-1-*"))


def test_a_signal_that_comes_too_late_is_ignored_until_the_process_has_ended(monkeypatch):
    """A handler of our own would not do: the interpreter takes it back before it ends."""
    before = signal.getsignal(TIME_LIMIT)
    try:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        ignore_time_limit()
        assert signal.getsignal(TIME_LIMIT) == before
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        ignore_time_limit()
        assert signal.getsignal(TIME_LIMIT) == signal.SIG_IGN
    finally:
        signal.signal(TIME_LIMIT, before)


@pytest.mark.parametrize("n_steps", [1, N_STEPS - 1, N_STEPS, N_STEPS + 1, 2 * N_STEPS])
def test_stopped_after_a_step_it_resumes(root, undisturbed, monkeypatch, n_steps):
    assert stop(monkeypatch, root, n_steps)
    assert not (root / MODEL_FOLDER / "config.json").exists()
    assert outcome(train(root)) == undisturbed
    assert not list(root.glob(".work/fold-*"))


def test_weights_depend_on_the_saved_streams(root, undisturbed, monkeypatch):
    """The comparison is sensitive: without the state of the streams the weights differ."""
    stop(monkeypatch, root, 3)
    monkeypatch.setattr(ForecastModule, "_restore_streams", lambda self, saved: None)
    assert outcome(train(root)) != undisturbed


@pytest.mark.parametrize("n_kills", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_time_it_resumes(base, undisturbed, n_kills):
    """Killed at times spread evenly over a training, with the rest of each training in a random number of parts."""
    seed = 7
    rng, hits, roots = random.Random(seed), [], []
    duration_s = _duration_s(base / f"timed-{n_kills}")
    for number in range(n_kills):
        if not roots or rng.random() < 0.3:
            roots.append(base / f"killed-{n_kills}-{number}")
            roots[-1].mkdir()
        process = start_training(roots[-1])
        process.join(timeout=0.9 * duration_s * (number + rng.random()) / n_kills)
        if process.is_alive():
            hits.append(len(checkpoints(roots[-1])))
            process.kill()
            process.join()
        else:
            assert process.exitcode == 0, (roots[-1] / "ended-with-0.txt").read_text()
    # Some were killed before the first checkpoint, and some after.
    assert 0 in hits and max(hits) > 0, (seed, duration_s, hits)
    for root in roots:
        assert outcome(train(root)) == undisturbed, (seed, root, hits)
        assert not [path for path in root.rglob("*") if path.suffix in {".tmp", ".ckpt"}]


def _duration_s(root):
    root.mkdir()
    # The first process also starts the server from which all are forked.
    start_training(root).join(timeout=120)
    shutil.rmtree(root)
    root.mkdir()
    start = time.monotonic()
    process = start_training(root)
    process.join(timeout=120)
    assert process.exitcode == 0
    return time.monotonic() - start


def test_sigterm_saves_first(root, undisturbed):
    seldom = dataclasses.replace(TRAINING, checkpoint_every_s=1e6)
    process = start_training(root, seldom, pause_s=0.1)
    steps = root / MODEL_FOLDER / "logs/steps/version_0/metrics.csv"
    wait_for(lambda: steps.exists() and "gradient_norm" in steps.read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)
    assert (root / "ended-with-0.txt").read_text().startswith("KeyboardInterrupt")
    assert checkpoints(root)
    assert outcome(train(root, seldom)) == undisturbed


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.is_alive(), "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_full_disk_keeps_earlier_checkpoints(root, undisturbed, monkeypatch):
    earlier = stop(monkeypatch, root, 3)
    before = {path: path.read_bytes() for path in earlier}
    process = start_training(root, largest_file_bytes=earlier[-1].stat().st_size // 2)
    process.join(timeout=60)
    message = (root / "ended-with-0.txt").read_text()
    assert message.startswith("OutputError")
    assert "step-0000004.ckpt: can't be written" in message
    assert "room" in message
    assert {path: path.read_bytes() for path in checkpoints(root)} == before
    assert not list(root.rglob("*.tmp"))
    assert outcome(train(root)) == undisturbed


@pytest.mark.parametrize("damage", ["cut", "changed", "both cut"])
def test_damaged_checkpoints_are_not_used(root, undisturbed, monkeypatch, caplog, damage):
    before, newest = stop(monkeypatch, root, 4)
    for path in (before, newest) if damage == "both cut" else (newest,):
        content = bytearray(path.read_bytes())
        if damage == "changed":
            with zipfile.ZipFile(path) as archive:
                largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
            content[content.index(largest) + len(largest) // 2] ^= 1
        path.write_bytes(content if damage == "changed" else content[: len(content) // 2])
    # A process that was killed while it saved leaves such a file.
    newest.with_name(f".{newest.name}.0123abcd.tmp").write_bytes(b"half")
    with caplog.at_level(logging.INFO):
        assert outcome(train(root)) == undisturbed
    assert f"{newest} is damaged" in caplog.text
    assert not list(root.rglob("*.tmp"))
    assert (f"resumes from {before}" in caplog.text) == (damage != "both cut")


@pytest.mark.parametrize("fingerprint", ["0", "prepared otherwise"])
def test_changed_data_are_trained_from_the_start(base, root, monkeypatch, caplog, fingerprint):
    shutil.copytree(base / "stores", root / "stores")
    output = root / "output"
    [*_, newest] = stop(monkeypatch, output, 3)
    write_store(root / "stores", 0, seed=99, fingerprint=fingerprint)
    expected = outcome(train(root / "undisturbed", stores=root / "stores"))
    with caplog.at_level(logging.INFO):
        assert outcome(train(output)) == expected
    assert f"{newest} is of a training of other data (sub-00_task-x changed)" in caplog.text
    assert "resumes from" not in caplog.text


def test_a_second_training_in_one_folder_is_refused(root, undisturbed):
    process = start_training(root, pause_s=0.05)
    wait_for(lambda: checkpoints(root), process)
    holder = rf"\S+ on \S+, process {process.pid}, since \d\d:\d\d"
    with pytest.raises(OutputError, match=rf"is being trained already, by {holder}\.") as caught:
        train(root)
    assert "another OUTPUT_DIR" in caught.value.hint
    process.join(timeout=60)
    assert process.exitcode == 0
    assert outcome(root / MODEL_FOLDER) == undisturbed


def test_the_checkpoint_of_a_requeue_is_used(root, undisturbed, monkeypatch, caplog):
    earlier, newest = stop(monkeypatch, root, 4)
    earlier.unlink()
    requeued = newest.rename(newest.with_name("hpc_ckpt_1.ckpt"))
    with caplog.at_level(logging.INFO):
        assert outcome(train(root)) == undisturbed
    assert f"resumes from {requeued}" in caplog.text


@pytest.mark.parametrize("has_own", [True, False])
def test_the_checkpoint_of_another_training_is_not_used(root, undisturbed, monkeypatch, caplog, has_own):
    """Lightning would load it by itself where Slurm's variables are set and no checkpoint is given."""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "titan-neuro")
    own = stop(monkeypatch, root, 3)
    other = root / "other"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 5)
        train(other, stores=root.parent / "stores", seed=4)
    [*_, foreign] = checkpoints(other)
    copied = shutil.copy(foreign, own[-1].with_name("hpc_ckpt_7.ckpt"))
    for path in () if has_own else own:
        path.unlink()
    with caplog.at_level(logging.INFO):
        assert outcome(train(root)) == undisturbed
    assert f"{copied} is of another training" in caplog.text
    assert ("resumes from" in caplog.text) == has_own


def test_the_checkpoint_of_another_program_is_not_used(root, undisturbed, monkeypatch, caplog):
    """Objects other than tensors and plain values are never loaded."""
    own = stop(monkeypatch, root, 3)
    foreign = own[-1].with_name("hpc_ckpt_9.ckpt")
    torch.save({"a": Path("object")}, foreign)
    assert outcome(train(root)) == undisturbed
    assert f"{foreign} is of another training" in caplog.text


def test_damaged_best_weights_are_trained_again(root, undisturbed, monkeypatch, caplog):
    stop(monkeypatch, root, N_STEPS + 5)
    [best] = root.glob(".work/fold-1-*/best-0001.ckpt")
    best.write_bytes(best.read_bytes()[:500])
    assert outcome(train(root)) == undisturbed
    assert "whose best weights, of epoch 1, are damaged" in caplog.text


def test_a_restarted_training_keeps_its_own_best_weights(root, undisturbed, monkeypatch, caplog):
    """Best weights of a lost training, with higher epochs, lie in the same folder."""
    stop(monkeypatch, root, 2 * N_STEPS)
    [folder] = root.glob(".work/fold-1-*")
    for epoch in (8, 9):
        shutil.copy(folder / "best-0002.ckpt", folder / f"best-{epoch:04d}.ckpt")
    for path in checkpoints(root):
        path.write_bytes(b"")
    stop(monkeypatch, root, N_STEPS)
    assert (folder / "best-0001.ckpt").exists()
    caplog.clear()
    assert outcome(train(root)) == undisturbed
    assert "damaged" not in caplog.text


def test_a_decision_to_stop_early_survives_a_kill(base, root, monkeypatch):
    # The learning rate grows until epoch 2, and is then far too large.
    worse = dataclasses.replace(TRAINING, learning_rate=1.0, warmup_fraction=0.6, patience=1, max_epochs=4)
    expected = outcome(train(root / "undisturbed", worse, stores=base / "stores"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2 * N_STEPS)
        train(root / "stopped", worse, stores=base / "stores")
    assert outcome(train(root / "stopped", worse, stores=base / "stores")) == expected
    # The second epoch was worse than the first: there is no third.
    assert len(pd.read_csv(root / "stopped" / MODEL_FOLDER / "training.csv")) == 3


def test_checkpoints_of_a_finished_model_are_removed(root, undisturbed, monkeypatch):
    """A process was killed after it wrote the model."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        train(root)
    assert checkpoints(root)
    assert outcome(train(root)) == undisturbed
    assert not checkpoints(root)


def test_a_disk_error_while_reading_ends_the_training(root, monkeypatch):
    """Windows are read by another thread; its errors reach the training."""
    data = example.read_data(root.parent / "stores")
    view = type(data.runs[example.KEYS[0]])
    read, remaining = view.read, [20]

    def failing(self, start, stop):
        remaining[0] -= 1
        if remaining[0] < 0:
            raise OSError(5, "Input/output error")
        return read(self, start, stop)

    monkeypatch.setattr(view, "read", failing)
    with pytest.raises(OSError, match="Input/output error"):
        train(root)


def test_checkpoints_load_without_pickled_objects(root, monkeypatch):
    [*_, newest] = stop(monkeypatch, root, 3)
    content = torch.load(newest, weights_only=True)
    assert content["global_step"] == 3
    assert {"streams", "random_state", "optimizer_states", "history", "identity"} <= content.keys()
