"""Killed while working, two at once, no room on the disk: the next run finishes, and a store is never half there."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess

import forked
import pytest

from titan_neuro.errors import OutputError


def kill_before_writing(preparation, output, pattern):
    kill = functools.partial(forked.kill_before_writing, output, pattern)
    assert preparation.exit_code(output, kill) == -signal.SIGKILL, preparation.messages.read_text()


def test_killed_while_a_store_is_written(native):
    output = native.new_output()
    kill_before_writing(native, output, "*/.*.zarr.*.tmp/series/c/*")
    assert list(output.rglob("sub-01/func/.*.zarr.*.tmp"))
    assert not list(output.rglob("sub-01/func/*.zarr"))
    native.finish(output)
    native.check(output)


def test_killed_between_the_two_passes(raw):
    output = raw.new_output()
    kill_before_writing(raw, output, "*/.*.zarr.*.tmp/series/c/*")
    assert not list(output.rglob("sub-01/func/*.zarr"))
    assert all(path.stat().st_size for path in output.glob(".work/scratch/*/series"))
    assert list(output.glob(".work/scratch/*/series"))
    raw.finish(output)
    raw.check(output)


def test_two_processes_prepare_the_same_runs(native, tmp_path):
    output = native.new_output()
    messages = [tmp_path / "first", tmp_path / "second"]
    processes = [forked.start(["prepare", native.root, output], path) for path in messages]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    n_new = [int(path.read_text().splitlines()[-1].split()[3]) for path in messages]
    assert sum(n_new) == native.n_runs
    native.check(output)


@pytest.mark.parametrize("full", ["store", "scratch"])
def test_a_full_disk_is_reported_and_leaves_nothing(native, one_raw, full):
    """A limit on the size of a file simulates the disk: the same system calls fail in the same places."""
    preparation, n_bytes = (native, 2**17) if full == "store" else (one_raw, 2**16)
    output = preparation.new_output()
    code = preparation.exit_code(output, functools.partial(forked.limit_file_size, n_bytes))
    messages = preparation.messages.read_text()
    assert code == OutputError.exit_code, messages
    assert "can't be written" in messages
    assert "room" in messages
    assert ("scratch" in messages) == (full == "scratch")
    assert not list(output.rglob("*.zarr"))
    assert not list(output.rglob("*.tmp"))
    preparation.finish(output)
    preparation.check(output)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_disk_is_reported(native):
    output = native.new_output()
    output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", output], check=True)
    try:
        code = native.exit_code(output)
    finally:
        subprocess.run(["umount", output], check=True)
    assert code == OutputError.exit_code, native.messages.read_text()
    assert "can't be written" in native.messages.read_text()


def test_the_sidecar_names_the_sources(native):
    output = native.folder / "out-1"
    sidecars = sorted(output.rglob("*_desc-prepared_bold.json"))
    assert [json.loads(path.read_text(encoding="utf-8"))["Sources"] for path in sidecars] == [
        [f"sub-01_task-movie_run-{run:02d}_bold.nii.gz", "sub-01_desc-brain_mask.nii.gz"] for run in (1, 2, 3)
    ]
