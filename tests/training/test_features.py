"""A frozen Swin's features: computed once, equal to what the Swin gives, made again when they don't fit."""

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
    pretraining=PretrainingConfig(n_epochs=1, steps_per_epoch=2, batch_time_points=8, channels=4),
)


def frozen(fold, model, seed=0):
    torch.manual_seed(seed)
    config = dataclasses.replace(model.tokenizer, frozen=True)
    return SwinTokenizer(config, torch.from_numpy(fold.space.mask), dim=8).eval()


@pytest.fixture
def tokenizer(volume_fold, volume_model):
    return frozen(volume_fold, volume_model)


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


def test_they_are_what_the_swin_gives_and_computed_once(runs, tokenizer, tmp_path, calls):
    found = cached_features(runs, tokenizer, work_dir=tmp_path / "work")
    for run in runs:
        with torch.no_grad():
            expected = tokenizer.features(run.read(0, run.n_time_points)[None])[0]
        # float16: 11 bits.
        torch.testing.assert_close(found[run.key].read(0, run.n_time_points), expected, rtol=6e-4, atol=1e-6)
        assert found[run.key].path.parent == run.store.path.parent
        run.store.verify()
    assert len(calls) == 2
    again = cached_features(runs, tokenizer, work_dir=tmp_path / "work")
    assert len(calls) == 2
    assert torch.equal(again[runs[0].key].read(3, 9), found[runs[0].key].read(3, 9))


def test_another_encoder_has_others_and_a_new_preparation_makes_them_anew(
    runs, volume_fold, volume_model, tokenizer, tmp_path, calls, caplog
):
    cached_features(runs, tokenizer, work_dir=tmp_path)
    other = frozen(volume_fold, volume_model, seed=1)
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
    renewed = [RunStore(store.path).within(volume_fold.space), runs[1]]
    with caplog.at_level(logging.WARNING):
        found = cached_features(renewed, tokenizer, work_dir=tmp_path)
    assert calls[4:] == [store.key]
    assert "run: expected" in caplog.text and "computed again" in caplog.text
    with torch.no_grad():
        expected = tokenizer.features(renewed[0].read(0, 5)[None])[0]
    torch.testing.assert_close(found[store.key].read(0, 5), expected, rtol=6e-4, atol=1e-6)


def test_what_is_damaged_is_computed_again(runs, tokenizer, tmp_path, calls, caplog):
    found = cached_features(runs, tokenizer, work_dir=tmp_path)[runs[1].key]
    before = found.read(0, 90)
    shard = found.path / "features/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-7] ^= 1
    shard.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = cached_features(runs, tokenizer, work_dir=tmp_path)[runs[1].key]
    assert calls[2:] == [runs[1].key]
    assert "can't be read" in caplog.text
    assert torch.equal(again.read(0, 90), before)
    (found.path / "zarr.json").write_text("{")
    cached_features(runs, tokenizer, work_dir=tmp_path)
    assert calls[3:] == [runs[1].key]


def test_windows_carry_the_features_of_their_frames(runs, tokenizer, tmp_path):
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


def test_training_is_the_same_with_them_as_without(volume_fold, volume_model, tmp_path, monkeypatch):
    model = dataclasses.replace(volume_model, tokenizer=dataclasses.replace(volume_model.tokenizer, frozen=True))
    swin, tables = SwinTokenizer.features, []
    seen = []
    monkeypatch.setattr(SwinTokenizer, "features", lambda self, series: seen.append(len(series)) or swin(self, series))
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(fit, "cached_features", lambda *_arguments, **_options: None)
        seen.clear()
        train_fold(volume_fold, model, QUICK, folder=tmp_path / name, work_dir=tmp_path / f"work-{name}", seed=0)
        # In pre-training, and once for each of three runs of 90 time points in blocks of 64.
        assert (len(seen) == 2 + 3 * 2) == (name == "with")
        tables.append(pd.read_csv(tmp_path / name / "training.csv"))
    columns = ["train_loss", "validation_mse"]
    np.testing.assert_allclose(*(table[columns].to_numpy() for table in tables), rtol=1e-3)
    assert tables[0]["validation_mse"].nunique() == 3
