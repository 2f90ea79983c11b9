"""What ``--dry-run`` says of a run beforehand, and that the run itself then does it."""

from __future__ import annotations

import json

import native_runs
import nibabel as nib
import numpy as np
import pytest
from phantom import STEM, Phantom, save

from titan_neuro.cli import main
from titan_neuro.data.store import open_runs

SHAPE = (5, 6, 4)


def prepare(dataset, output, *flags):
    return main(["prepare", str(dataset), str(output), "--set", "prepare.warmup_s=5", *map(str, flags)])


@pytest.fixture
def native(tmp_path):
    return native_runs.write(tmp_path / "bids", n_runs=1, shape=SHAPE, n_time_points=40)


def write_confounds(dataset, n_marked, n_rows=40):
    lines = ["\t".join(["csf", *(f"non_steady_state_outlier{k:02d}" for k in range(n_marked))])]
    lines += ["\t".join(["0.5", *(f"{row == k:d}" for k in range(n_marked))]) for row in range(n_rows)]
    path = dataset / f"derivatives/mask/sub-01/func/{STEM}_desc-confounds_timeseries.tsv"
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("n_marked", [1, 2, 4])
def test_marked_volumes_are_said(native, tmp_path, capsys, n_marked):
    write_confounds(native, n_marked)
    assert prepare(native, tmp_path / "out", "--dry-run") == 0
    said = f"volumes before the steady state: {n_marked}, from non_steady_state_outlier00, ... of the table"
    assert said in capsys.readouterr().err
    assert prepare(native, tmp_path / "out") == 0
    assert open_runs(tmp_path / "out")[0].record["steady_state"]["volumes_before"] == n_marked


@pytest.mark.parametrize(
    ("table", "said"), [(False, "no table of confounds"), (True, "the table of confounds marks none")]
)
def test_unmarked_volumes_are_looked_for(native, tmp_path, capsys, table, said):
    if table:
        write_confounds(native, 0)
    assert prepare(native, tmp_path / "out", "--dry-run") == 0
    assert f"{said}; they are looked for in the first volumes" in capsys.readouterr().err


def test_a_mask_that_will_be_computed_is_said(native, tmp_path, capsys):
    next(native.rglob("*brain_mask.nii.gz")).unlink()
    assert prepare(native, tmp_path / "out", "--dry-run") == 0
    assert "mask: the dataset has none: computed from the first volumes" in capsys.readouterr().err


def replace_mask(dataset, shape, value):
    save(next(dataset.rglob("*brain_mask.nii.gz")), np.full(shape, value, np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))


def test_a_soft_mask_is_said(native, tmp_path, capsys):
    replace_mask(native, SHAPE, np.linspace(0.3, 1, np.prod(SHAPE)).reshape(SHAPE))
    assert prepare(native, tmp_path / "out", "--dry-run") == 0
    assert "not binary: voxels of at least 0.5" in capsys.readouterr().err


def mask_on_another_grid(dataset):
    replace_mask(dataset, (5, 6, 5), 1)


def empty_mask(dataset):
    replace_mask(dataset, SHAPE, 0)


def wrong_rows(dataset):
    write_confounds(dataset, 1, n_rows=39)


def no_preset(_):
    return "--confounds", "motion24"


def fractions_as_labels(dataset):
    save(dataset / "x_dseg.nii.gz", np.full(SHAPE, 0.5, np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    return "--atlas", dataset / "x_dseg.nii.gz"


def surface_labels(dataset):
    labels = nib.gifti.GiftiDataArray(np.ones(10, np.int32), intent="NIFTI_INTENT_LABEL")
    for side in "LR":
        nib.save(nib.GiftiImage(darrays=[labels]), dataset / f"x_hemi-{side}_dseg.label.gii")
    return "--atlas", dataset / "x_hemi-L_dseg.label.gii"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (mask_on_another_grid, "expected the grid of"),
        (empty_mask, "the brain mask is empty"),
        (wrong_rows, "39"),
        (no_preset, "has no table of confounds"),
        (fractions_as_labels, "expected labels, whole numbers"),
        (surface_labels, "found an atlas on surfaces"),
    ],
)
def test_what_fails_is_said_beforehand(native, tmp_path, capsys, spoil, message):
    flags = spoil(native) or ()
    code = prepare(native, tmp_path / "out", "--dry-run", *flags)
    text = capsys.readouterr().err
    assert message in text
    assert code != 0 or ("CAN'T BE PREPARED" in text and "1 of 1 runs can't be prepared" in text)
    assert not (tmp_path / "out").exists()
    assert prepare(native, tmp_path / "out", *flags) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "with a total readout time of 0.05 s, from TotalReadoutTime"),
        ({"TotalReadoutTime": None, "EffectiveEchoSpacing": 0.001, "ReconMatrixPE": 41}, "0.04 s, from Effective"),
        ({"TotalReadoutTime": None}, "CAN'T BE PREPARED"),
        ({"PhaseEncodingDirection": None}, "CAN'T BE PREPARED"),
    ],
)
def test_the_readout_time_is_said(tmp_path, capsys, change, said):
    Phantom(shape=(8, 9, 7), voxel_mm=20.0, warp_spacing_mm=20.0, n_volumes=4).write(tmp_path / "bids")
    [sidecar] = (tmp_path / "bids").glob("sub-*/func/*_bold.json")
    content = json.loads(sidecar.read_text()) | change
    sidecar.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    assert prepare(tmp_path / "bids", tmp_path / "out", "--dry-run") == 0
    assert said in capsys.readouterr().err


def test_a_run_without_fieldmap_needs_no_readout_time(tmp_path, capsys):
    Phantom(shape=(8, 9, 7), voxel_mm=20.0, warp_spacing_mm=20.0, n_volumes=4).write(tmp_path / "bids")
    for path in (tmp_path / "bids").rglob("*"):
        if "fieldmap" in path.name or "_to-auto" in path.name:
            path.unlink()
    assert prepare(tmp_path / "bids", tmp_path / "out", "--dry-run") == 0
    assert "distortion: not corrected: the run has no fieldmap" in capsys.readouterr().err
