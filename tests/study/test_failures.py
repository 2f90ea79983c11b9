"""One run that can't be prepared stops no other, is listed with its reason, and is named by every later stage."""

from __future__ import annotations

import json
import re
import shutil

import native_runs
import nibabel as nib
import numpy as np
import pytest
from phantom import save

from titan_neuro.cli import main
from titan_neuro.data.store import open_runs
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError, NoMatchError, NotFetchedError

KEYS = [f"sub-01_task-movie_run-{run:02d}" for run in range(1, 5)]


@pytest.fixture
def dataset(tmp_path):
    return native_runs.write(tmp_path / "bids", n_runs=4, shape=(5, 6, 4), n_time_points=40)


def file_of(dataset, number, suffix="_bold.nii.gz"):
    return dataset / "sub-01/func" / f"{KEYS[number]}{suffix}"


def abort(dataset, number, n_volumes=1):
    path = file_of(dataset, number)
    image = nib.load(path)
    save(path, np.asarray(image.dataobj)[..., :n_volumes], image.affine)


def spoil_sidecar(dataset, number):
    file_of(dataset, number, "_bold.json").write_text('{"RepetitionTime": true}')


def unfetch(dataset, number):
    path = file_of(dataset, number)
    path.unlink()
    path.symlink_to("../../.git/annex/objects/aa/bb/MD5E-s5--0.nii.gz/MD5E-s5--0.nii.gz")


def prepare(dataset, output, *options):
    return main(["prepare", str(dataset), str(output), *map(str, options)])


def prepared(output):
    return [run.key for run in open_runs(output)]


def break_sidecar(dataset, number):
    file_of(dataset, number, "_bold.json").write_text("{")


def duplicate(dataset, number):
    nib.save(nib.load(file_of(dataset, number)), file_of(dataset, number, "_bold.nii"))


FAULTS = {
    "no JSON": (break_sidecar, MetadataError, "is not valid JSON"),
    "two files": (duplicate, MetadataError, "two "),
    "aborted": (abort, ImageError, "expected at least 2 volumes, found 1"),
    "sidecar": (spoil_sidecar, MetadataError, "found True (RepetitionTime)"),
    "not fetched": (unfetch, NotFetchedError, "its content is not on this machine"),
}


@pytest.mark.parametrize(("fault", "number"), list(zip(FAULTS, [0, 2, 3, 1, 0], strict=True)))
def test_the_other_runs_are_prepared(dataset, tmp_path, capsys, fault, number):
    spoil, kind, reason = FAULTS[fault]
    spoil(dataset, number)
    output = tmp_path / "out"
    assert prepare(dataset, output, "--no-datalad-get") == kind.exit_code
    assert prepared(output) == [key for key in KEYS if key != KEYS[number]]
    end = capsys.readouterr().err.split("titan-neuro prepare: ")[-1]
    assert "1 of 4 runs can't be prepared; the other 3 are prepared." in end
    assert re.search(rf"{KEYS[number]}: .*{re.escape(reason)}", end)
    assert f"--exclude {KEYS[number]}" in end
    assert list(json.loads((output / "failed-runs.json").read_text())) == [KEYS[number]]
    stages = json.loads((output / "provenance.json").read_text())["stages"]
    assert list(stages["prepare sub-01"]["failed"]) == [KEYS[number]]


def test_several_processes_list_all_failures(dataset, tmp_path, capsys):
    abort(dataset, 0)
    spoil_sidecar(dataset, 2)
    output = tmp_path / "out"
    assert prepare(dataset, output, "--nprocs", 2) == ImageError.exit_code
    assert prepared(output) == [KEYS[1], KEYS[3]]
    end = capsys.readouterr().err.split("titan-neuro prepare: ")[-1]
    assert "2 of 4 runs can't be prepared; the other 2 are prepared." in end
    assert end.index(KEYS[0]) < end.index(KEYS[2])


def test_only_what_is_missing_is_prepared_again(dataset, tmp_path, capsys):
    whole = file_of(dataset, 1).read_bytes()
    abort(dataset, 1)
    output = tmp_path / "out"
    prepare(dataset, output)
    stamps = {run.key: run.path.stat().st_mtime_ns for run in open_runs(output)}
    file_of(dataset, 1).write_bytes(whole)
    assert prepare(dataset, output) == 0
    assert "4 runs prepared, 1 of them now." in capsys.readouterr().err
    assert {run.key: run.path.stat().st_mtime_ns for run in open_runs(output) if run.key != KEYS[1]} == stamps
    assert not (output / "failed-runs.json").exists()


