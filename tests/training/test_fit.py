"""Training on small runs with a known ground truth, and the files that it writes."""

import dataclasses
import json
import logging
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_folds import read_small_fold, write_small_run

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, RunView, write_run
from titan_neuro.errors import InputNotFoundError, MismatchError, TrainingError
from titan_neuro.forecaster import ForecasterConfig, LookaheadConfig, RecallConfig, match_comparison_models
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.linear.autoregression import fit_autoregression
from titan_neuro.titans.models import GRUConfig, LMMConfig, MACConfig, MAGConfig, MALConfig, TransformerConfig
from titan_neuro.training import FoldData, TrainingConfig, closed_form, load_forecaster, require_match, train_fold
from titan_neuro.training.checkpoint import read_record
from titan_neuro.training.fold import data_identity

N_FEATURES = 8
SPACE = Space(kind="parcels", name="Toy", parcels=tuple(f"p{i}" for i in range(N_FEATURES)))
MODEL = ForecasterConfig(
    tokenizer=LinearTokenizerConfig(n_tokens=1),
    backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1, segment_time_points=16),
    recall=None,
    horizons=(1, 2),
    decoder=LowRankConfig(rank=8),
)
QUICK = TrainingConfig(max_epochs=2, steps_per_epoch=20, window_time_points=32, learning_rate=1e-2)
TINY = TrainingConfig(max_epochs=1, steps_per_epoch=2, window_time_points=32)
N_TIME_POINTS = 200


def coupled(rng):
    """Feature i + 1 follows feature i by one time point: unpredictable from its own past, predictable from all."""
    series = rng.normal(size=(N_TIME_POINTS, N_FEATURES))
    for t in range(1, N_TIME_POINTS):
        series[t, 1:] = 0.9 * series[t - 1, :-1] + 0.4 * series[t, 1:]
    return series


def noise(rng):
    return rng.normal(size=(N_TIME_POINTS, N_FEATURES))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of four runs of each signal."""
    folder = tmp_path_factory.mktemp("stores")
    for signal in (coupled, noise):
        for number in range(4):
            series = signal(np.random.default_rng(number)).astype(np.float32)
            write_small_run(folder / f"{signal.__name__}-{number}.zarr", number, series, SPACE)
    return folder


def read_fold(stores, signal=coupled):
    return read_small_fold([stores / f"{signal.__name__}-{number}.zarr" for number in range(4)], SPACE)


@pytest.fixture
def data(stores):
    return read_fold(stores)


@pytest.fixture
def train(tmp_path):
    def run(data, training=QUICK, name="fold-1", seed=0, model=MODEL):
        folder = tmp_path / name
        is_new = train_fold(data, model, training, folder=folder, work_dir=tmp_path / f"work-{name}", seed=seed)
        return folder, is_new

    return run


@pytest.fixture(scope="module")
def trained_models(stores, tmp_path_factory):
    """Folders of the model and its comparison models, by name, and the runs of each fit of the linear skip."""
    root, fits = tmp_path_factory.mktemp("models"), []

    def counted(runs, horizons, **options):
        fits.append([run.key for run in runs])
        return fit_autoregression(runs, horizons, **options)

    data = read_fold(stores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "fit_autoregression", counted)
        for model in (MODEL, *match_comparison_models(MODEL, n_features=N_FEATURES)):
            folder = root / model.backbone.name
            assert train_fold(data, model, QUICK, folder=folder, work_dir=root / "work", seed=0)
    return {name: root / name for name in ("titan-mac", "gru", "transformer-20")}, fits


@pytest.fixture
def trained(trained_models, tmp_path):
    """A copy of the trained model's folder."""
    return shutil.copytree(trained_models[0]["titan-mac"], tmp_path / "copy")


