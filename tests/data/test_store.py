"""The store: what is written is read again, by anybody, from anywhere; what was damaged is not."""

import hashlib
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap

import fsspec
import numpy as np
import pytest
import torch
import zarr
from data.range_server import serve

from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, RunStore, open_runs, write_run
from titan_neuro.data.store.write import CHUNK_BYTES, SHARD_BYTES, layout
from titan_neuro.errors import ImageError, InputNotFoundError, MismatchError, OutputError

SHAPE, N_FRAMES = (5, 6, 7), 150
NAME = "sub-01/func/sub-01_task-movie_run-01_desc-prepared_bold.zarr"
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)
EVENTS = ((0.0, 90.5, "movie"), (120.25, math.nan, "recall"))


@pytest.fixture
def space():
    mask = np.random.default_rng(0).random(SHAPE) > 0.4
    return Space(kind="volume", name="native", mask=mask, affine=np.diag([2.0, 2.0, 2.5, 1.0]))


@pytest.fixture
def frames(space):
    return np.random.default_rng(1).normal(size=(N_FRAMES, space.n_features)).astype(np.float32)


@pytest.fixture
def header(space):
    displacement = np.linspace(0, 1, N_FRAMES, dtype=np.float32)
    displacement[0] = np.nan
    return RunHeader(
        key="sub-01_task-movie_run-01",
        entities={"subject": "01", "task": "movie", "run": "01"},
        repetition_time=1.5,
        space=space,
        scored=np.arange(N_FRAMES) >= 20,
        events=EVENTS,
        framewise_displacement=displacement,
        record={"normaliser": {"method": "causal expanding z-score", "warmup_s": 20.0}, "whole_run": []},
    )


@pytest.fixture
def path(tmp_path, header, frames):
    path = tmp_path / "out" / NAME
    write_run(path, header, [frames])
    return path


@pytest.fixture
def sharded(tmp_path, monkeypatch, header, frames):
    """The same run in chunks of 4 frames and shards of 40."""
    monkeypatch.setattr("titan_neuro.data.store.write.CHUNK_BYTES", 1)
    monkeypatch.setattr("titan_neuro.data.store.write.SHARD_BYTES", 2 * 40 * frames.shape[1])
    path = tmp_path / "sharded" / NAME
    write_run(path, header, [frames])
    return path


def test_what_is_written_is_read(path, header, frames):
    store = RunStore(path)
    assert np.array_equal(store.frames(0, N_FRAMES), frames.astype(np.float16))
    assert np.array_equal(store.frames(61, 70), frames[61:70].astype(np.float16))
    assert np.array_equal(store.scored, header.scored)
    assert np.array_equal(store.space.mask, header.space.mask)
    assert np.array_equal(store.space.affine, header.space.affine)
    assert np.array_equal(store.framewise_displacement, header.framewise_displacement, equal_nan=True)
    assert store.events[0] == EVENTS[0]
    assert store.events[1][::2] == EVENTS[1][::2]
    assert math.isnan(store.events[1][1])
    assert (store.key, store.subject, store.repetition_time, store.n_frames) == (header.key, "01", 1.5, N_FRAMES)
    assert store.record == header.record
    store.verify()


def test_parcels_without_events_or_motion(tmp_path):
    space = Space(kind="parcels", name="Schaefer200", parcels=("a", "b"))
    header = RunHeader(key="k", entities={"subject": "1"}, repetition_time=2.0, space=space, scored=np.ones(3, bool))
    write_run(tmp_path / "x.zarr", header, [np.arange(6.0).reshape(3, 2)])
    store = RunStore(tmp_path / "x.zarr")
    assert (store.space.parcels, store.space.mask) == (("a", "b"), None)
    assert (store.framewise_displacement, store.events) == (None, ())
    assert store.frames(1, 3).tolist() == [[2, 3], [4, 5]]
    with pytest.raises(MismatchError, match="no grid"):
        store.within(space).read_grid(0, 1)


@pytest.mark.parametrize("lengths", [[1] * N_FRAMES, [7, 0, 100, 43], [39, 1, 41, 69], [N_FRAMES]])
def test_blocks_may_have_any_length(sharded, header, frames, lengths):
    one_block = {file.relative_to(sharded): file.read_bytes() for file in sharded.rglob("*") if file.is_file()}
    write_run(sharded, header, np.split(frames, np.cumsum(lengths)[:-1]))
    assert {file.relative_to(sharded): file.read_bytes() for file in sharded.rglob("*") if file.is_file()} == one_block
    assert len(list(sharded.glob("frames/c/*"))) == 4
    assert np.array_equal(RunStore(sharded).frames(0, N_FRAMES), frames.astype(np.float16))


