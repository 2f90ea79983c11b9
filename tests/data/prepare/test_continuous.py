"""Continuous tables are stored with a run; a table that can't be used does not stop its preparation."""

import json
import logging

import numpy as np
import pytest
from continuous_tables import write_continuous, write_parcels

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare import PrepareConfig, prepare_run
from titan_neuro.data.store import RunStore

N_TIME_POINTS, TR = 60, 1.5


@pytest.fixture
def root(tmp_path):
    return write_parcels(tmp_path / "data", ["01"], n_time_points=N_TIME_POINTS, repetition_time=TR)


def prepare(root, config=None):
    [recording] = find_recordings(root)
    path, is_new = prepare_run(recording, root / "out", config or PrepareConfig(), work_dir=root / "out/.work")
    return RunStore(path), is_new


def test_tables_are_stored_at_the_time_points(root):
    times = np.arange(900) / 10
    short = np.where(times < 60, times, np.nan)
    write_continuous(root / "task-movie_stim.tsv.gz", {"loudness": times, "pitch": short})
    cardiac = "sub-01/func/sub-01_task-movie_recording-cardiac_physio.tsv.gz"
    write_continuous(root / cardiac, {"cardiac": times[:500], "trigger": times[:500]}, start=-10)
    store, _ = prepare(root)
    store.verify()
    assert list(store.continuous) == ["recording-cardiac_physio cardiac", "stim loudness", "stim pitch"]
    expected = np.arange(N_TIME_POINTS) * TR + 0.7
    np.testing.assert_allclose(store.continuous["stim loudness"], expected, rtol=1e-6)
    assert np.isfinite(store.continuous["stim pitch"]).sum() == 40
    cardiac_values = store.continuous["recording-cardiac_physio cardiac"]
    np.testing.assert_allclose(cardiac_values[:26], expected[:26] + 10, rtol=1e-6)
    assert np.isnan(cardiac_values[27:]).all()
    assert store.record["continuous"]["stim"] == {"sampling_frequency_hz": 10.0, "start_s": 0.0, "covered": 1.0}
    assert store.record["continuous"]["recording-cardiac_physio"]["start_s"] == -10
    assert {"stim", "stim sidecar 1"} <= set(store.record["sources"])


def test_a_run_without_tables_has_none(root):
    store, _ = prepare(root)
    assert store.continuous == {} and "continuous" not in store.record


@pytest.mark.parametrize("change", ["table", "sidecar"])
def test_a_changed_table_is_stored_again(root, change):
    path = write_continuous(root / "task-movie_stim.tsv.gz", {"x": np.arange(900.0)})
    assert prepare(root)[1] and not prepare(root)[1]
    if change == "table":
        write_continuous(path, {"x": np.arange(900.0) + 1})
    else:
        write_continuous(path, {"x": np.arange(900.0)}, start=1.5)
    before = RunStore(next((root / "out").rglob("*.zarr"))).continuous["stim x"]
    store, is_new = prepare(root)
    assert is_new and not np.array_equal(store.continuous["stim x"], before)


@pytest.mark.parametrize(
    ("text", "sidecar", "message"),
    [
        ("1\t2\n", {}, "expected 1 columns"),
        ("1\n", {"StartTime": None}, "StartTime"),
        ("x\n1\n", {}, "no header row"),
    ],
)
def test_unusable_tables_are_left_out(root, caplog, text, sidecar, message):
    write_continuous(root / "task-movie_stim.tsv.gz", {"x": []}, text=text, **sidecar)
    write_continuous(root / "task-movie_recording-b_stim.tsv.gz", {"y": np.ones(900)})
    with caplog.at_level(logging.WARNING):
        store, _ = prepare(root)
    assert list(store.continuous) == ["recording-b_stim y"]
    assert message in store.record["continuous"]["stim"]["left_out"]
    assert f"{root / 'task-movie_stim.tsv.gz'}: is left out" in caplog.text and message in caplog.text


def test_a_table_of_another_time_is_named(root, caplog):
    write_continuous(root / "task-movie_stim.tsv.gz", {"x": np.ones(100)}, start=500.0)
    store, _ = prepare(root)
    assert store.continuous == {} and store.record["continuous"]["stim"]["covered"] == 0
    assert "has no value during sub-01_task-movie: its first row is at 500 s and its last at 509.9 s" in caplog.text


def test_series_do_not_depend_on_tables(root):
    without = prepare(root)[0].series(0, N_TIME_POINTS)
    write_continuous(root / "task-movie_stim.tsv.gz", {"x": np.random.default_rng(0).normal(size=900)})
    store, is_new = prepare(root)
    assert is_new and np.array_equal(store.series(0, N_TIME_POINTS), without)
    assert json.dumps(store.record)
