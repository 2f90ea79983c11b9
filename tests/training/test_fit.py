"""Training on small streams with a known answer, and what it writes down."""

import dataclasses
import functools
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, RunView, write_run
from titan_neuro.errors import InputNotFoundError, MismatchError, TrainingError
from titan_neuro.forecaster import ForecasterConfig, match_comparison_models
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import ParcelTokenizerConfig
from titan_neuro.linear.autoregression import fit_autoregression
from titan_neuro.titans.models import GRUConfig, LMMConfig, MACConfig, MAGConfig, MALConfig, TransformerConfig
from titan_neuro.training import FoldData, TrainingConfig, closed_form, load_forecaster, require_match, train_fold
from titan_neuro.training.checkpoint import read_record
from titan_neuro.training.fold import data_identity

N_FEATURES = 8
SPACE = Space(kind="parcels", name="Toy", parcels=tuple(f"p{i}" for i in range(N_FEATURES)))
MODEL = ForecasterConfig(
    tokenizer=ParcelTokenizerConfig(n_tokens=1),
    backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1, segment_time_points=16),
    recall=None,
    horizons=(1, 2),
    decoder=LowRankConfig(rank=8),
)
QUICK = TrainingConfig(max_epochs=4, steps_per_epoch=20, window_time_points=32, learning_rate=1e-2, patience=4)


def following(rng, n_time_points):
    """Feature i + 1 shows at t + 1 what feature i showed at t: noise for each alone, plain for all together."""
    series = rng.normal(size=(n_time_points, N_FEATURES))
    for t in range(1, n_time_points):
        series[t, 1:] = 0.9 * series[t - 1, :-1] + 0.4 * series[t, 1:]
    return series


def noise(rng, n_time_points):
    return rng.normal(size=(n_time_points, N_FEATURES))


@pytest.fixture
def make_fold(tmp_path):
    def make(signal, n_time_points=200):
        runs = {}
        for number in range(4):
            series = signal(np.random.default_rng(number), n_time_points).astype(np.float32)
            header = RunHeader(
                key=f"sub-0{number}_task-x",
                entities={"subject": f"0{number}", "task": "x"},
                repetition_time=1.0,
                space=SPACE,
                scored=np.ones(n_time_points, dtype=bool),
                record={"fingerprint": str(number), "normalizer": {"method": "none"}},
            )
            path = tmp_path / f"{signal.__name__}-{number}.zarr"
            write_run(path, header, [series])
            runs[header.key] = RunStore(path).within(SPACE)
        keys = tuple(runs)
        return FoldData(fold=Fold(1, keys[:2], keys[2:3], keys[3:]), protocol="subject", space=SPACE, runs=runs)

    return make


@pytest.fixture
def train(tmp_path):
    def run(data, training=QUICK, name="fold-1", seed=0, model=MODEL, work=None):
        folder = tmp_path / name
        made = train_fold(data, model, training, folder=folder, work_dir=tmp_path / (work or f"work-{name}"), seed=seed)
        return folder, made

    return run


