"""The store: what is written is read back, in blocks of any length, as rows and on the grid."""

import dataclasses
import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
import zarr
from store_example import EVENTS, N_TIME_POINTS, SHAPE

from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, RunStore, write_run
from titan_neuro.data.store.arrays import CHUNK_BYTES, SHARD_BYTES, layout
from titan_neuro.errors import ImageError, InputNotFoundError, MismatchError, OutputError

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def test_stores_read_back_what_was_written(path, header, series):
    store = RunStore(path)
    assert np.array_equal(store.series(0, N_TIME_POINTS), series.astype(np.float16))
    assert np.array_equal(store.series(61, 70), series[61:70].astype(np.float16))
    assert np.array_equal(store.scored, header.scored)
    assert np.array_equal(store.space.mask, header.space.mask)
    assert np.array_equal(store.space.affine, header.space.affine)
    assert np.array_equal(store.framewise_displacement, header.framewise_displacement, equal_nan=True)
    assert store.events[0] == EVENTS[0]
    assert store.events[1][::2] == EVENTS[1][::2]
    assert math.isnan(store.events[1][1])
    assert store.event_columns == {}
    assert (store.key, store.subject, store.repetition_time, store.n_time_points) == (
        header.key,
        "01",
        1.5,
        N_TIME_POINTS,
    )
    assert store.record == header.record
    store.verify()


def test_parcels_without_events_or_motion(tmp_path):
    space = Space(kind="parcels", name="Schaefer200", parcels=("a", "b"))
    header = RunHeader(key="k", entities={"subject": "1"}, repetition_time=2.0, space=space, scored=np.ones(3, bool))
    write_run(tmp_path / "x.zarr", header, [np.arange(6.0).reshape(3, 2)])
    store = RunStore(tmp_path / "x.zarr")
    assert (store.space.parcels, store.space.mask) == (("a", "b"), None)
    assert (store.framewise_displacement, store.events) == (None, ())
    assert store.series(1, 3).tolist() == [[2, 3], [4, 5]]
    with pytest.raises(MismatchError, match="no grid"):
        store.within(space).read_grid(0, 1)


def test_columns_of_events_are_read_back(path, header, series):
    scenes = [str(index) for index in range(len(EVENTS))]
    write_run(path, dataclasses.replace(header, event_columns={"scene": scenes}), [series])
    assert RunStore(path).event_columns == {"scene": scenes}
    with pytest.raises(MismatchError, match="column scene of the events"):
        write_run(path, dataclasses.replace(header, event_columns={"scene": [*scenes, "9"]}), [series])


@pytest.mark.parametrize("lengths", [[1] * N_TIME_POINTS, [7, 0, 100, 43], [39, 1, 41, 69], [N_TIME_POINTS]])
def test_blocks_may_have_any_length(sharded, header, series, lengths):
    one_block = {file.relative_to(sharded): file.read_bytes() for file in sharded.rglob("*") if file.is_file()}
    write_run(sharded, header, np.split(series, np.cumsum(lengths)[:-1]))
    assert {file.relative_to(sharded): file.read_bytes() for file in sharded.rglob("*") if file.is_file()} == one_block
    assert len(list(sharded.glob("series/c/*"))) == 4
    assert np.array_equal(RunStore(sharded).series(0, N_TIME_POINTS), series.astype(np.float16))


@pytest.mark.parametrize("n_features", [1, 200, 20_000, 235_375, 2_000_000])
def test_chunks_and_shards_have_bounded_sizes(n_features):
    chunk, shard = layout(800, n_features)
    assert shard % chunk == 0
    assert 4 <= chunk <= 64
    assert shard < 800 + chunk
    assert chunk == 4 or chunk * 2 * n_features <= CHUNK_BYTES
    assert shard == chunk or shard * 2 * n_features <= SHARD_BYTES
    assert layout(3, n_features) == (3, 3)


