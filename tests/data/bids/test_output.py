import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.bids.output import check_output, init_output_dir, write_nifti
from titan_neuro.data.space import Space
from titan_neuro.errors import OutputError, UsageError


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "bids"
    root.mkdir()
    (root / "dataset_description.json").write_text(
        '{"Name": "A stimulus", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:1/2"}'
    )
    return root


@pytest.fixture
def space():
    mask = np.random.default_rng(0).random((4, 5, 6)) > 0.5
    affine = np.diag([-3.0, 3, 3, 1])
    return Space(kind="volume", name="MNI152NLin2009cAsym", mask=mask, affine=affine)


def test_the_output_describes_itself(source, tmp_path):
    init_output_dir(tmp_path / "out", source, "1.2.3", tmp_path / "work")
    description = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"] == [{"Name": "Titan-Neuro", "Version": "1.2.3"}]
    assert description["SourceDatasets"] == [{"URL": source.as_uri(), "DOI": "doi:1/2"}]
    init_output_dir(tmp_path / "out", source, "1.2.4", tmp_path / "work")


@pytest.mark.parametrize("leftover", [".work/locks/x.lock", ".dataset_description.json.0123abcd.tmp"])
def test_leftovers_of_a_killed_process_are_accepted(source, tmp_path, leftover):
    output = tmp_path / "out"
    (output / leftover).parent.mkdir(parents=True)
    (output / leftover).touch()
    init_output_dir(output, source, "1.2.3", output / ".work")
    assert sorted(path.name for path in output.iterdir()) == [
        ".bidsignore",
        ".work",
        "README.md",
        "dataset_description.json",
    ]


def test_missing_files_are_written_by_the_next_call(source, tmp_path):
    for name in ("README.md", ".bidsignore"):
        init_output_dir(tmp_path / "out", source, "1.2.3", tmp_path / "work")
        (tmp_path / "out" / name).unlink()
    init_output_dir(tmp_path / "out", source, "1.2.3", tmp_path / "work")
    assert len([*(tmp_path / "out").iterdir()]) == 3


def test_an_output_of_another_dataset_is_refused(source, tmp_path):
    init_output_dir(tmp_path / "out", source, "1.2.3", tmp_path / "work")
    other = shutil.copytree(source, tmp_path / "other")
    with pytest.raises(OutputError, match="made from another dataset"):
        init_output_dir(tmp_path / "out", other, "1.2.3", tmp_path / "work")
    # Nor is it the same one at another place, where it has another name.
    moved = source.rename(tmp_path / "moved")
    (moved / "dataset_description.json").write_text('{"Name": "another", "BIDSVersion": "1.8.0"}')
    with pytest.raises(OutputError, match="made from another dataset"):
        init_output_dir(tmp_path / "out", moved, "1.2.3", tmp_path / "work")


def test_a_moved_dataset_is_the_same_one(source, tmp_path):
    init_output_dir(tmp_path / "out", source, "1.2.3", tmp_path / "work")
    moved = source.rename(tmp_path / "moved to here")
    init_output_dir(tmp_path / "out", moved, "1.2.3", tmp_path / "work")
    description = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert description["SourceDatasets"][0]["URL"] == moved.as_uri()


@pytest.mark.parametrize("content", [None, "", "{}", '{"Name": "x'])
@pytest.mark.parametrize("name", ["dataset_description.json", "README.md", ".bidsignore"])
def test_damaged_descriptions_are_written_again(source, tmp_path, name, content):
    init_output_dir(tmp_path / "out", source, "1.2.3", tmp_path / "work")
    path = tmp_path / "out" / name
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    init_output_dir(tmp_path / "out", source, "1.2.3", tmp_path / "work")
    assert path.read_bytes() == whole


def test_folders_of_others_are_refused(source, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not an output of Titan-Neuro"):
        init_output_dir(out, source, "1", tmp_path / "work")
    (out / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    with pytest.raises(OutputError, match="made by fMRIPrep"):
        check_output(out)
    assert sorted(path.name for path in out.iterdir()) == ["chapter.txt", "dataset_description.json"]


def test_simultaneous_jobs_accept_each_other(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / ".work/locks").mkdir(parents=True)
    seen = []

    def another_job(*_):
        seen.append(sorted(path.name for path in out.iterdir()))
        check_output(out, source)

    # Whenever one of the job's files is about to get its name, another job looks.
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (another_job(), rename(path, target))[1])
    init_output_dir(out, source, "1", out / ".work")
    assert len(seen) == 3
    assert {path.name for path in out.iterdir()} == {".work", "README.md", ".bidsignore", "dataset_description.json"}
    # What an interrupted job left out is written by the next.
    (out / "README.md").unlink()
    init_output_dir(out, source, "1", out / ".work")
    assert (out / "README.md").exists()


def test_outputs_inside_the_input_are_refused(source):
    for path in (source, source / "out", source / "sub-01/func"):
        with pytest.raises(UsageError, match="inside the input dataset"):
            check_output(path, source)
    check_output(source / "derivatives/titan-neuro", source)


def test_files_and_readonly_folders_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "file")
    if os.geteuid() == 0:  # root may write anywhere but on what the kernel keeps
        with pytest.raises(OutputError, match="can't be written"):
            init_output_dir(Path("/sys/titan-neuro"), _described(tmp_path), "1", tmp_path / "work")
        return
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="no permission to write"):
        check_output(tmp_path / "locked/out")


def _described(root):
    (root / "dataset_description.json").write_text("{}")
    return root


def test_maps_are_read_back_by_nibabel(space, tmp_path):
    values = np.random.default_rng(0).normal(size=space.n_features)
    path = write_map(tmp_path / "task-x", "stat-r2_desc-arH1", space, values, {"Units": "1"})
    image = nib.load(path)
    assert path.name == "task-x_space-MNI152NLin2009cAsym_stat-r2_desc-arH1_statmap.nii.gz"
    np.testing.assert_allclose(image.affine, space.affine)
    np.testing.assert_allclose(image.get_fdata()[space.mask], values, rtol=1e-6)
    assert np.isnan(image.get_fdata()[~space.mask]).all()
    sidecar = json.loads((tmp_path / path.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar == {"Units": "1", "Space": "MNI152NLin2009cAsym"}


def test_a_series_is_written_in_blocks(space, tmp_path):
    series = np.random.default_rng(0).normal(size=(7, space.n_features)).astype(np.float32)
    path = tmp_path / "x_bold.nii.gz"
    write_nifti(path, space, iter([series[:3], series[3:]]), n_time_points=7, repetition_time=1.5)
    image = nib.load(path)
    assert image.shape == (4, 5, 6, 7)
    assert image.header.get_zooms() == (3, 3, 3, 1.5)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert np.array_equal(np.asarray(image.dataobj)[space.mask].T, series)


def test_parcels_become_a_table(tmp_path):
    parcels = Space(kind="parcels", name="Schaefer", parcels=("a", "b"))
    path = write_map(tmp_path / "task-x", "stat-r2_desc-arH1", parcels, np.array([0.5, np.nan]), {})
    assert path.name == "task-x_seg-Schaefer_stat-r2_desc-arH1_statmap.tsv"
    assert pd.read_csv(path, sep="\t", na_values="n/a")["value"].tolist()[0] == 0.5
    assert "n/a" in path.read_text()
