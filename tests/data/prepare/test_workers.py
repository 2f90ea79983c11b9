"""Runs prepared side by side: a worker that is killed, and workers whose parent is."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import forked
import native_runs
import pytest

from titan_neuro.data.store import open_runs
from titan_neuro.errors import TitanNeuroError

N_RUNS = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return native_runs.write(
        tmp_path_factory.mktemp("workers") / "bids", n_runs=N_RUNS, shape=(24, 26, 22), n_time_points=80
    )


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def workers_of(parent):
    """Processes that are working for another one (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything.
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stores(output):
    return {path: path.stat().st_mtime_ns for path in output.rglob("*_desc-prepared_bold.json")}


@pytest.mark.parametrize("killed", ["worker", "parent"])
def test_killed_while_runs_are_prepared_side_by_side(dataset, tmp_path, killed):
    output, messages = tmp_path / "out", tmp_path / "messages"
    process = forked.start(["prepare", dataset, output, "--nprocs", 2], messages)
    wait_for(lambda: any(output.rglob(".*.zarr.*.tmp")))
    workers = workers_of(process.pid)
    assert len(workers) == 2
    if killed == "worker":
        os.kill(workers[0], signal.SIGKILL)
    else:
        process.kill()
    process.join(60)
    if killed == "worker":
        assert process.exitcode == TitanNeuroError.exit_code
        assert "A process that prepared a run was killed" in messages.read_text()
        assert "fewer --nprocs: what is done stays done" in messages.read_text()
    # Nobody would give them work, and they would hold their memory for ever.
    try:
        wait_for(lambda: not any(map(is_alive, workers)))
    finally:
        for worker in filter(is_alive, workers):
            os.kill(worker, signal.SIGKILL)
    done = stores(output)
    assert len(done) < N_RUNS
    process = forked.start(["prepare", dataset, output], messages)
    process.join(60)
    assert process.exitcode == 0, messages.read_text()
    assert f"{N_RUNS} runs prepared, {N_RUNS - len(done)} of them now." in messages.read_text()
    assert done.items() <= stores(output).items()
    assert len(open_runs(output)) == N_RUNS
    for store in open_runs(output):
        store.verify()
    assert not [*output.rglob("*.tmp"), *output.glob(".work/scratch/*")]
