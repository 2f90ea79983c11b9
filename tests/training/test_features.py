"""Features of a frozen Swin: equal to its output, computed once, and again when outdated or damaged."""

import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from titan_neuro.data.store import RunStore, write_run
from titan_neuro.data.store.schema import RunHeader
from titan_neuro.forecaster.tokenizers import SwinTokenizer
from titan_neuro.training import PretrainingConfig, TrainingConfig, fit, train_fold
from titan_neuro.training.features import cached_features, encoder_digest
from titan_neuro.training.streams import StreamWindows

QUICK = TrainingConfig(
    max_epochs=2,
    steps_per_epoch=4,
    window_time_points=32,
    learning_rate=1e-2,
    pretraining=PretrainingConfig(n_epochs=1, steps_per_epoch=2, batch_volumes=8, channels=4),
)


def frozen_tokenizer(fold, model, seed=0):
    torch.manual_seed(seed)
    config = dataclasses.replace(model.tokenizer, frozen=True)
    return SwinTokenizer(config, torch.from_numpy(fold.space.mask), dim=8).eval()


@pytest.fixture
def tokenizer(volume_fold, volume_model):
    return frozen_tokenizer(volume_fold, volume_model)


@pytest.fixture
def runs(volume_fold):
    return volume_fold.select(volume_fold.fold.train)


@pytest.fixture
def calls(monkeypatch):
    """Keys of the runs whose features were computed."""
    computed, blocks = [], cached_features.__globals__["_blocks"]

    def counted(run, *rest):
        computed.append(run.key)
        return blocks(run, *rest)

    monkeypatch.setitem(cached_features.__globals__, "_blocks", counted)
    return computed


def test_features_equal_the_swins_and_are_computed_once(runs, tokenizer, tmp_path, calls):
    features = cached_features(runs, tokenizer, work_dir=tmp_path / "work")
    for run in runs:
        with torch.no_grad():
            expected = tokenizer.features(run.read(0, run.n_time_points)[None])[0]
        # float16: 11 bits.
        torch.testing.assert_close(features[run.key].read(0, run.n_time_points), expected, rtol=6e-4, atol=1e-6)
        assert features[run.key].path.parent == run.store.path.parent
        run.store.verify()
    assert len(calls) == 2
    again = cached_features(runs, tokenizer, work_dir=tmp_path / "work")
    assert len(calls) == 2
    assert torch.equal(again[runs[0].key].read(3, 9), features[runs[0].key].read(3, 9))


def test_features_depend_on_encoder_and_preparation(
    runs, volume_fold, volume_model, tokenizer, tmp_path, calls, caplog
):
    cached_features(runs, tokenizer, work_dir=tmp_path)
    other = frozen_tokenizer(volume_fold, volume_model, seed=1)
    assert encoder_digest(other) != encoder_digest(tokenizer)
    cached_features(runs, other, work_dir=tmp_path)
    assert len(calls) == 4
    store = runs[0].store
    header = RunHeader(
        key=store.key,
        entities=store.entities,
        repetition_time=1.0,
        space=store.space,
        scored=store.scored,
        record=store.record,
    )
    write_run(store.path, header, [store.series(0, store.n_time_points)[::-1]])
    prepared_again = [RunStore(store.path).within(volume_fold.space), runs[1]]
    with caplog.at_level(logging.WARNING):
        features = cached_features(prepared_again, tokenizer, work_dir=tmp_path)
    assert calls[4:] == [store.key]
    assert "run: expected" in caplog.text and "It is made again" in caplog.text
    with torch.no_grad():
        expected = tokenizer.features(prepared_again[0].read(0, 5)[None])[0]
    torch.testing.assert_close(features[store.key].read(0, 5), expected, rtol=6e-4, atol=1e-6)


def test_damaged_features_are_computed_again(runs, tokenizer, tmp_path, calls, caplog):
    features = cached_features(runs, tokenizer, work_dir=tmp_path)[runs[1].key]
    before = features.read(0, 90)
    shard = features.path / "features/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-7] ^= 1
    shard.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = cached_features(runs, tokenizer, work_dir=tmp_path)[runs[1].key]
    assert calls[2:] == [runs[1].key]
    assert "can't be read" in caplog.text
    assert torch.equal(again.read(0, 90), before)
    (features.path / "zarr.json").write_text("{")
    cached_features(runs, tokenizer, work_dir=tmp_path)
    assert calls[3:] == [runs[1].key]


def test_windows_contain_the_features_of_their_time_points(runs, tokenizer, tmp_path):
    features = cached_features(runs, tokenizer, work_dir=tmp_path)
    windows = StreamWindows(
        runs, window_time_points=32, n_streams=2, horizons=(1, 2), seed=1, min_steps=7, features=features
    )
    for index in range(len(windows)):
        window = windows[index]
        with torch.no_grad():
            expected = tokenizer.features(window.series[:, :32])
        exists = window.series[:, :32].any(dim=2)
        torch.testing.assert_close(window.features[exists], expected[exists], rtol=6e-4, atol=1e-6)
        assert not window.features[~exists].any()


def test_cached_features_change_no_training(volume_fold, volume_model, tmp_path, monkeypatch):
    model = dataclasses.replace(volume_model, tokenizer=dataclasses.replace(volume_model.tokenizer, frozen=True))
    encode, tables, calls = SwinTokenizer.features, [], []
    monkeypatch.setattr(
        SwinTokenizer, "features", lambda self, series: calls.append(len(series)) or encode(self, series)
    )
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(fit, "cached_features", lambda *_arguments, **_options: None)
        calls.clear()
        train_fold(volume_fold, model, QUICK, folder=tmp_path / name, work_dir=tmp_path / f"work-{name}", seed=0)
        # Calls in pre-training, and two blocks for each of three runs of 90 time points.
        assert (len(calls) == 2 + 3 * 2) == (name == "with")
        tables.append(pd.read_csv(tmp_path / name / "training.csv"))
    columns = ["train_loss", "validation_mse"]
    np.testing.assert_allclose(*(table[columns].to_numpy() for table in tables), rtol=1e-3)
    assert tables[0]["validation_mse"].nunique() == 3