def test_what_one_feature_tells_of_another_is_learned(make_fold, train):
    data = make_fold(following)
    folder, made = train(data)
    model, record = load_forecaster(folder)
    assert made
    assert record["validation_skill_ar"] > 0.2
    # The run that nobody has seen: one time point ahead, against the linear skip alone.
    series = data.runs[data.fold.test[0]].read(0, 200)
    forecasts, _ = model.step(series, model.init_state())
    torch.nn.init.zeros_(model.decoder.patterns)
    linear, _ = model.step(series, model.init_state())
    error, error_linear = ((series[1:] - f[:-1, 0]).square().mean() for f in (forecasts, linear))
    assert error < 0.8 * error_linear
    table = pd.read_csv(folder / "training.csv")
    assert table["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert table["validation_skill_ar"][0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("backbone", [LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig, TransformerConfig])
def test_every_variant_trains_and_is_read_back(make_fold, train, backbone):
    data = make_fold(following)
    model = dataclasses.replace(MODEL, backbone=backbone(dim=16, n_layers=1, tokens_per_time_point=1))
    quick = TrainingConfig(max_epochs=1, steps_per_epoch=4, window_time_points=32, learning_rate=1e-2)
    read, record = load_forecaster(train(data, quick, model=model)[0])
    names = {"gru": "gru", "transformer": "transformer-20"}
    assert read.name == names.get(model.backbone.variant, f"titan-{model.backbone.variant}")
    assert read.config == model
    assert record["config"]["backbone"]["variant"] == model.backbone.variant
    assert record["selected_epoch"] == 1


def test_rivals_learn_it_too_and_share_the_linear_skip(make_fold, train, monkeypatch):
    fits = []

    def counted(runs, horizons, **options):
        fits.append([run.key for run in runs])
        return fit_autoregression(runs, horizons, **options)

    monkeypatch.setattr(closed_form, "fit_autoregression", counted)
    data = make_fold(following)
    train = functools.partial(train, work="work")
    models = [MODEL, *match_comparison_models(MODEL, n_features=N_FEATURES)]
    quick = dataclasses.replace(QUICK, max_epochs=2)
    read = [load_forecaster(train(data, quick, model.backbone.name, model=model)[0]) for model in models]
    assert [model.name for model, _ in read] == ["titan-mac", "gru", "transformer-20"]
    assert all(record["validation_skill_ar"] > 0.2 for _, record in read)
    sizes = [record["n_parameters"] for _, record in read]
    assert max(sizes) < 1.05 * min(sizes)
    assert fits == [[*data.fold.train, *data.fold.validation]]
    for model, _ in read[1:]:
        assert torch.equal(model.linear_skip.coefficients, read[0][0].linear_skip.coefficients)
        assert torch.equal(model.linear_skip.intercept, read[0][0].linear_skip.intercept)


def test_where_nothing_is_to_be_learned_the_model_is_linear(make_fold, train):
    folder, _ = train(make_fold(noise))
    model, record = load_forecaster(folder)
    assert record["validation_skill_ar"] < 0.02
    if record["selected_epoch"] == 0:
        assert not model.decoder.patterns.any()


def test_the_same_seed_gives_the_same_weights_and_another_others(make_fold, train):
    data = make_fold(following)
    quick = TrainingConfig(max_epochs=1, steps_per_epoch=3, window_time_points=32)
    one, again, other = (
        (train(data, quick, name, seed)[0] / "model.safetensors").read_bytes()
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert one == again != other


def test_a_trained_fold_is_left_until_something_changes(make_fold, train):
    data = make_fold(following)
    quick = TrainingConfig(max_epochs=1, steps_per_epoch=2, window_time_points=32)
    folder, _ = train(data, quick)
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert train(data, quick) == (folder, False)
    assert (folder / "config.json").stat().st_mtime_ns == stamp
    assert train(data, quick, seed=1)[1]


def test_a_loss_that_is_not_finite_stops_training(make_fold, train, tmp_path):
    data = make_fold(following)
    wild = TrainingConfig(
        max_epochs=2, steps_per_epoch=20, window_time_points=32, learning_rate=1e30, gradient_clip=1e30
    )
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) in epoch 0") as caught:
        train(data, wild)
    assert "learning_rate" in caught.value.hint
    assert sorted(path.name for path in (tmp_path / "fold-1").iterdir()) == [".lock", "logs"]


class FailingView(RunView):
    """A run whose time points are not numbers any more after some readings, as from a disk that fails."""

    readings_left = float("inf")

    def read(self, start, stop):
        self.readings_left -= 1
        series = super().read(start, stop)
        return series if self.readings_left >= 0 else torch.full_like(series, float("nan"))


@pytest.mark.parametrize(
    ("part", "readings", "message"),
    [
        ("train", 20, r"The loss is nan in epoch 1, step \d"),
        ("validation", 17, "The validation error is nan in epoch 1"),
    ],
)
def test_the_last_good_epoch_is_kept_and_training_goes_on_from_it(make_fold, train, tmp_path, part, readings, message):
    data = make_fold(following)
    failing = FailingView(data.runs[getattr(data.fold, part)[0]].store, SPACE)
    data = dataclasses.replace(data, runs={**data.runs, failing.key: failing})
    for name in ("fold-1", "undisturbed"):
        closed_form.fitted_linear_skip(data, MODEL.horizons, work_dir=tmp_path / f"work-{name}")
    training = dataclasses.replace(QUICK, steps_per_epoch=14, max_epochs=2)
    failing.readings_left = readings
    with pytest.raises(TrainingError, match=message) as caught:
        train(data, training)
    [kept] = (tmp_path / "work-fold-1").glob("*/step-*.ckpt")
    told = f"The last good checkpoint is kept, and the same command goes on from there: {kept.parent}."
    assert told in caught.value.hint
    content = torch.load(kept, weights_only=True)
    assert [row["epoch"] for row in content["history"]] == [0, 1]
    assert all(value.isfinite().all() for value in content["state_dict"].values() if value.is_floating_point())
    failing.readings_left = float("inf")
    mended, _ = train(data, training)
    assert pd.read_csv(mended / "training.csv")["epoch"].tolist() == [0, 1, 2]
    undisturbed, _ = train(data, training, name="undisturbed")
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (mended, undisturbed))
    assert one == other


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
def test_a_split_that_shares_what_it_holds_apart_is_refused(make_fold, protocol, parts, found):
    runs = list(make_fold(noise).runs.values())
    runs[3].subject = "00"
    fold = Fold(2, *(tuple(runs[index].key for index in part) for part in parts))
    with pytest.raises(MismatchError, match=f"Fold 2: split by {protocol}, expected {found}"):
        FoldData(fold=fold, protocol=protocol, space=SPACE, runs={run.key: run for run in runs})


@pytest.fixture
def trained(make_fold, train):
    data = make_fold(following)
    return train(data, TrainingConfig(max_epochs=1, steps_per_epoch=2, window_time_points=32))[0], data


def test_a_model_is_bound_to_its_data(trained):
    folder, data = trained
    _, record = load_forecaster(folder)
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
def test_a_model_is_refused_on_other_data_with_both_values(tmp_path, trained_on, changes, field):
    """The identities are those of stores on disk."""

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
    folder, _ = trained
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MismatchError, match="can't be loaded"):
        load_forecaster(folder)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors["decoder.patterns"] = torch.zeros(3, 3)
    save_file(tensors, weights)
    with pytest.raises(MismatchError, match=r"decoder\.patterns"):
        load_forecaster(folder)
    weights.write_bytes(whole)
    record = json.loads((folder / "config.json").read_text())
    # Another chunk shows in no shape, yet it is another model.
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


def test_a_model_explains_itself(trained):
    folder, data = trained
    record = read_record(folder)
    assert record["data"]["space"] == "Toy"
    assert record["data"]["repetition_time"] == 1.0
    assert record["test"] == list(data.fold.test)
    assert record["config"]["horizons"] == [1, 2]
    assert record["versions"]["torch"]
    assert record["n_parameters"] > 1000