@pytest.mark.parametrize("n_features", [1, 200, 20_000, 235_375, 2_000_000])
def test_layout_bounds_what_a_reader_and_a_writer_hold(n_features):
    chunk, shard = layout(800, n_features)
    assert shard % chunk == 0
    assert 4 <= chunk <= 64
    assert shard < 800 + chunk
    assert chunk == 4 or chunk * 2 * n_features <= CHUNK_BYTES
    assert shard == chunk or shard * 2 * n_features <= SHARD_BYTES
    assert layout(3, n_features) == (3, 3)


def test_memory_does_not_grow_with_the_run(tmp_path):
    script = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from titan_neuro.data.space import Space
        from titan_neuro.data.store import RunHeader, write_run
        n, target = int(sys.argv[1]), Path(sys.argv[2])
        space = Space(kind="volume", name="native", mask=np.ones((50, 50, 60), bool), affine=np.eye(4))
        header = RunHeader(key="k", entities={}, repetition_time=1.0, space=space, scored=np.ones(n * 37, bool))
        block = np.random.default_rng(0).normal(size=(37, 150_000)).astype(np.float32)
        write_run(target, header, (block for _ in range(n)))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    # Threads otherwise have heaps of their own, which come and go.
    one_heap = os.environ | {"MALLOC_ARENA_MAX": "1"}
    short, long = (
        int(
            subprocess.run(
                [*command, str(n), tmp_path / f"{n}.zarr"], capture_output=True, check=True, env=one_heap
            ).stdout
        )
        for n in (3, 9)
    )
    # In kB; the longer run has 67 MB more of float16, and a writer that kept its blocks would hold twice that.
    assert long - short < 40_000


def test_schemas_of_other_versions_and_strangers_are_refused(path, tmp_path):
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"]["schema_version"] = 1
    (path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(MismatchError, match="expected the schema titan-neuro-run 2, found titan-neuro-run 1"):
        RunStore(path)
    zarr.create_group(tmp_path / "stranger.zarr")
    with pytest.raises(MismatchError, match="found None None"):
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
        (lambda x: [x[:-1]], MismatchError, "expected 150 frames, found 149"),
        (lambda x: [x, x[:1]], MismatchError, "expected 150 frames, found 151"),
        (lambda x: [x[:, :1]], MismatchError, r"features\), found one of shape \(150, 1\)"),
        (lambda x: [x[:100], np.where(x[100:] == x[102, 3], np.nan, x[100:])], ImageError, "nan in frame 102, .* 3"),
        (lambda x: [x * 0 + 1e6], ImageError, "at most 65,504 .* found 1000000.0 in frame 0"),
    ],
)
def test_frames_that_do_not_fit_leave_nothing(tmp_path, header, frames, change, error, words):
    with pytest.raises(error, match=words):
        write_run(tmp_path / "x.zarr", header, change(frames))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"record": {"rate": math.nan}}, "JSON"),
        ({"record": {"array": np.ones(2)}}, "JSON"),
        ({"framewise_displacement": np.zeros(3, np.float32)}, "framewise_displacement: expected 150 frames"),
    ],
)
def test_headers_that_can_not_be_stored(tmp_path, header, frames, change, words):
    with pytest.raises(MismatchError, match=words):
        write_run(tmp_path / "x.zarr", RunHeader(**(vars(header) | change)), [frames])


def test_a_folder_that_is_no_folder(tmp_path, header, frames):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        write_run(tmp_path / "file/sub-01/x.zarr", header, [frames])


def test_checksums_are_those_of_the_documented_bytes(path, header, frames):
    """As another program would: nothing but hashlib, json and zarr."""
    group = zarr.open_group(path, mode="r")
    attributes = dict(group.attrs)
    sums = attributes.pop("sha256")
    text = json.dumps(attributes, sort_keys=True, separators=(",", ":"))
    assert sums == {
        "frames": hashlib.sha256(frames.astype("<f2").tobytes()).hexdigest(),
        "scored": hashlib.sha256(bytes(header.scored.tolist())).hexdigest(),
        "mask": hashlib.sha256(bytes(header.space.mask.ravel().tolist())).hexdigest(),
        "framewise_displacement": hashlib.sha256(header.framewise_displacement.astype("<f4").tobytes()).hexdigest(),
        "attributes": hashlib.sha256(text.encode()).hexdigest(),
    }


