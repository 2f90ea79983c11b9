"""What `prepare` says before it works: which runs each subject has, and for each run what is read and why."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from titan_neuro.cli import main
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.store import open_runs
from titan_neuro.errors import ConfigError, InputNotFoundError, NoMatchError
from titan_neuro.study.prepare import run_table

SHAPE, N_TIME_POINTS = (5, 6, 5), 40
GRID = "space-MNI152NLin2009cAsym_res-2"


@pytest.fixture
def write_run():
    """Write a run of noise, with its sidecar, and a mask where it is given a name for one."""

    def write(root, name, *, mask=None, derivative=False):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = np.random.default_rng(0).normal(1000, 20, (*SHAPE, N_TIME_POINTS)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([3, 3, 3, 1])), path)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text('{"RepetitionTime": 1.0}')
        if mask:
            nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([3, 3, 3, 1])), root / mask)
        description = {"Name": "x", "BIDSVersion": "1.10.0", **({"DatasetType": "derivative"} if derivative else {})}
        (root / "dataset_description.json").write_text(json.dumps(description))

    return write


@pytest.fixture
def dataset(tmp_path, write_run):
    """A raw run with its preprocessed image, in two resolutions, and a phase image beside it."""
    root, stem = tmp_path / "bids", "sub-01/func/sub-01_task-movie"
    for part in ("mag", "phase"):
        write_run(root, f"{stem}_part-{part}_bold.nii.gz")
    for resolution in ("1", "2"):
        start = f"{stem}_{GRID[:-1]}{resolution}_desc"
        mask = f"{start}-brain_mask.nii.gz"
        write_run(root / "derivatives/fmriprep", f"{start}-preproc_bold.nii.gz", mask=mask, derivative=True)
    (root / "derivatives/fmriprep" / f"{stem}_desc-confounds_timeseries.tsv").write_text("csf\n" + "1\n" * 40)
    (root / "task-movie_events.tsv").write_text("onset\tduration\ttrial_type\n0\t40\tmovie\n")
    return root


def dry_run(capsys, dataset, output, *flags):
    code = main(["prepare", str(dataset), str(output), "--dry-run", *flags])
    return code, capsys.readouterr().err


def test_a_dry_run_says_all_that_is_read_and_left_out(dataset, tmp_path, capsys):
    code, text = dry_run(capsys, dataset, tmp_path / "out", "--resolution", "2")
    assert code == 0
    assert not (tmp_path / "out").exists()
    stem = f"sub-01_task-movie_{GRID}_desc"
    assert "Phase images are left out" in text and "part-phase" in text
    for line in (
        "1 subject, 1 run:",
        f"sub-01_task-movie_part-mag: to prepare (preprocessed image) as sub-01_task-movie_part-mag_{GRID}",
        f"{stem}-preproc_bold.nii.gz",
        "  grid: MNI152NLin2009cAsym, 2 mm\n",
        f"{stem}-brain_mask.nii.gz",
        "  repetition time: 1 s, from the sidecar",
        "task-movie_events.tsv",
        "confounds: regressed out: none; table: ",
        "  left out: sub-01_task-movie_space-MNI152NLin2009cAsym_res-1_desc-preproc_bold.nii.gz",
        "Nothing was prepared (--dry-run).",
    ):
        assert line in text, line


def test_a_dry_run_says_what_is_prepared_already(dataset, tmp_path, capsys):
    choice = tmp_path / "filter.json"
    choice.write_text('{"bold": {"resolution": "2"}}')
    command = [str(dataset), str(tmp_path / "out"), "--bids-filter-file", str(choice)]
    assert main(["prepare", *command, "--set", "prepare.warmup_s=5"]) == 0, capsys.readouterr().err
    [run] = open_runs(tmp_path / "out")
    assert (run.key, run.space.n_features) == ("sub-01_task-movie_part-mag", np.prod(SHAPE))
    again = ["--bids-filter-file", str(choice), "--set"]
    assert "part-mag: prepared as" in dry_run(capsys, dataset, tmp_path / "out", *again, "prepare.warmup_s=5")[1]
    assert "to prepare again" in dry_run(capsys, dataset, tmp_path / "out", *again, "prepare.warmup_s=6")[1]


def test_a_dry_run_refuses_what_prepare_refuses(dataset, tmp_path, capsys):
    code, text = dry_run(capsys, dataset, tmp_path / "out", "--resolution", "2", "--set", "prepare.slice_timing=true")
    assert (code, "no longer has the slices" in text) == (ConfigError.exit_code, True)
    code, text = dry_run(capsys, dataset, tmp_path / "out", "--resolution", "2", "--participant-label", "01", "2")
    assert (code, "no run matches subject 2" in text) == (NoMatchError.exit_code, True)
    allowed = ("--resolution", "2", "--participant-label", "01", "2", "--allow-missing")
    assert dry_run(capsys, dataset, tmp_path / "out", *allowed)[0] == 0


def test_files_that_are_not_there_are_named(dataset, tmp_path, capsys):
    image = next(dataset.rglob("*res-2_desc-preproc_bold.nii.gz"))
    image.unlink()
    image.symlink_to(".git/annex/objects/aa/bb/MD5E-s5--0.nii.gz/MD5E-s5--0.nii.gz")
    code, text = dry_run(capsys, dataset, tmp_path / "out", "--resolution", "2")
    assert (code, f"  missing: {image} (not on this machine)" in text) == (0, True)
    image.unlink()
    image.symlink_to("nowhere")
    code, text = dry_run(capsys, dataset, tmp_path / "out", "--resolution", "2")
    assert (code, str(image) in text) == (InputNotFoundError.exit_code, True)


@pytest.mark.parametrize(("name", "absent"), [("a.nii.gz", "a.nii.gz"), ("a_hemi-L.label.gii", "a_hemi-R.label.gii")])
def test_an_atlas_that_is_not_there_is_refused(name, absent, dataset, tmp_path, capsys):
    if name != absent:
        (tmp_path / name).touch()
    code, text = dry_run(capsys, dataset, tmp_path / "out", "--resolution", "2", "--atlas", str(tmp_path / name))
    assert (code, f"{tmp_path / absent}: no such file" in text) == (InputNotFoundError.exit_code, True)


# ---- the table of runs -----------------------------------------------------------------------------


@pytest.fixture
def table_of(tmp_path, write_run):
    def table(*names):
        for name in names:
            path = tmp_path / "bids" / name[:6] / "func" / f"{name}_bold.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "bids/dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
        return "\n".join(run_table(find_recordings(tmp_path / "bids")))

    return table


def test_subjects_with_fewer_runs_are_listed(table_of):
    text = table_of(*(f"sub-0{s}_task-movie_run-{r}" for s in (1, 2, 3) for r in (1, 2) if (s, r) != (3, 2)))
    assert "2 runs (1 2): sub-01 sub-02" in text and "1 run (1 -): sub-03" in text
    assert text.endswith("sub-03 has fewer runs than others: 1 of 2: task-movie_run-2 missing.")


def test_equal_numbers_of_other_runs_are_no_lack(table_of):
    text = table_of("sub-01_task-a", "sub-02_task-b")
    assert "1 run (1 -): sub-01" in text and "1 run (- 2): sub-02" in text and "fewer" not in text


def test_many_kinds_of_runs_are_counted(table_of):
    text = table_of(*(f"sub-0{s}_ses-{s}{r}_task-x" for s in (1, 2) for r in range(10)))
    assert text.splitlines()[:3] == ["2 subjects, 20 runs:", "  10 runs: sub-01", "  10 runs: sub-02"]
    assert "ses-" not in text


# ---- a real tree -----------------------------------------------------------------------------------


def test_a_real_tree_with_masks_of_a_resolution(sherlock):
    recordings = find_recordings(sherlock)
    assert len(recordings) == 24
    for recording in recordings:
        assert recording.mask.name == recording.path.name.replace("preproc_bold", "brain_mask")
        assert recording.entities["resolution"] == "3"
    assert run_table(recordings)[0] == "8 subjects, 24 runs:"


@pytest.mark.parametrize(("task", "n_runs"), [("sherlock", 2), ("recall", 1)])
def test_real_masks_are_used(sherlock, tmp_path, capsys, task, n_runs):
    command = ["prepare", str(sherlock), str(tmp_path), "--participant-label", "04", "--task-id", task]
    assert main(command) == 0, capsys.readouterr().err
    assert [run.space.n_features for run in open_runs(tmp_path)] == [481] * n_runs
