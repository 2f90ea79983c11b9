"""Folders of datasets as they really are: links, circles, parents with names like entities, pipes, odd bytes."""

from __future__ import annotations

import os
import shutil

import pytest
from whole_recordings import find_whole

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.bids.tree import read_folders
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError, NotBIDSError, TitanNeuroError

RUNS = [f"sub-{s}/func/sub-{s}_task-movie_run-1" for s in ("01", "02")]
STANDARD = "_space-MNI152NLin2009cAsym_desc"
MINIMAL = [
    "func/sub-01_task-movie_run-1_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
    "func/sub-01_task-movie_run-1_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    "anat/sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
    "anat/sub-01_desc-brain_mask.nii.gz",
    "anat/sub-01_label-WM_probseg.nii.gz",
    "anat/sub-01_label-CSF_probseg.nii.gz",
]


def preprocessed(runs):
    return [f"{run}{STANDARD}-{what}.nii.gz" for run in runs for what in ("preproc_bold", "brain_mask")]


def summary(recordings):
    return [(each.key, each.route, each.mask and each.mask.name, each.confounds is not None) for each in recordings]


@pytest.fixture
def dataset(tmp_path, write_dataset):
    """Two raw runs with their preprocessed images and confounds, in a folder with an ordinary name."""
    root = write_dataset(tmp_path / "plain" / "bids", [f"{run}_bold.nii.gz" for run in RUNS])
    tables = [f"{run}_desc-confounds_timeseries.tsv" for run in RUNS]
    write_dataset(root / "derivatives/fmriprep", [*preprocessed(RUNS), *tables], derivative=True)
    (root / "task-movie_events.tsv").write_text("onset\tduration\ttrial_type\n0\t9\tmovie\n")
    return root


@pytest.mark.parametrize(
    "parent",
    ["ses-3", "run-2", "sub-99", "study_task-rest", "acq-x/ses-1", "func", "anat", "derivatives", "sourcedata"],
)
@pytest.mark.parametrize("source", ["raw", "derivative"])
def test_folders_above_the_dataset_say_nothing(dataset, tmp_path, parent, source):
    def found(root):
        root = root if source == "raw" else root / "derivatives/fmriprep"
        return [*summary(find_recordings(root)), *(each.events and each.events.name for each in find_recordings(root))]

    expected = found(dataset)
    assert [key for key, *_ in expected[:2]] == ["sub-01_task-movie_run-1", "sub-02_task-movie_run-1"]
    moved = tmp_path / parent / "bids"
    moved.parent.mkdir(parents=True)
    dataset.rename(moved)
    assert found(moved) == expected


@pytest.mark.parametrize("parent", ["ses-3", "sub-99", "sub-01", "run-7/sub-99"])
def test_folders_above_named_derivatives_say_nothing(dataset, tmp_path, parent):
    expected = summary(find_recordings(dataset))
    moved = tmp_path / "elsewhere" / parent
    moved.parent.mkdir(parents=True)
    (dataset / "derivatives/fmriprep").rename(moved)
    for named in (moved, tmp_path / "elsewhere"):
        assert summary(find_recordings(dataset, derivatives=[named])) == expected


def test_subject_and_session_are_those_of_the_folders(tmp_path, write_dataset):
    root = write_dataset(tmp_path / "bids", ["sub-01/ses-a/func/task-movie_bold.nii.gz"])
    [recording] = find_recordings(root)
    assert (recording.key, recording.sidecar["RepetitionTime"]) == ("sub-01_ses-a_task-movie", 1.0)


@pytest.mark.parametrize("name", ["sub-02_ses-a_task-movie", "sub-01_ses-b_task-movie"])
def test_names_that_contradict_their_folders_are_refused(tmp_path, write_dataset, name):
    root = write_dataset(tmp_path / "bids", [f"sub-01/ses-a/func/{name}_bold.nii.gz"])
    with pytest.raises(MetadataError, match=r"it says (sub-02|ses-b), its folder says (sub-01|ses-a)"):
        find_recordings(root)


# ---- links -----------------------------------------------------------------------------------------