def _rewrite(name):
    def change(path):
        array = zarr.open_group(path, mode="r+")[name]
        # Whole chunks, with checksums of their own: only the store's can tell.
        values = array[:]
        array[:] = ~values if values.dtype == bool else values[::-1]

    return change


@pytest.mark.parametrize("name", ["frames", "scored", "mask", "framewise_displacement"])
def test_verify_names_what_was_changed(sharded, name):
    expected = RunStore(sharded).sha256[name]
    _rewrite(name)(sharded)
    with pytest.raises(MismatchError, match=f"{name}: expected SHA-256 {expected}, found [0-9a-f]{{64}}") as caught:
        RunStore(sharded).verify()
    assert str(sharded) in caught.value.message


def test_changed_attributes_are_not_read(path):
    text = (path / "zarr.json").read_text()
    assert text.count('"repetition_time": 1.5') == 1
    (path / "zarr.json").write_text(text.replace('"repetition_time": 1.5', '"repetition_time": 2.5'))
    with pytest.raises(MismatchError, match="attributes: expected SHA-256"):
        RunStore(path)


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.99])
def test_a_flipped_byte_is_noticed_at_any_read(sharded, frames, place):
    shard = sharded / "frames/c/1/0"
    content = bytearray(shard.read_bytes())
    content[int(place * len(content))] ^= 0x10
    shard.write_bytes(content)
    store = RunStore(sharded)
    assert np.array_equal(store.frames(0, 40), frames[:40].astype(np.float16))
    with pytest.raises(ImageError, match=r"frames 40 to 79 can't be read: .*") as caught:
        store.frames(40, 80)
    assert str(sharded) in caught.value.message
    with pytest.raises(ImageError):
        store.verify()


@pytest.mark.parametrize("keep", [0, 10, 500, 0.9])
def test_a_truncated_shard_is_noticed(sharded, keep):
    shard = sharded / "frames/c/1/0"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    for start, stop in ((40, 80), (75, 80)):
        with pytest.raises(ImageError, match=f"frames {start} to {stop - 1} can't be read|frame {start} is not there"):
            RunStore(sharded).frames(start, stop)


def test_a_lost_shard_is_not_read_as_zeros(sharded):
    (sharded / "frames/c/1/0").unlink()
    with pytest.raises(ImageError, match="frame 40 is not there"):
        RunStore(sharded).frames(35, 45)
    (sharded / "scored/c/0").unlink()
    with pytest.raises(MismatchError, match="scored: expected SHA-256"):
        _ = RunStore(sharded).scored


def test_killed_while_writing_leaves_no_store(tmp_path):
    script = """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from titan_neuro.data.space import Space
        from titan_neuro.data.store import RunHeader, write_run
        space = Space(kind="parcels", name="x", parcels=tuple(map(str, range(100_000))))
        header = RunHeader(key="k", entities={}, repetition_time=1.0, space=space, scored=np.ones(1000, bool))
        def blocks():
            for _ in range(200):
                yield np.ones((1, 100_000))
            os.kill(os.getpid(), signal.SIGKILL)
        write_run(Path(sys.argv[1]), header, blocks())
    """
    path = tmp_path / NAME
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(path.parent.glob(".*.tmp/frames/c/*"))
    with pytest.raises(InputNotFoundError):
        RunStore(path)
    with pytest.raises(InputNotFoundError, match="holds no prepared run"):
        open_runs(tmp_path)


def test_reading_writes_nothing(path):
    script = """
        import os, sys
        def refuse(event, arguments):
            changes = event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate"}
            if event == "open" and str(arguments[0]).startswith(sys.argv[1]):
                changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if changes:
                raise PermissionError(f"{event} {arguments}")
        from titan_neuro.data.store import RunStore
        sys.addaudithook(refuse)
        store = RunStore(sys.argv[1])
        store.verify()
        print(store.within(store.space).read(3, 9).shape)
    """
    everything = [path, *path.rglob("*")]
    for file in everything:
        file.chmod(0o555 if file.is_dir() else 0o444)
    before = [(file, file.stat().st_mtime_ns) for file in everything]
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), path], capture_output=True, text=True, check=False
        )
    finally:
        for file in everything:
            if file.is_dir():
                file.chmod(0o755)
    assert done.stdout.startswith("torch.Size([6, "), done.stderr
    assert [(file, file.stat().st_mtime_ns) for file in [path, *path.rglob("*")]] == before


class _Windows(torch.utils.data.Dataset):
    def __init__(self, view):
        self.view = view

    def __len__(self):
        return (N_FRAMES - 20) // 10

    def __getitem__(self, index):
        start = 10 * index
        return os.getpid(), self.view.read(start, start + 20)


