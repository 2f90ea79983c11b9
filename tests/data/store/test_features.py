"""Features beside a run: read back as written; refused if changed, damaged or of another source."""

import numpy as np
import pytest
import zarr

from titan_neuro.data.store import FeatureStore, feature_name, open_runs, write_features
from titan_neuro.errors import ImageError, InputNotFoundError, MismatchError

SOURCE = {"key": "sub-01_task-x", "encoder": "e" * 64, "run": {"series": "f" * 64}}
N_TIME_POINTS, SHAPE = 70, (2, 5)


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(N_TIME_POINTS, *SHAPE)).astype(np.float32)


@pytest.fixture
def path(tmp_path, features, monkeypatch):
    """In chunks of 4 time points and shards of 20."""
    monkeypatch.setattr("titan_neuro.data.store.arrays.CHUNK_BYTES", 1)
    monkeypatch.setattr("titan_neuro.data.store.arrays.SHARD_BYTES", 2 * 20 * 10)
    path = tmp_path / "features.zarr"
    write_features(path, SOURCE, np.split(features, [3, 60]), N_TIME_POINTS, SHAPE)
    return path


def test_features_are_read_back_as_written(path, features):
    store = FeatureStore(path, SOURCE)
    assert (store.n_time_points, store.shape) == (N_TIME_POINTS, SHAPE)
    assert np.array_equal(store.read(0, N_TIME_POINTS).numpy(), features.astype(np.float16).astype(np.float32))
    assert np.array_equal(store.read(65, 99).numpy(), features[65:].astype(np.float16).astype(np.float32))
    store.verify()
    assert len(list(path.glob("features/c/*/0/0"))) == 4


@pytest.mark.parametrize("change", [{"encoder": "0" * 64}, {"run": {"series": "0" * 64}}, {"key": "sub-02"}])
def test_features_of_another_source_are_refused(path, change):
    ((name, value),) = change.items()
    with pytest.raises(MismatchError, match=name) as caught:
        FeatureStore(path, SOURCE | change)
    assert str(SOURCE[name]) in caught.value.message
    assert str(value) in caught.value.message


def test_missing_stores_and_other_groups_are_refused(path, tmp_path):
    with pytest.raises(InputNotFoundError):
        FeatureStore(tmp_path / "nowhere.zarr", SOURCE)
    zarr.create_group(tmp_path / "stranger.zarr")
    with pytest.raises(MismatchError, match="found None"):
        FeatureStore(tmp_path / "stranger.zarr", SOURCE)


def test_verify_finds_changed_values(path):
    array = zarr.open_group(path, mode="r+")["features"]
    array[:] = array[:][::-1]
    store = FeatureStore(path, SOURCE)
    with pytest.raises(MismatchError, match=r"features: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"):
        store.verify()


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_noticed_when_reading(path, damage):
    shard = path / "features/c/1/0/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0x10
    if damage == "remove":
        shard.unlink()
    else:
        shard.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    store = FeatureStore(path, SOURCE)
    store.read(0, 20)
    with pytest.raises(ImageError, match=r"are missing|can't be read") as caught:
        store.read(15, 40)
    assert str(path) in caught.value.message
    assert "Remove it" in caught.value.hint
    with pytest.raises(ImageError):
        store.verify()


@pytest.mark.parametrize(
    ("blocks", "error", "words"),
    [
        (lambda x: [x[:-1]], MismatchError, r"expected features of \(70, 2, 5\), found \(69, 2, 5\)"),
        (lambda x: [x * np.nan], ImageError, "expected finite features"),
        (lambda x: [x * 0 + 1e6], ImageError, "65,504"),
    ],
)
def test_invalid_features_leave_no_store(tmp_path, features, blocks, error, words):
    with pytest.raises(error, match=words):
        write_features(tmp_path / "x.zarr", SOURCE, blocks(features), N_TIME_POINTS, SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_feature_stores_are_not_found_as_runs(path):
    name = feature_name("sub-01_task-x_run-02_desc-prepared_bold.zarr", "0123456789abcdef")
    assert name == "sub-01_task-x_run-02_desc-features0123456789ab_bold.zarr"
    assert feature_name("x.zarr", "0123456789abcdef") == "x_desc-features0123456789ab.zarr"
    folder = path.parent / "sub-01" / "func"
    folder.mkdir(parents=True)
    path.rename(folder / name)
    with pytest.raises(InputNotFoundError, match="contains no prepared run"):
        open_runs(path.parent)
