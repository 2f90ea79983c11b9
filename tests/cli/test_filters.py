"""One filter file a run, by which a job of an array chooses it alone, whatever its name is made of."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from titan_neuro.cli import main
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.errors import UsageError

STEMS = (
    "sub-01/func/sub-01_task-rest",
    "sub-01/func/sub-01_task-rest_run-01",
    "sub-01/func/sub-01_task-rest_acq-fast_run-01",
    "sub-02/ses-a/func/sub-02_ses-a_task-rest",
    "sub-02/ses-b/func/sub-02_ses-b_task-rest_dir-AP",
    "sub-02/ses-b/func/sub-02_ses-b_task-rest_dir-PA",
)


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "bids"
    for stem in STEMS:
        (root / stem).parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(3, 3, 3, 40)).astype(np.float32), np.eye(4))
        nib.save(image, root / f"{stem}_bold.nii.gz")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (root / "task-rest_bold.json").write_text('{"RepetitionTime": 1.0, "TaskName": "rest"}')
    return root


def test_each_chooses_one_run(dataset, tmp_path):
    filters, output = tmp_path / "filters", tmp_path / "output"
    assert main(["prepare", str(dataset), str(output), "--dry-run", "--filters", str(filters)]) == 0
    keys = {recording.key for recording in find_recordings(dataset)}
    assert {path.stem for path in filters.iterdir()} == keys
    assert len(keys) == len(STEMS)
    for path in filters.iterdir():
        assert [recording.key for recording in find_recordings(dataset, filter_file=path)] == [path.stem]
    assert not output.exists()


def test_a_filter_that_was_given_stays_in_force(dataset, tmp_path):
    given, filters = tmp_path / "given.json", tmp_path / "filters"
    given.write_text(json.dumps({"bold": {"session": "b", "datatype": "func"}}))
    arguments = ["prepare", str(dataset), str(tmp_path / "output"), "--bids-filter-file", str(given), "--dry-run"]
    assert main([*arguments, "--filters", str(filters)]) == 0
    asked = [json.loads(path.read_text())["bold"] for path in sorted(filters.iterdir())]
    own = {"subject": "02", "session": "b", "task": "rest", "datatype": "func"}
    assert asked == [{**own, "direction": "AP"}, {**own, "direction": "PA"}]


def test_patterns_that_were_given_stay_in_force(dataset, tmp_path):
    given, filters = tmp_path / "given.json", tmp_path / "filters"
    given.write_text(json.dumps({"bold": {"session": "[ab]", "regex_search": True}}))
    arguments = ["prepare", str(dataset), str(tmp_path / "output"), "--bids-filter-file", str(given), "--dry-run"]
    assert main([*arguments, "--filters", str(filters)]) == 0
    assert len(list(filters.iterdir())) == 3
    for path in filters.iterdir():
        assert [recording.key for recording in find_recordings(dataset, filter_file=path)] == [path.stem]


def test_only_a_dry_run_lists_runs(dataset, tmp_path, capsys):
    arguments = ["prepare", str(dataset), str(tmp_path / "output"), "--filters", str(tmp_path / "filters")]
    assert main(arguments) == UsageError.exit_code
    assert "--filters needs --dry-run" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()
