"""Killed while working, two at once, no room on the disk: the next run finishes, and a store is never half there."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantom import STEM, Phantom, save

from titan_neuro.data.store import open_runs
from titan_neuro.errors import OutputError

SHAPE, N_TIME_POINTS = (40, 44, 36), 300
COMMAND = str(Path(sys.executable).with_name("titan-neuro"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One native run that takes seconds to write, in a folder whose name is no plain word."""
    root = tmp_path_factory.mktemp("interrupted") / "les données – 数据"
    func = root / "sub-01/func"
    func.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "Fête", "BIDSVersion": "1.8.0"}')
    (func / f"{STEM}_bold.json").write_text('{"RepetitionTime": 1.0, "TaskName": "movie"}')
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*SHAPE, N_TIME_POINTS))
    header.set_zooms((4.0, 4.0, 4.0, 1.0))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(np.diag([4.0, 4.0, 4.0, 1.0]), code="scanner")
    rng = np.random.default_rng(0)
    with gzip.open(func / f"{STEM}_bold.nii.gz", "wb", compresslevel=1) as file:
        header.write_to(file)
        for _ in range(N_TIME_POINTS):
            file.write(rng.integers(900, 1100, SHAPE, dtype=np.int16).tobytes(order="F"))
    masks = root / "derivatives/mask/sub-01/func"
    masks.mkdir(parents=True)
    save(masks / "sub-01_desc-brain_mask.nii.gz", np.ones(SHAPE, np.uint8), np.diag([4.0, 4.0, 4.0, 1.0]))
    return root


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """One raw run with transforms: its volumes lie on disk between two passes."""
    phantom = Phantom(shape=(22, 26, 20), voxel_mm=8.0, warp_spacing_mm=8.0, n_volumes=200)
    rng = np.random.default_rng(0)
    data = phantom.record(0)[..., None] + rng.normal(0, 10, (*phantom.shape, 200))
    return phantom.write(tmp_path_factory.mktemp("moving") / "bids", data)


def start(root, output, *options, **popen):
    command = [COMMAND, "prepare", root, output, *options]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)


def finish(process):
    _, messages = process.communicate(timeout=120)
    return process.returncode, messages


def kill_when_there_is(process, output, pattern):
    deadline = time.monotonic() + 60
    while not list(output.rglob(pattern)):
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_whole(output):
    [store] = open_runs(output)
    store.verify()
    assert not list(output.rglob("*.tmp"))
    assert not list(output.glob(".work/scratch/*"))
    return store


def test_killed_while_writing(dataset, tmp_path):
    output = tmp_path / "out"
    kill_when_there_is(start(dataset, output), output, ".*.zarr.*.tmp/series")
    assert not list(output.rglob("sub-01/func/*.zarr"))
    code, messages = finish(start(dataset, output))
    assert code == 0, messages
    assert assert_whole(output).n_time_points == N_TIME_POINTS


def test_killed_between_the_passes(moving, tmp_path):
    output = tmp_path / "out"
    options = ("--resolution", "8", "--confounds", "motion24")
    kill_when_there_is(start(moving, output, *options), output, ".work/scratch/*/series")
    assert not list(output.rglob("sub-01/func/*.zarr"))
    assert list(output.glob(".work/scratch/*"))
    code, messages = finish(start(moving, output, *options))
    assert code == 0, messages
    assert_whole(output)


def test_two_processes_prepare_the_same_run(dataset, tmp_path):
    output = tmp_path / "out"
    outcomes = [finish(process) for process in [start(dataset, output), start(dataset, output)]]
    assert [code for code, _ in outcomes] == [0, 0]
    assert sorted(messages.splitlines()[-1] for _, messages in outcomes) == [
        "1 runs prepared, 0 of them now.",
        "1 runs prepared, 1 of them now.",
    ]
    assert_whole(output)


@pytest.mark.parametrize("which", ["store", "scratch"])
def test_no_room_on_the_disk(dataset, moving, tmp_path, which):
    """A limit on the size of a file stands for the disk: the same system calls fail in the same places."""
    output = tmp_path / "out"
    root, options = (dataset, ()) if which == "store" else (moving, ("--resolution", "8"))
    limit = 2**20 if which == "store" else 2**18

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, messages = finish(start(root, output, *options, preexec_fn=no_room))
    assert code == OutputError.exit_code, messages
    assert "can't be written" in messages
    assert "room" in messages
    assert not list(output.rglob("*.zarr"))
    assert not list(output.rglob("*.tmp"))
    code, messages = finish(start(root, output, *options))
    assert code == 0, messages
    assert_whole(output)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_disk(dataset, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", output], check=True)
    try:
        code, messages = finish(start(dataset, output))
    finally:
        subprocess.run(["umount", output], check=True)
    assert code == OutputError.exit_code, messages
    assert "can't be written" in messages


def test_the_sidecar_names_what_the_run_was_made_from(dataset, tmp_path):
    output = tmp_path / "out"
    assert finish(start(dataset, output))[0] == 0
    sidecar = json.loads(next(output.rglob("*_desc-prepared_bold.json")).read_text(encoding="utf-8"))
    assert sidecar["Sources"] == [f"{STEM}_bold.nii.gz", "sub-01_desc-brain_mask.nii.gz"]
