"""One small run, written anew for each test: in one shard, and in several."""

import numpy as np
import pytest
from store_example import EVENTS, N_TIME_POINTS, NAME, SHAPE

from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, write_run


@pytest.fixture
def space():
    mask = np.random.default_rng(0).random(SHAPE) > 0.4
    return Space(kind="volume", name="native", mask=mask, affine=np.diag([2.0, 2.0, 2.5, 1.0]))


@pytest.fixture
def series(space):
    return np.random.default_rng(1).normal(size=(N_TIME_POINTS, space.n_features)).astype(np.float32)


@pytest.fixture
def header(space):
    displacement = np.linspace(0, 1, N_TIME_POINTS, dtype=np.float32)
    displacement[0] = np.nan
    return RunHeader(
        key="sub-01_task-movie_run-01",
        entities={"subject": "01", "task": "movie", "run": "01"},
        repetition_time=1.5,
        space=space,
        scored=np.arange(N_TIME_POINTS) >= 20,
        events=EVENTS,
        framewise_displacement=displacement,
        record={"normalizer": {"method": "causal expanding z-score", "warmup_s": 20.0}, "whole_run": []},
    )


@pytest.fixture
def path(tmp_path, header, series):
    path = tmp_path / "out" / NAME
    write_run(path, header, [series])
    return path


@pytest.fixture
def sharded(tmp_path, monkeypatch, header, series):
    """The same run in chunks of 4 time points and shards of 40."""
    monkeypatch.setattr("titan_neuro.data.store.arrays.CHUNK_BYTES", 1)
    monkeypatch.setattr("titan_neuro.data.store.arrays.SHARD_BYTES", 2 * 40 * series.shape[1])
    path = tmp_path / "sharded" / NAME
    write_run(path, header, [series])
    return path