def test_coupled_features_are_forecast(trained, data):
    model, record = load_forecaster(trained)
    assert record["validation_skill_ar"] > 0.2
    # The test run: one time point ahead, relative to the linear skip.
    series = data.runs[data.fold.test[0]].read(0, N_TIME_POINTS)
    forecasts, _ = model.step(series, model.init_state())
    torch.nn.init.zeros_(model.decoder.patterns)
    linear, _ = model.step(series, model.init_state())
    error, error_linear = ((series[1:] - f[:-1, 0]).square().mean() for f in (forecasts, linear))
    assert error < 0.8 * error_linear
    table = pd.read_csv(trained / "training.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["validation_skill_ar"][0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rule", ["exact", "titans"])
def test_without_epochs_the_closed_form_is_the_model_of_every_seed(data, train, rule, caplog):
    """Seeds draw the weights of the blocks, which enter no forecast."""
    caplog.set_level(logging.INFO, "titan_neuro")
    lookahead = LookaheadConfig(n_lags=2, n_components=4, key_width=16, rule=rule)
    model = dataclasses.replace(MODEL, recall=RecallConfig(width=8, n_components=4), lookahead=lookahead)
    closed_form_alone = dataclasses.replace(TINY, max_epochs=0)
    forecasts = []
    for seed in (0, 1):
        folder, is_new = train(data, closed_form_alone, name=f"seed-{seed}", seed=seed, model=model)
        assert is_new and not train(data, closed_form_alone, name=f"seed-{seed}", seed=seed, model=model)[1]
        table = pd.read_csv(folder / "training.csv")
        assert (table["epoch"].tolist(), table["step"].tolist()) == ([0], [0])
        loaded, record = load_forecaster(folder)
        assert record["selected_epoch"] == 0
        assert record["validation_skill_ar"] == pytest.approx(table["validation_skill_ar"][0])
        assert not list(folder.parent.glob("work-*/fold-*"))
        forecasts.append(loaded.step(data.runs[data.fold.test[0]].read(0, N_TIME_POINTS))[0])
    assert torch.equal(*forecasts)
    assert caplog.text.count("The closed form alone, without an epoch: skill") == 2


@pytest.mark.parametrize("backbone", [LMMConfig, MAGConfig, MALConfig, GRUConfig, TransformerConfig])
def test_every_backbone_trains_and_loads(data, train, backbone):
    model = dataclasses.replace(MODEL, backbone=backbone(dim=16, n_layers=1, tokens_per_time_point=1))
    quick = dataclasses.replace(TINY, steps_per_epoch=4, learning_rate=1e-2)
    loaded, record = load_forecaster(train(data, quick, model=model)[0])
    names = {"gru": "gru", "transformer": "transformer-20"}
    assert loaded.name == names.get(model.backbone.variant, f"titan-{model.backbone.variant}")
    assert loaded.config == model
    assert record["config"]["backbone"]["variant"] == model.backbone.variant
    assert record["selected_epoch"] == 1


def test_comparison_models_learn_and_share_the_linear_skip(trained_models, data):
    folders, fits = trained_models
    loaded = [load_forecaster(folder) for folder in folders.values()]
    assert [model.name for model, _ in loaded] == list(folders)
    assert all(record["validation_skill_ar"] > 0.2 for _, record in loaded)
    sizes = [record["n_parameters"] for _, record in loaded]
    assert max(sizes) < 1.05 * min(sizes)
    assert fits == [[*data.fold.train, *data.fold.validation]]
    for model, _ in loaded[1:]:
        assert torch.equal(model.linear_skip.coefficients, loaded[0][0].linear_skip.coefficients)
        assert torch.equal(model.linear_skip.intercept, loaded[0][0].linear_skip.intercept)


def test_a_model_of_noise_stays_linear(stores, train):
    folder, _ = train(read_fold(stores, noise), dataclasses.replace(QUICK, steps_per_epoch=5))
    model, record = load_forecaster(folder)
    assert record["validation_skill_ar"] < 0.02
    if record["selected_epoch"] == 0:
        assert not model.decoder.patterns.any()