def link(path, to):
    """Move a file or folder away, and leave a link."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, to)
    path.symlink_to(to)


@pytest.mark.parametrize("what", ["derivatives", "derivatives/fmriprep", "derivatives/fmriprep/sub-01", "sub-02"])
def test_links_to_folders_are_followed(dataset, tmp_path, what):
    expected = summary(find_recordings(dataset))
    link(dataset / what, tmp_path / "store/ses-9" / what)
    assert summary(find_recordings(dataset)) == expected
    assert {route for _, route, *_ in expected} == {"preprocessed"}


@pytest.mark.parametrize("what", ["sub-01/anat", "sub-01/func", "sub-01"])
def test_linked_transforms_are_found(tmp_path, write_dataset, what):
    root = write_dataset(tmp_path / "bids", [f"{RUNS[0]}_bold.nii.gz"])
    derivative = write_dataset(tmp_path / "minimal", [f"sub-01/{name}" for name in MINIMAL], derivative=True)
    link(derivative / what, tmp_path / "store" / what)
    [recording] = find_recordings(root, derivatives=[derivative])
    assert recording.route == "transforms"
    assert len(recording.transforms) == 6


def test_links_in_a_circle_end(dataset):
    expected = summary(find_recordings(dataset))
    (dataset / "derivatives/fmriprep/sub-01/again").symlink_to(dataset / "derivatives")
    (dataset / "sub-01/func/up").symlink_to(dataset)
    (dataset / "derivatives/latest").symlink_to("fmriprep")
    (dataset / "derivatives/itself").symlink_to("itself")
    (dataset / "sub-03").symlink_to("sub-03")
    (dataset / "derivatives/fmriprep/sub-03").symlink_to("sub-03")
    (dataset / "derivatives/raw").symlink_to(dataset)
    assert summary(find_recordings(dataset)) == expected


def test_each_folder_is_read_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "root" / name / f"link{number}").symlink_to(tmp_path / "root")
    assert len(list(read_folders(tmp_path / "root", lambda above, name: True))) == 3


# ---- what is no file, and odd names ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("sub-01/func/sub-01_task-movie_run-9_bold.nii.gz", MetadataError),
        ("sub-01/func/sub-01_task-movie_run-1_bold.json", InputNotFoundError),
        ("sub-01/func/sub-01_task-movie_run-1_events.tsv", InputNotFoundError),
        ("dataset_description.json", InputNotFoundError),
        (f"derivatives/fmriprep/{RUNS[0]}{STANDARD}-brain_mask.nii.gz", InputNotFoundError),
        (f"derivatives/fmriprep/{RUNS[0]}{STANDARD}-preproc_bold.json", InputNotFoundError),
    ],
)
def test_named_pipes_are_refused(dataset, name, error):
    """Opened, each of them would wait for ever."""
    (dataset / name).unlink(missing_ok=True)
    os.mkfifo(dataset / name)
    with pytest.raises(error, match=r"no (regular )?file"):
        find_whole(dataset)


@pytest.mark.parametrize("name", [".bidsignore", "derivatives/fmriprep/dataset_description.json"])
def test_named_pipes_that_nobody_needs_are_not_opened(dataset, name):
    expected = summary(find_recordings(dataset))
    (dataset / name).unlink(missing_ok=True)
    os.mkfifo(dataset / name)
    assert summary(find_recordings(dataset)) == expected


@pytest.mark.parametrize(
    "name", [b"sub-01_task-mo\xffvie_bold.nii.gz", b"sub-\xe9_task-movie_bold.nii.gz", b"sub-01_task-\xff\xfe_bold.nii"]
)
def test_recordings_with_names_in_other_encodings_are_refused(dataset, name):
    (dataset / "sub-01/func" / os.fsdecode(name)).touch()
    with pytest.raises(MetadataError, match=r"\\\\udc") as caught:
        find_recordings(dataset)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize("what", ["", "derivatives/fmriprep"])
def test_folders_with_names_in_other_encodings_are_refused(dataset, what):
    odd = (dataset / what).with_name(os.fsdecode(b"caf\xe9"))
    (dataset / what).rename(odd)
    with pytest.raises(InputNotFoundError, match=r"\\udce9.*not UTF-8"):
        find_recordings(dataset if what else odd)


def test_other_files_may_have_any_name(dataset, caplog):
    expected = summary(find_recordings(dataset))
    for name in (b"caf\xe9_events.tsv", b"sub-01_caf\xe9.json", b"._sub-01_task-x_bold.nii.gz", b"notes (1).txt"):
        (dataset / "sub-01/func" / os.fsdecode(name)).touch()
    assert summary(find_recordings(dataset)) == expected
    assert {recording.events.name for recording in find_recordings(dataset)} == {"task-movie_events.tsv"}
    assert "events.tsv: is left out" in caplog.text


@pytest.mark.parametrize("name", ["task-movie_bold.json", "sub-01/func/sub-01_task-movie_run-1_bold.json"])
def test_deeply_nested_sidecars_are_refused(dataset, name):
    (dataset / name).write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(MetadataError, match="nested too deeply"):
        find_whole(dataset)


def test_broken_sidecars_of_other_runs_are_not_read(dataset):
    (dataset / "sub-02/func/sub-02_task-movie_run-1_bold.json").write_text("{")
    assert len(find_recordings(dataset, subjects=["01"])) == 1
    with pytest.raises(MetadataError, match="not valid JSON"):
        find_whole(dataset)


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_descriptions_that_are_none_are_refused(dataset, content):
    (dataset / "dataset_description.json").write_text(content)
    with pytest.raises(TitanNeuroError, match=r"dataset_description\.json") as caught:
        find_recordings(dataset)
    assert not isinstance(caught.value, NotBIDSError | ImageError)
