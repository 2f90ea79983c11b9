import json
import shutil
from pathlib import Path

import bids
import pytest
from whole_recordings import find_whole

from titan_neuro.data.bids.dataset import DatasetIndex
from titan_neuro.data.bids.names import long_entities
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.errors import (
    ConfigError,
    ImageError,
    InputNotFoundError,
    MetadataError,
    NoMatchError,
    NotBIDSError,
    NotFetchedError,
)


@pytest.fixture
def dataset(tmp_path):
    """Two subjects, two runs each, empty images: only names and sidecars are read here."""
    root = tmp_path / "data set with ä space"
    for subject in ("01", "02"):
        for run in ("01", "02"):
            path = root / f"sub-{subject}/func/sub-{subject}_task-movie_run-{run}_bold.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            path.with_name(path.name.replace("_bold.nii.gz", "_events.tsv")).write_text("onset\tduration\ttrial_type\n")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}))
    (root / "task-movie_bold.json").write_text(json.dumps({"RepetitionTime": 1, "TaskName": "movie"}))
    return root


def keys(recordings):
    return [recording.key for recording in recordings]


def test_all_runs_are_found_in_order(dataset):
    recordings = find_recordings(dataset)
    assert keys(recordings) == [f"sub-{s}_task-movie_run-{r}" for s in ("01", "02") for r in ("01", "02")]
    assert {recording.sidecar["RepetitionTime"] for recording in recordings} == {1.0}
    assert recordings[3].events.name == "sub-02_task-movie_run-02_events.tsv"


@pytest.mark.parametrize("labels", [["02"], ["sub-02"]])
@pytest.mark.parametrize("runs", [["1"], ["01"], ["run-01"]])
def test_labels_match_with_and_without_prefix(dataset, labels, runs):
    assert keys(find_recordings(dataset, subjects=labels, runs=runs, tasks=["movie"])) == ["sub-02_task-movie_run-01"]


def test_nearer_sidecars_take_precedence(dataset):
    (dataset / "sub-01/func/sub-01_task-movie_run-01_bold.json").write_text('{"RepetitionTime": 0.8}')
    assert [recording.sidecar["RepetitionTime"] for recording in find_recordings(dataset)] == [0.8, 1.0, 1.0, 1.0]


def test_real_raw_data(haxby):
    recordings = find_recordings(haxby)
    assert len(recordings) == 12
    assert {recording.kind for recording in recordings} == {"volume"}
    assert {recording.sidecar["RepetitionTime"] for recording in recordings} == {2.5}
    # The mask names no run: it holds for all.
    assert {recording.mask.name for recording in recordings} == {"sub-01_task-objectviewing_desc-brain_mask.nii.gz"}


@pytest.mark.parametrize("name", ["haxby", "small_synthetic"])
def test_entities_and_metadata_are_those_of_pybids(name, request):
    root = request.getfixturevalue(name)
    layout = bids.BIDSLayout(root, validate=False)
    expected = {file.path: file for file in layout.get(suffix="bold", extension=[".nii", ".nii.gz"])}
    index = DatasetIndex(root)
    found = index.recordings()
    assert {str(file.path) for file in found} == set(expected)
    for file in found:
        theirs = expected[str(file.path)].get_entities(metadata=False)
        ours = {**long_entities(file.entities), "suffix": file.suffix, "datatype": "func", "extension": file.extension}
        assert ours == {entity: str(label) for entity, label in theirs.items()}
        assert index.sidecar(file) == (layout.get_metadata(str(file.path)), [])


def test_real_parcels(sitcom):
    recordings = find_recordings(sitcom)
    assert len(recordings) == 12
    assert {(recording.kind, recording.sidecar["RepetitionTime"]) for recording in recordings} == {("parcels", 1.0)}
    # One events table at the root serves all subjects.
    assert {recording.events.name for recording in recordings} == {"task-sitcomep1_desc-narrative_events.tsv"}


@pytest.fixture
def fmriprep(tmp_path):
    """One run of fMRIPrep's output in two spaces, under its old names or its new ones; empty files."""

    def make(root, confounds="timeseries", run="1", spaces=("T1w", "MNI152NLin2009cAsym")):
        func = root / "sub-01/func"
        func.mkdir(parents=True)
        description = {"Name": "x", "BIDSVersion": "1.4.0", "DatasetType": "derivative"}
        (root / "dataset_description.json").write_text(json.dumps(description))
        for space in spaces:
            for suffix in ("preproc_bold", "brain_mask"):
                (func / f"sub-01_task-movie_run-{run}_space-{space}_desc-{suffix}.nii.gz").touch()
        (func / f"sub-01_task-movie_run-{run}_desc-confounds_{confounds}.tsv").touch()
        return func

    return make


