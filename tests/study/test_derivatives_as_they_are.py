"""Derivatives of other programs: parcels that some runs lack, headers that are wrong, grids that differ."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from titan_neuro.cli import main
from titan_neuro.data.store import open_runs
from titan_neuro.errors import ImageError, MetadataError
from titan_neuro.study import Study

SPACE, SHAPE, N_VOLUMES = "space-MNI152NLin2009cAsym", (6, 7, 5), 40
NAMES = ("a", "b", "c", "d")
AFFINE = np.diag([3.0, 3.0, 4.0, 1.0])


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "derivative"
    root.mkdir()
    description = {"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def write_parcels(dataset, subject, lost=()):
    path = dataset / f"sub-{subject}/func/sub-{subject}_task-movie_{SPACE}_seg-Four_stat-mean_timeseries.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(int(subject)).normal(size=(N_VOLUMES, len(NAMES)))
    rows = [
        ["n/a" if name in lost else f"{value:.4f}" for name, value in zip(NAMES, row, strict=True)] for row in values
    ]
    path.write_text("\n".join("\t".join(row) for row in [NAMES, *rows]) + "\n")
    path.with_suffix(".json").write_text('{"RepetitionTime": 1.0}')
    return values


def write_image(dataset, subject, *, affine=AFFINE, header_tr=1.5, mask=None, suffix="preproc"):
    stem = dataset / f"sub-{subject}/func/sub-{subject}_task-movie_{SPACE}_desc-"
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(int(subject)).normal(1000, 20, (*SHAPE, N_VOLUMES)).astype(np.float32)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], header_tr))
    nib.save(image, f"{stem}preproc_bold.nii.gz")
    (stem.parent / f"{stem.name}preproc_bold.json").write_text('{"RepetitionTime": 1.5}')
    mask = np.ones(SHAPE) if mask is None else mask
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), f"{stem}brain_mask.nii.gz")


def prepare(dataset, *options):
    return main(["prepare", str(dataset), str(dataset.parent / "out"), *map(str, options)])


def plan_group(dataset):
    return main(["run", str(dataset), str(dataset.parent / "out"), "group", "--dry-run"])


def test_a_study_takes_the_parcels_that_all_runs_have(dataset, capsys):
    values = [write_parcels(dataset, f"0{n}", lost) for n, lost in ((1, ("d",)), (2, ("b",)), (3, ()))]
    assert prepare(dataset) == 0
    runs = open_runs(dataset.parent / "out")
    assert [(run.space.parcels, run.space.lost_parcels) for run in runs] == [
        (("a", "b", "c"), ("d",)),
        (("a", "c", "d"), ("b",)),
        (NAMES, ()),
    ]
    capsys.readouterr()
    assert plan_group(dataset) == 0
    message = "takes the 2 parcels that all 3 runs have; 2 are lost: b (sub-02_task-movie), d (sub-01_task-movie)."
    assert message in capsys.readouterr().err
    fold = Study.open(None, dataset.parent / "out").folds()[0]
    assert any("2 of 4 parcels are left out" in caveat for caveat in fold.caveats)
    for run, recorded in zip(runs, values, strict=True):
        read = run.within(fold.space).read(10, 40).numpy()
        for column, parcel in enumerate("ac"):
            assert np.corrcoef(read[:, column], recorded[10:, NAMES.index(parcel)])[0, 1] > 0.95


def test_parcels_of_other_atlases_are_not_lost_ones(dataset, capsys):
    for subject in ("01", "02", "03"):
        write_parcels(dataset, subject)
    table = next(dataset.glob("sub-02/func/*.tsv"))
    table.write_text("\n".join(line.rpartition("\t")[0] for line in table.read_text().splitlines()) + "\n")
    assert prepare(dataset) == 0
    assert plan_group(dataset) == ImageError.exit_code
    assert "expected 4 parcels (a, b, ...), found 3 (a, b, ...)" in capsys.readouterr().err


def test_a_parcel_outside_the_field_of_view_is_lost(dataset, tmp_path, capsys):
    partial = np.ones(SHAPE)
    partial[..., :2] = 0
    for subject, mask in (("01", partial), ("02", None), ("03", None)):
        write_image(dataset, subject, mask=mask)
    labels = 1 + (np.indices(SHAPE)[0] > 2) + 2 * (np.indices(SHAPE)[2] < 2)
    atlas = tmp_path / f"atlas-A_{SPACE}_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels.astype(np.int16), AFFINE), atlas)
    assert prepare(dataset, "--atlas", atlas) == 0
    assert "2 of its 4 parcels are without a voxel in the mask of sub-01_task-movie" in capsys.readouterr().err
    assert [run.space.lost_parcels for run in open_runs(tmp_path / "out")] == [("3", "4"), (), ()]
    assert plan_group(dataset) == 0
    assert "takes the 2 parcels that all 3 runs have" in capsys.readouterr().err


@pytest.mark.parametrize("header_tr", [1.0, 1500.0])
def test_the_sidecar_of_a_derivative_holds(dataset, tmp_path, capsys, header_tr):
    write_image(dataset, "01", header_tr=header_tr)
    assert prepare(dataset) == 0
    [run] = open_runs(tmp_path / "out")
    assert run.repetition_time == 1.5
    assert f"the header {header_tr:g} s" in capsys.readouterr().err


def test_a_setting_says_that_the_header_is_right(dataset, tmp_path, capsys):
    write_image(dataset, "01", header_tr=1.0)
    header = ("--set", "prepare.repetition_time_from=header")
    assert prepare(dataset, *header) == 0
    [run] = open_runs(tmp_path / "out")
    assert run.repetition_time == 1.0
    assert run.record["settings"]["repetition_time_from"] == "header"
    write_image(dataset, "01", header_tr=1500.0)
    assert prepare(dataset, *header) == MetadataError.exit_code
    assert "from 0.01 to 100 s, found 1500.0 (the header)" in capsys.readouterr().err


@pytest.mark.parametrize(("slice_mm", "code"), [(4.0004, 0), (4.05, ImageError.exit_code)])
def test_runs_on_other_grids(dataset, capsys, slice_mm, code):
    for subject, last in (("01", 4.0), ("02", slice_mm), ("03", 4.0)):
        write_image(dataset, subject, affine=np.diag([3.0, 3.0, last, 1.0]))
    assert prepare(dataset) == 0
    assert plan_group(dataset) == code
    text = capsys.readouterr().err
    assert ("--resolution MM" in text) == bool(code)
    assert "internal error" not in text
