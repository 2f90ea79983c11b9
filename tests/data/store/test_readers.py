"""A run is read from a folder or a URL, by any number of processes, without writing."""

import multiprocessing
import os
import socket
import subprocess
import sys
import textwrap

import fsspec
import numpy as np
import pytest
import torch
from range_server import serve
from store_example import NAME, Windows

from titan_neuro.data.store import RunHeader, RunStore, open_runs, write_run
from titan_neuro.errors import ImageError, InputNotFoundError


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


@pytest.fixture
def address(request, path):
    if request.param == "folder":
        yield path
    else:
        with serve(path.parents[2]) as server:
            yield f"{server.url}/{NAME}"


# A spawned process imports torch; one address is enough to test it.
@pytest.mark.parametrize(
    ("address", "start_method"), [("folder", "fork"), ("http", "fork"), ("http", "spawn")], indirect=["address"]
)
def test_several_processes_read_one_store(address, series, start_method):
    store = RunStore(address)
    # The parent has read before: its threads and connections must not be shared with the children.
    view = store.within(store.space)
    view.read(0, 20)
    loader = torch.utils.data.DataLoader(
        Windows(view), batch_size=2, num_workers=2, multiprocessing_context=multiprocessing.get_context(start_method)
    )
    processes, windows = (torch.cat(batches) for batches in zip(*loader, strict=True))
    assert len(set(processes.tolist()) - {os.getpid()}) == 2
    expected = np.lib.stride_tricks.sliding_window_view(series.astype(np.float16), 20, axis=0)[:-1:10]
    assert np.array_equal(windows.numpy(), expected.transpose(0, 2, 1).astype(np.float32))


def test_reading_from_a_url_takes_few_requests(path, sharded, series):
    with serve(sharded.parents[2]) as server:
        store = RunStore(f"{server.url}/{NAME}")
        assert [request for request, _ in server.requests] == [f"/{NAME}/zarr.json"]
        server.requests.clear()
        assert np.array_equal(store.series(42, 47), series[42:47].astype(np.float16))
        # The index of the shard, and two of its ten chunks.
        assert [request for request, _ in server.requests] == [f"/{NAME}/series/c/1/0"] * 3
        assert all(byte_range for _, byte_range in server.requests)
        store.verify()


def test_stores_are_read_from_fsspec_memory(path, series):
    fsspec.filesystem("memory").put(str(path), "/test_store/x.zarr", recursive=True)
    store = RunStore("memory://test_store/x.zarr")
    store.verify()
    assert np.array_equal(store.series(0, 5), series[:5].astype(np.float16))
    with pytest.raises(InputNotFoundError, match=r"memory://test_store/y.zarr: no prepared run"):
        RunStore("memory://test_store/y.zarr")


def test_runs_are_found_at_a_url(path, header, series):
    root = path.parents[2]
    other = root / "sub-02/ses-1/func/sub-02_ses-1_task-movie_desc-prepared_bold.zarr"
    write_run(other, RunHeader(**(vars(header) | {"key": "z", "entities": {"subject": "02"}})), [series])
    (root / "sub-02/ses-1/func/sub-02_ses-1_task-movie_desc-prepared_bold.json").write_text("{}")
    with serve(root) as server:
        paths = [run.path for run in open_runs(server.url)]
        assert paths == [f"{server.url}/{file.relative_to(root)}" for file in (path, other)]
        assert not any(".zarr/series" in request for request, _ in server.requests)
        assert [run.key for run in open_runs(server.url, ["02"])] == ["z"]
        with pytest.raises(InputNotFoundError, match="contains no prepared run of sub-03"):
            open_runs(server.url, ["03"])


def test_servers_without_ranges_or_listings_are_named(path):
    with serve(path.parents[2], ranges=False, lists=False) as server:
        url = f"{server.url}/{NAME}"
        with pytest.raises(ImageError, match="time points 3 to 6 can't be read") as caught:
            RunStore(url).series(3, 7)
        assert "byte ranges" in caught.value.hint
        with pytest.raises(InputNotFoundError, match="can't be listed") as caught:
            open_runs(server.url)
        assert "RunStore(URL)" in caught.value.hint
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x.zarr"
    with pytest.raises(InputNotFoundError, match="can't be reached: ClientConnectorError"):
        RunStore(url)


@pytest.mark.parametrize(("url", "words"), [("webhdfs2://x/y.zarr", "not known"), ("oci://x/y.zarr", "ocifs")])
def test_schemes_without_a_driver_are_named(url, words):
    for call in (RunStore, open_runs):
        with pytest.raises(InputNotFoundError, match=words) as caught:
            call(url)
        assert "s3fs for s3://" in caught.value.hint