def test_the_group_level_names_what_is_missing(dataset, tmp_path, capsys):
    abort(dataset, 3)
    output = tmp_path / "out"
    prepare(dataset, output)
    capsys.readouterr()
    assert main(["run", str(dataset), str(output), "group", "--dry-run"]) == 0
    text = capsys.readouterr().err
    assert "1 runs are missing, which could not be prepared" in text
    assert re.search(rf"{KEYS[3]}: .* expected at least 2 volumes, found 1", text)
    # Jobs of an array prepare one run each, and know nothing of the others.
    assert prepare(dataset, output, "--run-id", 1) == 0
    assert list(json.loads((output / "failed-runs.json").read_text())) == [KEYS[3]]


def test_an_outdated_run_is_named(dataset, tmp_path, capsys):
    output = tmp_path / "out"
    assert prepare(dataset, output) == 0
    abort(dataset, 3)
    assert prepare(dataset, output) == ImageError.exit_code
    assert main(["run", str(dataset), str(output), "group", "--dry-run"]) == 0
    assert f"{KEYS[3]} (an earlier preparation of it is used): " in capsys.readouterr().err


@pytest.mark.parametrize("name", [KEYS[1], "sub-01_task-movie_run-2", "run-2"])
def test_a_run_can_be_left_out(dataset, tmp_path, capsys, name):
    abort(dataset, 1)
    output = tmp_path / "out"
    prepare(dataset, output)
    assert prepare(dataset, output, "--exclude", name) == 0
    assert prepared(output) == [KEYS[0], KEYS[2], KEYS[3]]
    # It is left out on purpose now, and no longer missing.
    capsys.readouterr()
    assert main(["run", str(dataset), str(output), "group", "--dry-run"]) == 0
    assert "missing" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run-9", "sub-02", "sub-01_task-movie_run-2_echo-1", "movie"])
def test_a_name_that_is_no_run_is_refused(dataset, tmp_path, capsys, name):
    assert prepare(dataset, tmp_path / "out", "--exclude", "run-1", name) == NoMatchError.exit_code
    assert f"no run matches --exclude {name}" in capsys.readouterr().err


def test_a_single_run_fails_with_its_own_error(dataset, tmp_path, capsys):
    abort(dataset, 1)
    assert prepare(dataset, tmp_path / "out", "--run-id", 2) == ImageError.exit_code
    text = capsys.readouterr().err
    assert "can't be prepared" not in text
    assert "expected at least 2 volumes" in text
    with pytest.raises(InputNotFoundError):
        open_runs(tmp_path / "out")


def test_a_dry_run_says_what_will_fail(dataset, tmp_path, capsys):
    abort(dataset, 0)
    spoil_sidecar(dataset, 1)
    unfetch(dataset, 2)
    spoil_sidecar(dataset, 2)
    events = file_of(dataset, 3, "_events.tsv")
    events.write_text("onset\tduration\ttrial_type\n0\t60\tmovie\n")
    assert prepare(dataset, tmp_path / "out", "--dry-run") == 0
    text = capsys.readouterr().err
    assert re.search(rf"{KEYS[0]}: .*CAN'T BE PREPARED: .*expected at least 2 volumes", text, re.S)
    assert re.search(rf"{KEYS[1]}: .*CAN'T BE PREPARED: .*found True", text, re.S)
    assert re.search(rf"{KEYS[2]}: .*CAN'T BE PREPARED: .*found True", text, re.S)
    assert re.search(rf"{KEYS[3]}: .*1 ended after the last volume \(40 s\) and were clipped", text, re.S)
    assert not (tmp_path / "out").exists()


def test_trouble_with_the_output_stops_at_once(dataset, tmp_path, capsys):
    output = tmp_path / "out"
    assert prepare(dataset, output, "--run-id", 1) == 0
    shutil.rmtree(output / "sub-01")
    (output / "sub-01").write_text("a file where a folder belongs")
    assert prepare(dataset, output) == 9
    assert "can't be written" in capsys.readouterr().err
