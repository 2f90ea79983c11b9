"""Killed, stopped, requeued, short of disk: the same command goes on, and comes to the same weights, bit for bit."""

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
from interrupted_training import TRAINING, outcome, start_training, train, write_store, write_stores

from titan_neuro.errors import MismatchError, OutputError
from titan_neuro.training.module import ForecastModule
from titan_neuro.training.resume import Checkpoints

N_KILLS = 30


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Stores, and an undisturbed training."""
    base = tmp_path_factory.mktemp("interruptions")
    write_stores(base / "stores")
    train(base / "undisturbed")
    return base


@pytest.fixture(scope="module")
def undisturbed(base):
    folder = base / "undisturbed/models/fold-1/titan-mac"
    # Weights of the last step, to which every step has led.
    assert json.loads((folder / "config.json").read_text())["metadata"]["selected_epoch"] == 2
    assert pd.read_csv(folder / "training.csv")["step"].tolist() == [0, 20, 39]
    return outcome(folder)


@pytest.fixture
def root(base, request):
    """An output folder of the test's own, beside the stores."""
    root = base / request.node.name.replace("[", "-").replace("]", "")
    root.mkdir()
    return root


def checkpoints(root: Path) -> list[Path]:
    """Of a training that is not over, the newest last."""
    return sorted(root.glob(".work/fold-1-*/step-*.ckpt"))


def stop_after(monkeypatch, n_steps: int) -> None:
    """Interrupt the training after so many answers of the callback: to the ends of steps and of epochs."""
    answer, left = Checkpoints._answer, [n_steps]

    def counted(self, trainer, wish, *, may_save=True):
        answer(self, trainer, wish, may_save=may_save)
        left[0] -= may_save
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "_answer", counted)


def stop(monkeypatch, root: Path, n_steps: int) -> list[Path]:
    """Train for so many steps, and return the checkpoints."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, n_steps)
        train(root)
    return checkpoints(root)


# Epochs of 20 and of 19 steps; the last step of each is answered for with its epoch.
@pytest.mark.parametrize("n_steps", [1, 10, 19, 20, 21, 38, 39])
def test_stopped_after_a_step_it_comes_to_the_same(root, undisturbed, monkeypatch, n_steps):
    assert stop(monkeypatch, root, n_steps)
    assert not (root / "models/fold-1/titan-mac/config.json").exists()
    assert outcome(train(root)) == undisturbed
    assert not list(root.glob(".work/fold-*"))


def test_what_the_streams_carry_is_needed_for_that(root, undisturbed, monkeypatch):
    """The comparison can tell: without the memory's state the weights are others."""
    stop(monkeypatch, root, 5)
    monkeypatch.setattr(ForecastModule, "_restored", lambda self, saved: None)
    assert outcome(train(root)) != undisturbed


def test_killed_at_any_moment_it_comes_to_the_same(base, undisturbed):
    seed = 7
    drawn, hits, roots = random.Random(seed), [], []
    took = [_seconds_of(base / f"timed-{number}") for number in range(2)][-1]
    while len(hits) < N_KILLS:
        if not roots or drawn.random() < 0.3:
            roots.append(base / f"killed-{len(roots)}")
            roots[-1].mkdir()
        process = start_training(roots[-1])
        process.join(timeout=drawn.uniform(0, 0.7 * took))
        if process.is_alive():
            fitted, saved = roots[-1].glob(".work/*.safetensors"), checkpoints(roots[-1])
            hits.append((len(list(fitted)), len(saved)))
            process.kill()
            process.join()
        else:
            assert process.exitcode == 0, (roots[-1] / "ended-with-0.txt").read_text()
    # It was killed before and after the closed form was fitted, and before and after checkpoints had been written.
    assert {0, 2} <= {fitted for fitted, _ in hits}, (seed, took, hits)
    assert {0, 2} <= {saved for _, saved in hits}, (seed, took, hits)
    for root in roots:
        assert outcome(train(root)) == undisturbed, (seed, root, hits)
        assert not [path for path in root.rglob("*") if path.suffix in {".tmp", ".ckpt"}]


