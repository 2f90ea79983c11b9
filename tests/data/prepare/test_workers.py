"""Runs prepared side by side: a worker that is killed, and workers whose parent is."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from preparations import finished_runs, native_in

from titan_neuro.errors import TitanNeuroError


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory):
    return native_in(tmp_path_factory.mktemp("workers"), n_runs=4)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return value


def workers_of(parent):
    """Worker processes of a process (Linux)."""
    workers = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may contain anything.
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                workers.append(int(folder.name))
    return workers


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("killed", ["worker", "parent"])
def test_killed_while_runs_are_prepared_side_by_side(four_runs, killed):
    output = four_runs.new_output()
    messages = four_runs.messages
    process = four_runs.start(output, None, "--nprocs", 2)
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
    # Without their parent they would wait for work, and hold their memory, forever.
    try:
        wait_for(lambda: not any(map(is_alive, workers)))
    finally:
        for worker in filter(is_alive, workers):
            os.kill(worker, signal.SIGKILL)
    done = finished_runs(output)
    assert len(done) < four_runs.n_runs
    four_runs.finish(output)
    assert f"4 runs prepared, {4 - len(done)} of them now." in messages.read_text()
    assert done.items() <= finished_runs(output).items()
    four_runs.check(output)