def test_weights_follow_from_the_seed(data, train):
    one, again, other = (
        (train(data, TINY, name, seed)[0] / "model.safetensors").read_bytes()
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert one == again != other


def test_a_trained_fold_is_not_trained_again(data, train):
    folder, _ = train(data, TINY)
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert train(data, TINY) == (folder, False)
    assert (folder / "config.json").stat().st_mtime_ns == stamp
    assert train(data, TINY, seed=1)[1]


def test_a_loss_that_is_not_finite_stops_training(data, train, tmp_path):
    diverging = dataclasses.replace(QUICK, learning_rate=1e30, gradient_clip=1e30)
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) in epoch 0") as caught:
        train(data, diverging)
    assert "learning_rate" in caught.value.hint
    assert sorted(path.name for path in (tmp_path / "fold-1").iterdir()) == [".lock", "logs"]


class FailingView(RunView):
    """A run that reads as NaN after some readings, as from a failing disk."""

    readings_left = float("inf")

    def read(self, start, stop):
        self.readings_left -= 1
        series = super().read(start, stop)
        return series if self.readings_left >= 0 else torch.full_like(series, float("nan"))


INTERRUPTED = dataclasses.replace(QUICK, steps_per_epoch=14)


@pytest.fixture(scope="module")
def uninterrupted_weights(stores, tmp_path_factory):
    root = tmp_path_factory.mktemp("uninterrupted")
    train_fold(read_fold(stores), MODEL, INTERRUPTED, folder=root / "model", work_dir=root / "work", seed=0)
    return (root / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("part", "readings", "message"),
    [
        ("train", 20, r"The loss is nan in epoch 1, step \d"),
        ("validation", 17, "The validation error is nan in epoch 1"),
    ],
)
def test_training_resumes_from_the_last_good_epoch(
    data, train, tmp_path, uninterrupted_weights, part, readings, message
):
    failing = FailingView(data.runs[getattr(data.fold, part)[0]].store, SPACE)
    data = dataclasses.replace(data, runs={**data.runs, failing.key: failing})
    closed_form.fitted_linear_skip(data, MODEL.horizons, work_dir=tmp_path / "work-fold-1")
    failing.readings_left = readings
    with pytest.raises(TrainingError, match=message) as caught:
        train(data, INTERRUPTED)
    [checkpoint] = (tmp_path / "work-fold-1").glob("*/step-*.ckpt")
    hint = f"The last good checkpoint is kept, and the same command resumes from it: {checkpoint.parent}."
    assert hint in caught.value.hint
    content = torch.load(checkpoint, weights_only=True)
    assert [row["epoch"] for row in content["history"]] == [0, 1]
    assert all(value.isfinite().all() for value in content["state_dict"].values() if value.is_floating_point())
    failing.readings_left = float("inf")
    resumed, _ = train(data, INTERRUPTED)
    assert pd.read_csv(resumed / "training.csv")["epoch"].tolist() == [0, 1, 2]
    assert (resumed / "model.safetensors").read_bytes() == uninterrupted_weights


@pytest.mark.parametrize(
    ("protocol", "parts", "found"),
    [
        ("subject", [(0,), (1,), (2, 3)], "no subject in both train and test, found 00"),
        ("subject", [(0,), (3,), (2,)], "no subject in both train and validation, found 00"),
        ("strict", [(0,), (1,), (2, 3)], "no subject in both train and test, found 00"),
        ("run", [(0,), (1,), (2,)], "no stimulus in both train and validation, found task-x"),
        ("strict", [(0,), (1,), (2,)], "no stimulus in both train and test, found task-x"),
    ],
)
def test_parts_sharing_subject_or_stimulus_are_refused(data, protocol, parts, found):
    runs = list(data.runs.values())
    runs[3].subject = "00"
    fold = Fold(2, *(tuple(runs[index].key for index in part) for part in parts))
    with pytest.raises(MismatchError, match=f"Fold 2: split by {protocol}, expected {found}"):
        FoldData(fold=fold, protocol=protocol, space=SPACE, runs={run.key: run for run in runs})


def test_models_accept_their_training_data(trained, data):
    _, record = load_forecaster(trained)
    require_match(record, data.identity(), "here")