@pytest.mark.parametrize("confounds", ["timeseries", "regressors"])
def test_fmriprep_runs_have_mask_and_confounds(tmp_path, fmriprep, confounds):
    func = fmriprep(tmp_path / "fmriprep", confounds)
    [recording] = find_recordings(tmp_path / "fmriprep")
    stem = "sub-01_task-movie_run-1_space-MNI152NLin2009cAsym_desc"
    assert recording.route == "preprocessed"
    assert recording.path == func / f"{stem}-preproc_bold.nii.gz"
    assert recording.mask == func / f"{stem}-brain_mask.nii.gz"
    assert recording.confounds == func / f"sub-01_task-movie_run-1_desc-confounds_{confounds}.tsv"
    assert recording.entities["space"] == "MNI152NLin2009cAsym"


def test_two_nonstandard_spaces_need_a_filter(tmp_path, fmriprep):
    func = fmriprep(tmp_path / "fmriprep", spaces=("T1w", "fsnative"))
    with pytest.raises(ImageError, match="two files for one run"):
        find_recordings(tmp_path / "fmriprep")
    choice = tmp_path / "filter.json"
    choice.write_text('{"bold": {"space": "T1w"}}')
    [recording] = find_recordings(tmp_path / "fmriprep", filter_file=choice)
    assert recording.mask == func / "sub-01_task-movie_run-1_space-T1w_desc-brain_mask.nii.gz"


def test_preprocessed_images_replace_raw_ones(dataset, fmriprep):
    """The full fMRIPrep of ds003017 counts ``run-1`` where the raw dataset has ``run-01``."""
    func = fmriprep(dataset / "derivatives/fmriprep", "regressors")
    first, *rest = find_recordings(dataset)
    assert first.key == "sub-01_task-movie_run-01"
    assert first.path == func / "sub-01_task-movie_run-1_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    assert first.events == dataset / "sub-01/func/sub-01_task-movie_run-01_events.tsv"
    assert (first.route, first.sidecar["RepetitionTime"]) == ("preprocessed", 1.0)
    assert first.confounds.name.endswith("run-1_desc-confounds_regressors.tsv")
    assert {recording.route for recording in rest} == {"native"}
    elsewhere = dataset.parent / "elsewhere"
    (dataset / "derivatives").rename(elsewhere)
    assert find_recordings(dataset)[0].route == "native"
    [named] = find_recordings(dataset, subjects=["01"], runs=["1"], derivatives=[elsewhere])
    assert named.route == "preprocessed"


def test_prepare_outputs_are_no_input(dataset, fmriprep):
    """The output may lie in the dataset's own derivatives, as is recommended."""
    fmriprep(dataset / "derivatives/titan-neuro")
    description = {"Name": "x", "BIDSVersion": "1.10.0", "GeneratedBy": [{"Name": "Titan-Neuro"}], "SourceDatasets": []}
    (dataset / "derivatives/titan-neuro/dataset_description.json").write_text(json.dumps(description))
    assert {(recording.route, recording.confounds) for recording in find_recordings(dataset)} == {("native", None)}


def test_equally_specific_masks_are_refused(dataset):
    for name in ("one", "other"):
        folder = dataset / f"derivatives/{name}/sub-01/func"
        folder.mkdir(parents=True)
        (folder / "sub-01_task-movie_run-01_desc-brain_mask.nii.gz").touch()
    with pytest.raises(MetadataError, match="two files apply equally well"):
        find_whole(dataset)
    [recording] = find_whole(dataset, subjects=["01"], runs=["1"], derivatives=[dataset / "derivatives/other"])
    assert "other" in recording.mask.parts


def test_masks_beside_the_image_are_preferred(dataset, fmriprep):
    func = fmriprep(dataset / "derivatives/fmriprep", run="01")
    other = dataset / "derivatives/xcp_d/sub-01/func"
    other.mkdir(parents=True)
    (other / "sub-01_task-movie_run-01_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz").touch()
    assert find_recordings(dataset)[0].mask.parent == func


