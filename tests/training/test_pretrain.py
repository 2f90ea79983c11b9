"""Pre-training on masked volumes: hidden cubes, loss, and runs that are read."""

import dataclasses
import logging
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from titan_neuro.errors import ConfigError, TrainingError
from titan_neuro.files import write_bytes
from titan_neuro.forecaster.tokenizers import SwinTokenizer
from titan_neuro.study import load_study
from titan_neuro.training import PretrainingConfig, TrainingConfig, load_forecaster, pretrain, train_fold
from titan_neuro.training.masked_volumes import MaskedVolumes, RandomVolumes
from titan_neuro.training.resume import expect_time_limit

QUICK = PretrainingConfig(n_epochs=2, steps_per_epoch=3, batch_volumes=8, channels=4)


def masked(fold, model, config=QUICK):
    torch.manual_seed(0)
    tokenizer = SwinTokenizer(model.tokenizer, torch.from_numpy(fold.space.mask), dim=1)
    return MaskedVolumes(tokenizer, model.tokenizer, config)


@pytest.mark.parametrize(("fraction", "mask_patches"), [(0.25, 1), (0.6, 1), (0.6, 2)])
def test_each_volume_hides_the_same_fraction(volume_fold, volume_model, fraction, mask_patches):
    module = masked(
        volume_fold, volume_model, dataclasses.replace(QUICK, mask_fraction=fraction, mask_patches=mask_patches)
    )
    hidden = module.draw_hidden(50, seed=0)
    cubes = np.argwhere(volume_fold.space.mask) // (volume_model.tokenizer.patch_size * mask_patches)
    unique_cubes, cube_of_voxel = np.unique(cubes, axis=0, return_inverse=True)
    for volume in hidden.numpy():
        of_cube = [set(volume[cube_of_voxel.ravel() == cube].tolist()) for cube in range(len(unique_cubes))]
        assert all(len(values) == 1 for values in of_cube)
        assert sum(values == {True} for values in of_cube) == round(fraction * len(unique_cubes))
    assert hidden.float().mean(0).sub(fraction).abs().max() < 0.3
    assert torch.equal(hidden, module.draw_hidden(50, seed=0))
    assert not torch.equal(hidden, module.draw_hidden(50, seed=1))


def test_hidden_voxels_do_not_reach_the_encoder(volume_fold, volume_model):
    module = masked(volume_fold, volume_model)
    torch.nn.init.normal_(module.decoder.to_voxels.weight)
    series = volume_fold.runs["sub-00_task-x"].read(0, 8)
    hidden = module.draw_hidden(8, seed=0)
    other = torch.where(hidden, series + 3, series)
    assert torch.equal(module.reconstruct(series, hidden), module.reconstruct(other, hidden))
    other = torch.where(hidden, series, series + 3)
    assert not torch.equal(module.reconstruct(series, hidden), module.reconstruct(other, hidden))


def test_the_loss_is_that_of_hidden_voxels(volume_fold, volume_model):
    module = masked(volume_fold, volume_model)
    module.log = lambda *_arguments, **_options: None
    series = volume_fold.runs["sub-00_task-x"].read(0, 8)
    # A new decoder predicts 0 everywhere.
    hidden = module.draw_hidden(8, seed=0)
    assert module.training_step(series, 0).item() == pytest.approx(series[hidden].square().mean().item(), rel=1e-6)


def test_gradients_reach_the_swin_and_the_hidden_patch(volume_fold, volume_model):
    module = masked(volume_fold, volume_model)
    torch.nn.init.normal_(module.decoder.to_voxels.weight)
    series = volume_fold.runs["sub-00_task-x"].read(0, 8)
    module.reconstruct(series, module.draw_hidden(8, seed=0)).square().mean().backward()
    optimized = {
        id(value) for group in module.configure_optimizers()["optimizer"].param_groups for value in group["params"]
    }
    reached = {id(value) for value in module.parameters() if value.grad is not None}
    assert reached == optimized
    assert module.hidden_patch.grad.any()


