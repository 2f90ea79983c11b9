"""Training on small streams with a known answer, and what it writes down."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, write_run
from titan_neuro.errors import InputNotFoundError, MismatchError, TrainingError
from titan_neuro.layers.decoder import LowRankConfig
from titan_neuro.layers.tokenizer import ParcelTokenizerConfig
from titan_neuro.models import ForecasterConfig, LMMConfig, MACConfig, MAGConfig, MALConfig
from titan_neuro.training import FoldData, TrainingConfig, load_forecaster, require_match, train_fold

N_FEATURES = 8
SPACE = Space(kind="parcels", name="Toy", parcels=tuple(f"p{i}" for i in range(N_FEATURES)))
MODEL = ForecasterConfig(
    tokenizer=ParcelTokenizerConfig(n_tokens=1),
    backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_frame=1, segment_frames=16),
    horizons=(1, 2),
    decoder=LowRankConfig(rank=8),
)
QUICK = TrainingConfig(max_epochs=4, steps_per_epoch=20, window_frames=32, learning_rate=1e-2, patience=4)


def following(rng, n_frames):
    """Feature i + 1 shows at t + 1 what feature i showed at t: noise for each alone, plain for all together."""
    frames = rng.normal(size=(n_frames, N_FEATURES))
    for t in range(1, n_frames):
        frames[t, 1:] = 0.9 * frames[t - 1, :-1] + 0.4 * frames[t, 1:]
    return frames


def noise(rng, n_frames):
    return rng.normal(size=(n_frames, N_FEATURES))


@pytest.fixture
def make_fold(tmp_path):
    def make(signal, n_frames=200):
        runs = {}
        for number in range(4):
            frames = signal(np.random.default_rng(number), n_frames).astype(np.float32)
            header = RunHeader(
                key=f"sub-0{number}_task-x",
                entities={"subject": f"0{number}", "task": "x"},
                repetition_time=1.0,
                space=SPACE,
                scored=np.ones(n_frames, dtype=bool),
                record={"fingerprint": str(number), "normaliser": {"method": "none"}},
            )
            path = tmp_path / f"{signal.__name__}-{number}.zarr"
            write_run(path, header, [frames])
            runs[header.key] = RunStore(path).within(SPACE)
        keys = tuple(runs)
        return FoldData(fold=Fold(1, keys[:2], keys[2:3], keys[3:]), protocol="subject", space=SPACE, runs=runs)

    return make


@pytest.fixture
def train(tmp_path):
    def run(data, training=QUICK, name="fold-1", seed=0, model=MODEL):
        folder = tmp_path / name
        made = train_fold(data, model, training, folder=folder, work_dir=tmp_path / "work" / name, seed=seed)
        return folder, made

    return run


def test_what_one_feature_tells_of_another_is_learned(make_fold, train):
    data = make_fold(following)
    folder, made = train(data)
    model, record = load_forecaster(folder)
    assert made
    assert record["validation_skill_ar"] > 0.2
    # The run that nobody has seen: one frame ahead, against the linear skip alone.
    frames = data.runs[data.fold.test[0]].read(0, 200)
    forecasts, _ = model.step(frames, model.start())
    model.head.silence()
    linear, _ = model.step(frames, model.start())
    error, error_linear = ((frames[1:] - f[:-1, 0]).square().mean() for f in (forecasts, linear))
    assert error < 0.8 * error_linear
    table = pd.read_csv(folder / "training.csv")
    assert table["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert table["validation_skill_ar"][0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("backbone", [LMMConfig, MACConfig, MAGConfig, MALConfig])
def test_every_variant_trains_and_is_read_back(make_fold, train, backbone):
    data = make_fold(following)
    model = dataclasses.replace(MODEL, backbone=backbone(dim=16, n_layers=1, tokens_per_frame=1))
    quick = TrainingConfig(max_epochs=1, steps_per_epoch=4, window_frames=32, learning_rate=1e-2)
    read, record = load_forecaster(train(data, quick, model=model)[0])
    assert read.name == f"titan-{model.backbone.variant}"
    assert read.config == model
    assert record["config"]["backbone"]["variant"] == model.backbone.variant
    assert record["selected_epoch"] == 1


def test_where_nothing_is_to_be_learned_the_model_is_linear(make_fold, train):
    folder, _ = train(make_fold(noise))
    model, record = load_forecaster(folder)
    assert record["validation_skill_ar"] < 0.02
    if record["selected_epoch"] == 0:
        assert not model.head.patterns.any()


def test_the_same_seed_gives_the_same_weights_and_another_others(make_fold, train):
    data = make_fold(following)
    quick = TrainingConfig(max_epochs=1, steps_per_epoch=3, window_frames=32)
    one, again, other = (
        (train(data, quick, name, seed)[0] / "model.safetensors").read_bytes()
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert one == again != other


def test_a_trained_fold_is_left_until_something_changes(make_fold, train):
    data = make_fold(following)
    quick = TrainingConfig(max_epochs=1, steps_per_epoch=2, window_frames=32)
    folder, _ = train(data, quick)
    stamp = (folder / "model.json").stat().st_mtime_ns
    assert train(data, quick) == (folder, False)
    assert (folder / "model.json").stat().st_mtime_ns == stamp
    assert train(data, quick, seed=1)[1]


def test_a_loss_that_is_not_finite_stops_training(make_fold, train, tmp_path):
    data = make_fold(following)
    wild = TrainingConfig(max_epochs=2, steps_per_epoch=20, window_frames=32, learning_rate=1e30, gradient_clip=1e30)
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) in epoch 0") as caught:
        train(data, wild)
    assert "learning_rate" in caught.value.hint
    assert not (tmp_path / "fold-1").exists()


@pytest.fixture
def trained(make_fold, train):
    data = make_fold(following)
    return train(data, TrainingConfig(max_epochs=1, steps_per_epoch=2, window_frames=32))[0], data


def test_a_model_is_bound_to_its_data(trained):
    folder, data = trained
    _, record = load_forecaster(folder)
    require_match(record, data.identity(), "here")
    for field, value in (("repetition_time", 2.0), ("normaliser", {"method": "other"}), ("n_parcels", 9)):
        with pytest.raises(MismatchError, match=f"in {field}: expected .* found"):
            require_match(record, {**data.identity(), field: value}, "here")


def test_damaged_models_are_refused(trained, tmp_path):
    folder, _ = trained
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MismatchError, match="can't be read"):
        load_forecaster(folder)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors["head.patterns"] = torch.zeros(3, 3)
    save_file(tensors, weights)
    with pytest.raises(MismatchError, match=r"head\.patterns"):
        load_forecaster(folder)
    weights.write_bytes(whole)
    record = json.loads((folder / "model.json").read_text())
    # Another chunk shows in no shape, yet it is another model.
    other = {**record["config"], "backbone": {**record["config"]["backbone"]}}
    other["backbone"]["memory"] = {**other["backbone"]["memory"], "chunk_frames": 4}
    (folder / "model.json").write_text(json.dumps({**record, "config": other}))
    with pytest.raises(MismatchError, match=r"expected one of memory\.chunk_frames 4, found memory\.chunk_frames 8"):
        load_forecaster(folder)
    weights.unlink()
    with pytest.raises(MismatchError, match="can't be read"):
        load_forecaster(folder)
    (folder / "model.json").write_text(json.dumps({**record, "schema_version": 7}))
    with pytest.raises(MismatchError, match="found titan-neuro-forecaster 7"):
        load_forecaster(folder)
    with pytest.raises(InputNotFoundError, match="no trained model"):
        load_forecaster(tmp_path / "nowhere")


def test_a_model_explains_itself(trained):
    folder, data = trained
    record = json.loads((folder / "model.json").read_text())
    assert record["data"]["space"] == "Toy"
    assert record["data"]["repetition_time"] == 1.0
    assert record["test"] == list(data.fold.test)
    assert record["config"]["horizons"] == [1, 2]
    assert record["versions"]["torch"]
    assert record["n_parameters"] > 1000