@pytest.mark.parametrize("filters", ['{"bold": {"desk": "preproc"}}', '{"bold": {"desc": "preproc"}}'])
def test_filters_that_match_nothing_are_named(dataset, tmp_path, filters):
    path = tmp_path / "filter.json"
    path.write_text(filters)
    with pytest.raises((ConfigError, NoMatchError)) as caught:
        find_recordings(dataset, filter_file=path)
    assert "filter" in str(caught.value)


def test_two_preprocessed_images_are_refused(dataset, fmriprep):
    for name in ("one", "other"):
        fmriprep(dataset / "derivatives" / name)
    with pytest.raises(MetadataError, match="two files for one preprocessed image") as caught:
        find_whole(dataset)
    assert "--derivatives" in caught.value.hint


def test_band_passed_images_are_refused(tmp_path, fmriprep):
    func = fmriprep(tmp_path / "xcp_d", spaces=())
    (func / "sub-01_task-movie_run-1_space-MNI152NLin2009cAsym_desc-denoised_bold.nii.gz").touch()
    with pytest.raises(ImageError, match="is denoised: such images are band-passed"):
        find_recordings(tmp_path / "xcp_d")
    # Parcels of the same program are taken; whether they were filtered is seen in them.
    name = "sub-01_task-movie_run-1_space-MNI152NLin2009cAsym_seg-4S156Parcels_stat-mean_timeseries.tsv"
    (func / name).write_text("a\tb\n")
    (func / name.replace(".tsv", ".json")).write_text('{"SamplingFrequency": "TR"}')
    [recording] = find_recordings(tmp_path / "xcp_d")
    assert (recording.kind, recording.path.name) == ("parcels", name)


def test_filter_files_have_the_form_of_fmriprep(dataset, tmp_path):
    path = tmp_path / "filter.json"
    path.write_text('{"bold": {"run": 2}}')
    assert keys(find_recordings(dataset, filter_file=path)) == ["sub-01_task-movie_run-02", "sub-02_task-movie_run-02"]
    path.write_text('{"bolt": {}}')
    with pytest.raises(ConfigError, match=r"no part 'bolt'\. Did you mean 'bold'"):
        find_recordings(dataset, filter_file=path)
    with pytest.raises(InputNotFoundError, match="no such file"):
        find_recordings(dataset, filter_file=tmp_path / "nowhere.json")


def test_labels_without_a_match_list_the_available(dataset):
    with pytest.raises(NoMatchError, match="no run matches subject 07") as caught:
        find_recordings(dataset, subjects=["07"])
    assert "subject: 01 02; task: movie; run: 01 02" in caught.value.hint


def test_missing_folders_and_other_folders_are_refused(dataset, tmp_path):
    with pytest.raises(InputNotFoundError, match="no such folder"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(NotBIDSError, match=r"no dataset_description\.json") as caught:
        find_recordings(dataset / "sub-01")
    assert str(dataset) in caught.value.hint
    with pytest.raises(InputNotFoundError, match="is a file"):
        find_recordings(dataset / "dataset_description.json")


def test_datasets_without_recordings_are_refused(dataset):
    for folder in dataset.glob("sub-*"):
        shutil.rmtree(folder)
    with pytest.raises(NoMatchError, match="holds no recording"):
        find_recordings(dataset)


def test_two_files_for_one_run_are_refused(dataset):
    one = next(dataset.glob("sub-01/func/*run-01_bold.nii.gz"))
    shutil.copy(one, Path(str(one).replace("_bold", "_space-MNI152NLin2009cAsym_bold")))
    with pytest.raises(ImageError, match="two files for one run"):
        find_whole(dataset)


def test_broken_sidecars_are_named(dataset):
    (dataset / "task-movie_bold.json").write_text('{"RepetitionTime": ')
    with pytest.raises(MetadataError, match=r"task-movie_bold\.json"):
        find_recordings(dataset)


def test_descriptions_without_content_are_named(dataset):
    (dataset / "dataset_description.json").unlink()
    (dataset / "dataset_description.json").symlink_to(".git/annex/objects/aa/bb/MD5E-s5--0.json/MD5E-s5--0.json")
    with pytest.raises(NotFetchedError, match="its content is not on this machine"):
        find_recordings(dataset)