@pytest.fixture(params=["folder", "http"])
def address(request, path):
    if request.param == "folder":
        yield path
    else:
        with serve(path.parents[2]) as server:
            yield f"{server.url}/{NAME}"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_any_number_of_processes_read_one_store(address, frames, start_method):
    store = RunStore(address)
    # The parent has read before: its threads and connections must not be the children's.
    view = store.within(store.space)
    view.read(0, 20)
    loader = torch.utils.data.DataLoader(
        _Windows(view), batch_size=2, num_workers=2, multiprocessing_context=multiprocessing.get_context(start_method)
    )
    processes, windows = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert len(set(processes.tolist()) - {os.getpid()}) == 2
    expected = np.lib.stride_tricks.sliding_window_view(frames.astype(np.float16), 20, axis=0)[:-1:10]
    assert np.array_equal(windows.numpy(), expected.transpose(0, 2, 1).astype(np.float32))


def test_an_address_takes_few_requests(path, sharded, frames):
    with serve(sharded.parents[2]) as server:
        store = RunStore(f"{server.url}/{NAME}")
        assert [request for request, _ in server.requests] == [f"/{NAME}/zarr.json"]
        server.requests.clear()
        assert np.array_equal(store.frames(42, 47), frames[42:47].astype(np.float16))
        # The index of the shard, and two of its ten chunks.
        assert [request for request, _ in server.requests] == [f"/{NAME}/frames/c/1/0"] * 3
        assert all(part for _, part in server.requests)
        store.verify()


def test_a_store_in_memory(path, frames):
    fsspec.filesystem("memory").put(str(path), "/test_store/x.zarr", recursive=True)
    store = RunStore("memory://test_store/x.zarr")
    store.verify()
    assert np.array_equal(store.frames(0, 5), frames[:5].astype(np.float16))
    with pytest.raises(InputNotFoundError, match=r"memory://test_store/y.zarr: no prepared run"):
        RunStore("memory://test_store/y.zarr")


def test_runs_are_found_at_an_address(path, header, frames):
    root = path.parents[2]
    other = root / "sub-02/ses-1/func/sub-02_ses-1_task-movie_desc-prepared_bold.zarr"
    write_run(other, RunHeader(**(vars(header) | {"key": "z", "entities": {"subject": "02"}})), [frames])
    (root / "sub-02/ses-1/func/sub-02_ses-1_task-movie_desc-prepared_bold.json").write_text("{}")
    with serve(root) as server:
        found = [run.path for run in open_runs(server.url)]
        assert found == [f"{server.url}/{file.relative_to(root)}" for file in (path, other)]
        assert not any(".zarr/frames" in request for request, _ in server.requests)
        assert [run.key for run in open_runs(server.url, ["02"])] == ["z"]
        with pytest.raises(InputNotFoundError, match="holds no prepared run of sub-03"):
            open_runs(server.url, ["03"])


def test_servers_that_lack_something(path):
    with serve(path.parents[2], ranges=False, lists=False) as server:
        url = f"{server.url}/{NAME}"
        with pytest.raises(ImageError, match="frames 3 to 6 can't be read") as caught:
            RunStore(url).frames(3, 7)
        assert "byte ranges" in caught.value.hint
        with pytest.raises(InputNotFoundError, match="can't be listed") as caught:
            open_runs(server.url)
        assert "RunStore(URL)" in caught.value.hint
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x.zarr"
    with pytest.raises(InputNotFoundError, match="can't be reached: ClientConnectorError"):
        RunStore(url)


@pytest.mark.parametrize(("url", "words"), [("webhdfs2://x/y.zarr", "not known"), ("oci://x/y.zarr", "ocifs")])
def test_addresses_without_a_driver(url, words):
    for call in (RunStore, open_runs):
        with pytest.raises(InputNotFoundError, match=words) as caught:
            call(url)
        assert "s3fs for s3://" in caught.value.hint


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_grid_is_that_of_the_space(path, space, frames, device):
    smaller = Space(kind="volume", name="native", mask=space.mask.copy(), affine=space.affine)
    smaller.mask[2] = False
    for study in (space, smaller):
        view = RunStore(path).within(study)
        grid = view.read_grid(30, 50, device)
        assert (grid.dtype, grid.device.type, grid.shape) == (torch.float32, device, (20, *SHAPE))
        assert np.array_equal(grid.cpu().numpy(), study.scatter(view.read(30, 50).numpy()))
        assert np.array_equal(grid.cpu().numpy()[:, study.mask], frames[30:50][:, study.mask[space.mask]].astype("f2"))
