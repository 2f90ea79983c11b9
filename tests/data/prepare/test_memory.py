"""The longest run of ds003017 at its real size is prepared within 1.5 GiB."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from phantom import STEM, Phantom

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