PARCELS = {"space": SPACE, "repetition_time": 1.0, "normalizer": "none"}
MASK = np.arange(2 * 3 * 4).reshape(2, 3, 4) % 3 > 0
VOLUME = {**PARCELS, "space": Space(kind="volume", name="native", mask=MASK, affine=np.eye(4))}


def volume(**changes):
    return {"space": dataclasses.replace(VOLUME["space"], **changes)}


@pytest.mark.parametrize(
    ("trained_on", "changes", "field"),
    [
        (VOLUME, volume(mask=~MASK), "mask_sha256"),
        (VOLUME, volume(affine=np.diag([2.0, 2.0, 2.0, 1.0])), "affine"),
        (VOLUME, volume(mask=np.pad(MASK, 1)), "shape"),
        (PARCELS, {"repetition_time": 2.0}, "repetition_time"),
        (PARCELS, {"space": dataclasses.replace(SPACE, parcels=(*SPACE.parcels[:-1], "q"))}, "parcels_sha256"),
        (PARCELS, {"space": dataclasses.replace(SPACE, name="Other")}, "space"),
        (PARCELS, {"normalizer": "causal"}, "normalizer"),
    ],
)
def test_other_data_are_refused_with_both_values(tmp_path, trained_on, changes, field):
    """Identities come from stores on disk."""

    def identity(name, *, space, repetition_time, normalizer):
        header = RunHeader(
            key=name,
            entities={"subject": "01", "task": "x"},
            repetition_time=repetition_time,
            space=space,
            scored=np.ones(5, dtype=bool),
            record={"fingerprint": "0", "normalizer": {"method": normalizer}},
        )
        write_run(tmp_path / f"{name}.zarr", header, [np.zeros((5, space.n_features), dtype=np.float32)])
        return data_identity(space, RunStore(tmp_path / f"{name}.zarr").within(space))

    here, there = identity("here", **{**trained_on, **changes}), identity("there", **trained_on)
    assert here[field] != there[field]
    message = f"in {field}: expected {there[field]}, found {here[field]}."
    for name in set(here) - {field}:
        here[name] = there[name]
    with pytest.raises(MismatchError, match=re.escape(message)):
        require_match({"data": there}, here, "OUT")
    require_match({"data": there}, {**here, field: there[field]}, "OUT")


def test_damaged_models_are_refused(trained, tmp_path):
    folder = trained
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(MismatchError, match="can't be loaded"):
        load_forecaster(folder)
    weights.write_bytes(content)
    tensors = load_file(weights)
    tensors["decoder.patterns"] = torch.zeros(3, 3)
    save_file(tensors, weights)
    with pytest.raises(MismatchError, match=r"decoder\.patterns"):
        load_forecaster(folder)
    weights.write_bytes(content)
    record = json.loads((folder / "config.json").read_text())
    # Another chunk length changes no shape of the weights, but it is another model.
    other = {**record["config"], "backbone": {**record["config"]["backbone"]}}
    other["backbone"]["memory"] = {**other["backbone"]["memory"], "chunk_time_points": 4}
    (folder / "config.json").write_text(json.dumps({**record, "config": other}))
    with pytest.raises(
        MismatchError, match=r"expected one of memory\.chunk_time_points 4, found memory\.chunk_time_points 8"
    ):
        load_forecaster(folder)
    weights.unlink()
    with pytest.raises(InputNotFoundError, match=r"model\.safetensors: no such file"):
        load_forecaster(folder)
    (folder / "config.json").write_text(json.dumps({**record, "schema_version": 7}))
    with pytest.raises(MismatchError, match="found titan-neuro-model version 7"):
        load_forecaster(folder)
    with pytest.raises(InputNotFoundError, match="no trained model"):
        load_forecaster(tmp_path / "nowhere")


def test_the_record_describes_the_model(trained, data):
    record = read_record(trained)
    assert record["data"]["space"] == "Toy"
    assert record["data"]["repetition_time"] == 1.0
    assert record["train"] == list(data.fold.train)
    assert record["config"]["horizons"] == [1, 2]
    assert record["versions"]["torch"]
    assert record["n_parameters"] > 1000