def test_writing_memory_does_not_grow_with_run_length(tmp_path):
    space = Space(kind="volume", name="native", mask=np.ones((50, 50, 60), bool), affine=np.eye(4))
    block = np.random.default_rng(0).normal(size=(37, space.n_features)).astype(np.float32)

    def peak_bytes(n_blocks):
        scored = np.ones(n_blocks * len(block), bool)
        header = RunHeader(key="k", entities={}, repetition_time=1.0, space=space, scored=scored)
        tracemalloc.start()
        write_run(tmp_path / "x.zarr", header, (block for _ in range(n_blocks)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    # The longer run has 67 MB more of float16.
    assert peak_bytes(9) - peak_bytes(3) < 10e6


def test_other_schema_versions_and_other_groups_are_refused(path, tmp_path):
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"]["schema_version"] = 1
    (path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(MismatchError, match="expected the schema titan-neuro-run 4, found titan-neuro-run 1") as e:
        RunStore(path)
    assert str(path) in e.value.message
    assert "Prepare the run again" in e.value.hint
    zarr.create_group(tmp_path / "stranger.zarr")
    with pytest.raises(MismatchError, match="found a Zarr group without a schema"):
        RunStore(tmp_path / "stranger.zarr")
    (path / "zarr.json").write_text("{")
    with pytest.raises(MismatchError, match="not a Zarr group"):
        RunStore(path)
    with pytest.raises(InputNotFoundError, match=r"nowhere.zarr: no prepared run"):
        RunStore(tmp_path / "nowhere.zarr")
    assert not (tmp_path / "nowhere.zarr").exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x: [x[:-1]], MismatchError, "expected 150 time points, found 149"),
        (lambda x: [x, x[:1]], MismatchError, "expected 150 time points, found 151"),
        (lambda x: [x[:, :1]], MismatchError, r"features\), found \(150, 1\)"),
        (
            lambda x: [x[:100], np.where(x[100:] == x[102, 3], np.nan, x[100:])],
            ImageError,
            "nan in time point 102, .* 3",
        ),
        (lambda x: [x * 0 + 1e6], ImageError, "at most 65,504 .* found 1000000.0 in time point 0"),
    ],
)
def test_invalid_time_points_leave_no_store(tmp_path, header, series, change, error, words):
    with pytest.raises(error, match=words):
        write_run(tmp_path / "x.zarr", header, change(series))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"record": {"rate": math.nan}}, "JSON"),
        ({"record": {"array": np.ones(2)}}, "JSON"),
        ({"framewise_displacement": np.zeros(3, np.float32)}, "framewise_displacement: expected 150 time points"),
    ],
)
def test_invalid_headers_are_refused(tmp_path, header, series, change, words):
    with pytest.raises(MismatchError, match=words):
        write_run(tmp_path / "x.zarr", RunHeader(**(vars(header) | change)), [series])


def test_files_are_no_output_folders(tmp_path, header, series):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        write_run(tmp_path / "file/sub-01/x.zarr", header, [series])


@pytest.mark.parametrize("device", DEVICES)
def test_the_grid_is_that_of_the_space(path, space, series, device):
    smaller = Space(kind="volume", name="native", mask=space.mask.copy(), affine=space.affine)
    smaller.mask[2] = False
    for study in (space, smaller):
        view = RunStore(path).within(study)
        grid = view.read_grid(30, 50, device)
        assert (grid.dtype, grid.device.type, grid.shape) == (torch.float32, device, (20, *SHAPE))
        assert np.array_equal(grid.cpu().numpy(), study.scatter(view.read(30, 50).numpy()))
        assert np.array_equal(grid.cpu().numpy()[:, study.mask], series[30:50][:, study.mask[space.mask]].astype("f2"))


@pytest.mark.parametrize(
    ("record", "caveats"),
    [
        ({"route": "transforms", "whole_run": []}, []),
        ({"whole_run": ["z-score", "high-pass"]}, ["Preparation used the whole run (z-score, high-pass)"]),
        ({"route": "rough registration"}, ["ROUGH REGISTRATION: the recordings were registered from the images alone"]),
    ],
)
def test_caveats_name_noncausal_and_rough_preparation(tmp_path, header, series, record, caveats):
    path = tmp_path / "x.zarr"
    write_run(path, dataclasses.replace(header, record=record), [series])
    sentences = RunStore(path).caveats
    assert len(sentences) == len(caveats)
    assert all(sentence.startswith(start) for sentence, start in zip(sentences, caveats, strict=True))


@pytest.mark.parametrize(
    ("events", "settings", "first"),
    [
        ([], {}, 0),
        ([(30.0, 9.0, "fixation")], {}, 0),
        ([(60.0, 9.0, "movie"), (30.0, 9.0, "movie")], {}, 20),
        # The clocks of stimulus and scanner differ a little.
        ([(30.01, 90.0, "movie")], {}, 20),
        ([(30.75, 90.0, "movie")], {}, 21),
        ([(-3.0, 90.0, "movie")], {}, -2),
        ([(30.0, 9.0, "movie"), (45.0, math.nan, "story")], {"scored_trial_types": ["story"]}, 30),
    ],
)
def test_the_stimulus_starts_with_its_first_event(tmp_path, header, series, events, settings, first):
    scored = header.scored.copy()
    scored[20:25] = False
    header = dataclasses.replace(header, events=events, record={"settings": settings}, scored=scored)
    write_run(tmp_path / "run.zarr", header, [series])
    store = RunStore(tmp_path / "run.zarr")
    assert store.stimulus_start == store.within(store.space).stimulus_start == first
