"""The resident size of all processes of the command stays within ``--mem``; the longest run takes 1.5 GiB."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import forked
import native_runs
import nibabel as nib
import numpy as np
import pytest
from phantom import STEM, Phantom
from preparations import raw_with_transforms

from titan_neuro import errors
from titan_neuro.data.store import open_runs

N_VOLUMES, SHAPE = 803, (96, 96, 48)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """803 volumes of 96 x 96 x 48 at 2.5 mm, LAS, int16, and a template warp of 1 mm, as they are published."""
    phantom = Phantom(shape=SHAPE, voxel_mm=2.5, warp_spacing_mm=1.0, n_volumes=N_VOLUMES)
    root = phantom.write(tmp_path_factory.mktemp("full") / "bids", phantom.record(0)[..., None])
    sidecar = root / f"sub-01/func/{STEM}_bold.json"
    times = [0.9 * (number % 12) / 12 for number in range(SHAPE[2])]
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "SliceTiming": times}))
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*SHAPE, N_VOLUMES))
    header.set_zooms((2.5, 2.5, 2.5, 1.0))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(phantom.affine, code="scanner")
    rng = np.random.default_rng(0)
    first = phantom.record(0)
    with gzip.open(root / f"sub-01/func/{STEM}_bold.nii.gz", "wb", compresslevel=1) as file:
        header.write_to(file)
        for _ in range(N_VOLUMES):
            volume = first + rng.normal(0, 10, SHAPE).astype(np.float32)
            file.write(np.rint(volume).astype(np.int16).tobytes(order="F"))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), ("prepare.slice_timing=true", "prepare.estimation=whole-run")])
def test_the_longest_run_at_2_mm(full_size, tmp_path, settings):
    # Of a process that was forked, getrusage tells the parent's peak, too; the kernel's own mark begins at exec.
    script = "import sys; from titan_neuro.cli import main; code = main(sys.argv[1:]); "
    script += "print(*[line for line in open('/proc/self/status') if 'VmHWM' in line]); sys.exit(code)"
    arguments = ["prepare", full_size, tmp_path / "out", "--resolution", "2", "--confounds", "budapest2020"]
    arguments += ["--set", "prepare.high_pass_hz=0.008", *(part for setting in settings for part in ("--set", setting))]
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak_kib = int(done.stdout.split()[1])
    assert peak_kib < 1.5 * 2**20
    [store] = open_runs(tmp_path / "out")
    assert store.n_time_points == N_VOLUMES
    assert store.space.n_features > 100_000
    assert len(store.record["whole_run"]) == (0 if not settings else 10)


def peak_gb(messages, *arguments):
    """Prepare; return the exit code, how many processes there were, and the sum of their highest resident sizes."""
    process, peaks, before = forked.start(["prepare", *arguments], messages), {}, set()
    while process.is_alive():
        # Until it executes git, a new process shares the memory of the one that started it.
        found = {pid: peak_kib for pid in tree(process.pid) if (peak_kib := field(pid, "VmHWM"))}
        peaks |= {pid: peak_kib for pid, peak_kib in found.items() if pid in before}
        before = set(found)
        time.sleep(0.02)
    process.join()
    return process.exitcode, len(peaks), sum(peaks.values()) * 1024 / 1e9


def tree(root):
    """The process and its descendants; those of a process are listed for each of its threads."""
    yield root
    for children in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            pids = children.read_text().split()
        except OSError:
            continue
        for pid in pids:
            yield from tree(int(pid))


def field(pid, name):
    """A number of a process's status; 0 where the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{name}:\s*(\d+)", status)
    return int(found[1]) if found else 0


def native(folder):
    """Two runs of 120 volumes; a block of all of them would take 0.2 GB."""
    return native_runs.write(folder / "bids", n_runs=2, shape=(24, 26, 22), n_time_points=120)


def raw(folder):
    """Two raw runs with transforms; a block of all volumes at 4 mm would take 0.3 GB."""
    return raw_with_transforms(folder, n_runs=2, n_volumes=70).root


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("write", "settings"),
    [
        (native, ("prepare.high_pass_hz=0.01",)),
        (native, ("prepare.high_pass_hz=0.01", "prepare.estimation=whole-run")),
        (raw, ("prepare.resolution_mm=4", "prepare.confounds=budapest2020", "prepare.calibration_s=20")),
    ],
    ids=["volumes", "whole-run", "transforms"],
)
def test_all_processes_stay_within_the_bound(tmp_path, write, settings):
    root, messages = write(tmp_path), tmp_path / "messages"
    options = [part for setting in settings for part in ("--set", setting)]

    def prepare(name, gb, *more):
        return peak_gb(messages, root, tmp_path / name, *options, "--mem", f"{gb:.3f}", *more)

    assert prepare("nothing", 0.1)[0] == errors.UsageError.exit_code
    least_gb = float(re.search(r"expected at least ([\d.]+) GB", messages.read_text())[1]) + 0.02
    for name, gb, more in (
        ("tight", least_gb, ("--nprocs", "2")),
        ("roomy", least_gb + 0.3, ()),
        ("two", 3 * least_gb + 0.1, ("--nprocs", "2")),
    ):
        code, n_processes, found_gb = prepare(name, gb, *more)
        assert code == 0, messages.read_text()
        assert found_gb < gb, name
        # Git, which names the commit, may be one of them.
        assert n_processes >= (3 if name == "two" else 1)
    assert f"--mem {least_gb:.2f} GB: 1 of 2 processes fit" in messages.read_text()
    stores = [open_runs(tmp_path / name) for name in ("tight", "roomy", "two")]
    for same_run in zip(*stores, strict=True):
        contents = [store.series(0, store.n_time_points) for store in same_run]
        assert all(np.array_equal(content, contents[0]) for content in contents[1:])


def test_a_run_that_does_not_fit_is_not_begun(tmp_path):
    root, messages = native(tmp_path), tmp_path / "messages"
    code, *_ = peak_gb(messages, root, tmp_path / "out", "--mem", "0.1")
    assert code == errors.UsageError.exit_code
    assert "expected at least" in messages.read_text()
    assert "for sub-01_task-movie_run-0" in messages.read_text()
    assert not list((tmp_path / "out").rglob("*.zarr"))