def test_hidden_voxels_are_reconstructed(volume_fold, volume_model, tmp_path, caplog):
    config = dataclasses.replace(
        QUICK, n_epochs=3, steps_per_epoch=30, batch_volumes=32, learning_rate=1e-2, channels=8
    )
    with caplog.at_level(logging.INFO):
        pretrain.pretrain_swin(volume_fold, volume_model.tokenizer, config, work_dir=tmp_path, seed=0)
    losses = [float(loss) for loss in caplog.messages[-1].rstrip(".").rpartition(": ")[2].split(", ")]
    assert len(losses) == 3
    # The prediction 0 has the variance as its error.
    variance = float(np.mean([run.read(5, 90).square().mean() for run in volume_fold.select(volume_fold.fold.train)]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.35 * variance


def test_batches_are_random_scored_volumes(volume_fold):
    runs = volume_fold.select(volume_fold.fold.train)
    batches = RandomVolumes(runs, batch_volumes=10, n_batches=30, seed=0)
    place_of = {
        tuple(time_point): (run.key, t)
        for run in runs
        for t, time_point in enumerate(run.read(0, run.n_time_points).tolist())
    }
    places = [
        [place_of[tuple(time_point)] for time_point in batch.tolist()]
        for batch in (batches[i] for i in range(len(batches)))
    ]
    assert all(len(batch) == 10 for batch in places)
    assert {key for batch in places for key, _ in batch} == {run.key for run in runs}
    assert min(t for batch in places for _, t in batch) >= 5
    assert max(t for batch in places for _, t in batch) == 89
    assert torch.equal(batches[3], RandomVolumes(runs, batch_volumes=10, n_batches=30, seed=0)[3])
    assert not torch.equal(batches[3], RandomVolumes(runs, batch_volumes=10, n_batches=30, seed=1)[3])


def test_only_training_runs_are_read_and_only_once(volume_fold, volume_model, tmp_path, monkeypatch):
    work, read = tmp_path / "work", []
    for key, run in volume_fold.runs.items():
        monkeypatch.setattr(run, "read", lambda *span, key=key, run=run: read.append(key) or type(run).read(run, *span))
    weights = pretrain.pretrain_swin(volume_fold, volume_model.tokenizer, QUICK, work_dir=work, seed=0)
    assert set(read) == set(volume_fold.fold.train)
    read.clear()
    frozen = dataclasses.replace(volume_model.tokenizer, frozen=True)
    again = pretrain.pretrain_swin(volume_fold, frozen, QUICK, work_dir=work, seed=0)
    assert not read
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    [path] = (path for path in work.iterdir() if path.name != "locks")
    write_bytes(path, path.read_bytes()[:100])
    pretrain.pretrain_swin(volume_fold, frozen, QUICK, work_dir=work, seed=0)
    assert read
    assert all(torch.equal(weights[name], value) for name, value in load_file(path).items())
    pretrain.pretrain_swin(volume_fold, frozen, QUICK, work_dir=work, seed=1)
    assert len(list(work.glob("*.safetensors"))) == 2


def test_an_interrupted_pretraining_resumes(volume_fold, volume_model, tmp_path, monkeypatch):
    def run(work_dir):
        return pretrain.pretrain_swin(volume_fold, volume_model.tokenizer, QUICK, work_dir=work_dir, seed=0)

    whole = run(tmp_path / "whole")
    step, epochs = MaskedVolumes.training_step, []

    def interrupted(module, series, index):
        epochs.append(module.current_epoch)
        if len(epochs) == 5:
            raise OSError("the power is gone")
        return step(module, series, index)

    monkeypatch.setattr(MaskedVolumes, "training_step", interrupted)
    with pytest.raises(OSError, match="power"):
        run(tmp_path / "cut")
    cut = run(tmp_path / "cut")
    assert epochs == [0, 0, 0, 1, 1, 1, 1, 1]
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_loss_that_is_not_finite_stops_pretraining(volume_fold, volume_model, tmp_path):
    diverging = dataclasses.replace(QUICK, learning_rate=1e30, gradient_clip=1e30, steps_per_epoch=20)
    with pytest.raises(TrainingError, match=r"The loss of pre-training is (nan|inf) in epoch 0"):
        pretrain.pretrain_swin(volume_fold, volume_model.tokenizer, diverging, work_dir=tmp_path, seed=0)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_forecaster_starts_from_the_pretrained_swin(volume_fold, volume_model, tmp_path, frozen):
    tokenizer = dataclasses.replace(volume_model.tokenizer, frozen=frozen)
    model = dataclasses.replace(volume_model, tokenizer=tokenizer)
    training = TrainingConfig(
        max_epochs=1, steps_per_epoch=2, window_time_points=16, learning_rate=0.3, pretraining=QUICK
    )
    train_fold(volume_fold, model, training, folder=tmp_path / "model", work_dir=tmp_path / "work", seed=0)
    read, record = load_forecaster(tmp_path / "model")
    # Two such large steps increase the error: epoch 0 is selected.
    assert record["selected_epoch"] == 0
    started = read.tokenizer.swin.state_dict()
    weights = load_file(next((tmp_path / "work").glob("swin-*.safetensors")))
    assert weights and all(torch.equal(value, started[name]) for name, value in weights.items())
    assert all(parameter.requires_grad is not frozen for parameter in read.tokenizer.swin.parameters())


def test_frozen_swin_and_pretraining_need_each_other(volume_fold, volume_model, tmp_path):
    frozen = {"model": {"tokenizer": {"frozen": True}}}
    with pytest.raises(ConfigError, match=r"frozen is true, but the Swin is not pre-trained") as caught:
        load_study(default_preset="debug", overrides=[frozen])
    assert "training.pretraining" in caught.value.hint
    study = load_study(
        default_preset="debug", overrides=[frozen, {"training": {"pretraining": {"mask_fraction": 0.5}}}]
    )
    assert study.training.pretraining == PretrainingConfig(mask_fraction=0.5)
    with pytest.raises(ConfigError, match=r"model\.tokenizer\.kind is linear"):
        load_study(default_preset="parcels", overrides=[{"training": {"pretraining": {}, "max_epochs": 1}}])
    model = dataclasses.replace(volume_model, tokenizer=dataclasses.replace(volume_model.tokenizer, frozen=True))
    with pytest.raises(ConfigError, match="the Swin is not pre-trained"):
        train_fold(volume_fold, model, TrainingConfig(), folder=tmp_path / "m", work_dir=tmp_path, seed=0)


def test_the_time_limit_signal_requeues_the_job(volume_fold, volume_model, tmp_path, monkeypatch):
    """The next job resumes at the last epoch."""
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    before = signal.getsignal(signal.SIGUSR1)
    expect_time_limit()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain_swin(volume_fold, volume_model.tokenizer, QUICK, work_dir=tmp_path / "work", seed=0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert calls.read_text() == "requeue 17\n"
    monkeypatch.delenv("SLURM_JOB_ID")
    pretrain.pretrain_swin(volume_fold, volume_model.tokenizer, QUICK, work_dir=tmp_path / "work", seed=0)