def _seconds_of(root):
    root.mkdir()
    start = time.monotonic()
    process = start_training(root)
    process.join(timeout=120)
    assert process.exitcode == 0
    return time.monotonic() - start


def test_a_signal_to_end_saves_first(root, undisturbed):
    seldom = dataclasses.replace(TRAINING, checkpoint_every_s=1e6)
    process = start_training(root, seldom, pause_s=0.1)
    steps = root / "models/fold-1/titan-mac/logs/steps/version_0/metrics.csv"
    wait_for(lambda: steps.exists() and "gradient_norm" in steps.read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)
    assert (root / "ended-with-0.txt").read_text().startswith("KeyboardInterrupt")
    assert checkpoints(root)
    assert outcome(train(root, seldom)) == undisturbed


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.is_alive(), "it was over before its time"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_no_room_on_the_disk_while_saving(root, undisturbed, monkeypatch):
    kept = stop(monkeypatch, root, 5)
    before = {path: path.read_bytes() for path in kept}
    process = start_training(root, largest_file_bytes=kept[-1].stat().st_size // 2)
    process.join(timeout=60)
    said = (root / "ended-with-0.txt").read_text()
    assert said.startswith("OutputError")
    assert "step-0000006.ckpt: can't be written" in said
    assert "room" in said
    assert {path: path.read_bytes() for path in checkpoints(root)} == before
    assert not list(root.rglob("*.tmp"))
    assert outcome(train(root)) == undisturbed


@pytest.mark.parametrize("damage", ["cut", "spoilt", "both cut"])
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_taken(root, undisturbed, monkeypatch, caplog, damage):
    before, newest = stop(monkeypatch, root, 6)
    for path in (before, newest) if damage == "both cut" else (newest,):
        content = bytearray(path.read_bytes())
        if damage == "spoilt":
            with zipfile.ZipFile(path) as archive:
                largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
            content[content.index(largest) + len(largest) // 2] ^= 1
        path.write_bytes(content if damage == "spoilt" else content[: len(content) // 2])
    # What a process that was killed while it saved has left.
    newest.with_name(f".{newest.name}.0123abcd.tmp").write_bytes(b"half")
    with caplog.at_level(logging.INFO):
        assert outcome(train(root)) == undisturbed
    assert f"{newest} is damaged" in caplog.text
    assert not list(root.rglob("*.tmp"))
    assert (f"goes on from {before}" in caplog.text) == (damage != "both cut")


@pytest.mark.parametrize("fingerprint", ["0", "prepared otherwise"])
def test_a_store_that_changed_under_an_interrupted_training_is_refused(base, root, monkeypatch, fingerprint):
    shutil.copytree(base / "stores", root / "stores")
    output = root / "output"
    [*_, kept] = stop(monkeypatch, output, 5)
    write_store(root / "stores", 0, drawn=99, fingerprint=fingerprint)
    fitted = sorted(output.glob(".work/*.safetensors"))
    with pytest.raises(MismatchError, match="began on other data: sub-00_task-x was") as caught:
        train(output)
    assert sorted(output.glob(".work/*.safetensors")) == fitted
    assert "remove this folder" in caught.value.hint
    assert kept.exists()
    write_store(root / "stores", 0, drawn=0, fingerprint="0")
    train(output)


def test_two_trainings_in_one_folder_are_refused(root, undisturbed):
    process = start_training(root)
    wait_for(lambda: checkpoints(root), process)
    with pytest.raises(OutputError, match=f"is being trained already, by process {process.pid} on") as caught:
        train(root)
    assert "OUTPUT_DIR of its own" in caught.value.hint
    process.join(timeout=60)
    assert process.exitcode == 0
    assert outcome(root / "models/fold-1/titan-mac") == undisturbed


def test_what_a_requeue_has_left_is_gone_on_from(root, undisturbed, monkeypatch, caplog):
    earlier, newest = stop(monkeypatch, root, 6)
    earlier.unlink()
    requeued = newest.rename(newest.with_name("hpc_ckpt_1.ckpt"))
    with caplog.at_level(logging.INFO):
        assert outcome(train(root)) == undisturbed
    assert f"goes on from {requeued}" in caplog.text


@pytest.mark.parametrize("has_own", [True, False])
def test_what_a_requeue_of_another_run_has_left_is_not_picked_up(root, undisturbed, monkeypatch, caplog, has_own):
    """Lightning would load it on its own where Slurm's variables are set and nothing else is named."""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "titan-neuro")
    own = stop(monkeypatch, root, 4)
    other = root / "other"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 7)
        train(other, stores=root.parent / "stores", seed=4)
    [*_, foreign] = checkpoints(other)
    left = shutil.copy(foreign, own[-1].with_name("hpc_ckpt_7.ckpt"))
    for path in () if has_own else own:
        path.unlink()
    with caplog.at_level(logging.INFO):
        assert outcome(train(root)) == undisturbed
    assert f"{left} is of another training" in caplog.text
    assert ("goes on from" in caplog.text) == has_own


def test_what_another_program_has_left_is_not_picked_up(root, undisturbed, monkeypatch, caplog):
    """Of objects that are no tensors nothing is loaded, whatever they are."""
    own = stop(monkeypatch, root, 4)
    left = own[-1].with_name("hpc_ckpt_9.ckpt")
    torch.save({"a": Path("object")}, left)
    assert outcome(train(root)) == undisturbed
    assert f"{left} is of another training" in caplog.text


def test_damaged_weights_of_the_best_epoch_are_learned_again(root, undisturbed, monkeypatch, caplog):
    stop(monkeypatch, root, 30)
    [best] = root.glob(".work/fold-1-*/best-0001.ckpt")
    best.write_bytes(best.read_bytes()[:500])
    assert outcome(train(root)) == undisturbed
    assert "whose best weights, of epoch 1, are damaged" in caplog.text


def test_one_that_begins_anew_keeps_its_own_best_weights(root, undisturbed, monkeypatch, caplog):
    """Beside those of the training that was lost, whose epochs were later."""
    stop(monkeypatch, root, 39)
    [folder] = root.glob(".work/fold-1-*")
    for epoch in (8, 9):
        shutil.copy(folder / "best-0002.ckpt", folder / f"best-{epoch:04d}.ckpt")
    for path in checkpoints(root):
        path.write_bytes(b"")
    stop(monkeypatch, root, 20)
    assert (folder / "best-0001.ckpt").exists()
    caplog.clear()
    assert outcome(train(root)) == undisturbed
    assert "damaged" not in caplog.text


def test_one_that_had_decided_to_stop_learns_no_further(base, root, monkeypatch):
    """Killed between the decision and the model."""
    worse = dataclasses.replace(TRAINING, learning_rate=0.5, patience=1, max_epochs=4)
    expected = outcome(train(root / "undisturbed", worse, stores=base / "stores"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 39)
        train(root / "stopped", worse, stores=base / "stores")
    assert outcome(train(root / "stopped", worse, stores=base / "stores")) == expected
    # The second epoch was worse than the first: there is no third.
    assert len(pd.read_csv(root / "stopped/models/fold-1/titan-mac/training.csv")) == 3


def test_checkpoints_of_a_model_that_is_done_go_with_the_next_call(root, undisturbed, monkeypatch):
    """Killed when all was done but to tidy up."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        train(root)
    assert checkpoints(root)
    assert outcome(train(root)) == undisturbed
    assert not checkpoints(root)


def test_a_disk_that_fails_while_it_is_read_ends_the_training(root, monkeypatch):
    """The time points are read by a thread of their own; what it meets is not lost."""
    data = example.read_data(root.parent / "stores")
    view = type(data.runs[example.KEYS[0]])
    read, left = view.read, [40]

    def failing(self, start, stop):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        return read(self, start, stop)

    monkeypatch.setattr(view, "read", failing)
    with pytest.raises(OSError, match="Input/output error"):
        train(root)


def test_checkpoints_load_as_weights_alone(root, monkeypatch):
    [*_, newest] = stop(monkeypatch, root, 5)
    content = torch.load(newest, weights_only=True)
    assert content["global_step"] == 5
    assert {"streams", "random_state", "optimizer_states", "history", "identity"} <= content.keys()
