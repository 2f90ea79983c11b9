import json

import nibabel as nib
import numpy as np
import pytest

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.errors import MetadataError, NoMatchError

STEM = "sub-01_task-x"
MNI = f"{STEM}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
DENSE = f"{STEM}_space-fsLR_den-91k_bold.dtseries.nii"
SIDES = {
    space: [f"{STEM}_hemi-{side}_space-{space}_bold.func.gii" for side in "LR"]
    for space in ("fsaverage5", "fsaverage6")
}
TABLE = f"{STEM}_space-fsLR_seg-X_stat-mean_timeseries.tsv"
PARCELS = f"{STEM}_space-fsLR_seg-X_den-91k_stat-mean_timeseries.ptseries.nii"


def touch(root, *names, subject="01", kind="derivative"):
    folder = root / f"sub-{subject}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name.replace("sub-01", f"sub-{subject}")
        path.touch()
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps({"RepetitionTime": 1.5}))
    description = {"Name": "x", "BIDSVersion": "1.9.0", "DatasetType": kind}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def filter_file(tmp_path, **entities):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"bold": entities}))
    return path


@pytest.mark.parametrize(
    ("names", "entities", "expected"),
    [
        ([MNI, DENSE, *SIDES["fsaverage5"]], {}, MNI),
        ([MNI, DENSE, *SIDES["fsaverage5"]], {"extension": ".dtseries.nii"}, DENSE),
        ([MNI, DENSE, *SIDES["fsaverage5"]], {"space": "fsLR"}, DENSE),
        ([MNI, DENSE, *SIDES["fsaverage5"]], {"space": "fsaverage5"}, SIDES["fsaverage5"][0]),
        ([MNI, DENSE, *SIDES["fsaverage5"]], {"extension": "func.gii"}, SIDES["fsaverage5"][0]),
        ([*SIDES["fsaverage5"], *SIDES["fsaverage6"]], {"space": "fsaverage6"}, SIDES["fsaverage6"][0]),
        ([DENSE], {}, DENSE),
        (SIDES["fsaverage5"], {}, SIDES["fsaverage5"][0]),
        ([TABLE, PARCELS], {}, TABLE),
        ([TABLE, PARCELS], {"extension": ".ptseries.nii"}, PARCELS),
        ([PARCELS, DENSE], {}, PARCELS),
        ([PARCELS], {}, PARCELS),
    ],
)
def test_one_file_is_chosen_for_a_run(tmp_path, names, entities, expected):
    root = touch(tmp_path / "bids", *names)
    (recording,) = find_recordings(root, filter_file=filter_file(tmp_path, **entities) if entities else None)
    assert recording.path.name == expected
    assert recording.sidecar == {"RepetitionTime": 1.5}
    assert "hemi" not in recording.entities
    kind = "volume" if expected == MNI else "parcels" if "timeseries" in expected else "surface"
    assert (recording.kind, recording.route) == (kind, "preprocessed" if kind == "volume" else kind)
    is_gifti = expected.endswith(".gii")
    found = {side: path.name for side, path in recording.hemispheres.items()}
    pair = {side: expected.replace("hemi-L", f"hemi-{side}") for side in "LR"}
    assert found == (pair if is_gifti else {})
    others = {path.name for path in recording.files.values()} - {expected}
    assert others == ({pair["R"]} if is_gifti else set())


def test_several_surfaces_of_a_run_are_listed(tmp_path):
    root = touch(tmp_path, *SIDES["fsaverage5"], *SIDES["fsaverage6"])
    with pytest.raises(Exception, match=r"fsaverage5_bold\.func\.gii, .*fsaverage6_bold\.func\.gii") as caught:
        find_recordings(root)
    assert '"space"' in caught.value.hint


@pytest.mark.parametrize("side", [0, 1])
def test_a_hemisphere_alone_is_refused(tmp_path, side):
    root = touch(tmp_path, SIDES["fsaverage5"][side])
    with pytest.raises(MetadataError, match=f"the file of the other hemisphere .hemi-{'RL'[side]}. is missing"):
        find_recordings(root)
    # Of no importance where volumes are prepared.
    assert find_recordings(touch(tmp_path, MNI))[0].path.name == MNI


def test_gifti_without_hemisphere_is_refused(tmp_path):
    with pytest.raises(MetadataError, match="its name says no hemisphere"):
        find_recordings(touch(tmp_path, f"{STEM}_space-fsaverage5_bold.func.gii"))


def test_runs_of_another_kind_are_left_out_and_named(tmp_path, caplog):
    root = touch(touch(tmp_path, MNI), DENSE, subject="02")
    assert [recording.subject for recording in find_recordings(root)] == ["01"]
    assert "sub-02_task-x_space-fsLR_den-91k_bold.dtseries.nii" in caplog.text
    with pytest.raises(NoMatchError, match="no run matches subject 02"):
        find_recordings(root, subjects=["01", "02"])


def test_denoised_surfaces_are_refused(tmp_path):
    root = touch(tmp_path, f"{STEM}_space-fsLR_den-91k_desc-denoised_bold.dtseries.nii")
    with pytest.raises(Exception, match="is denoised: such images are band-passed"):
        find_recordings(root)


@pytest.fixture
def raw(tmp_path):
    root = touch(tmp_path / "bids", kind="raw")
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4))
    nib.save(image, root / "sub-01/func" / f"{STEM}_bold.nii.gz")
    (root / "sub-01/func" / f"{STEM}_bold.json").write_text('{"RepetitionTime": 1.5, "TaskName": "x"}')
    return root


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize(
    ("names", "entities", "expected"),
    [
        ([MNI, DENSE], {}, MNI),
        ([MNI, DENSE], {"space": "fsLR"}, DENSE),
        ([MNI, DENSE], {"extension": ".dtseries.nii"}, DENSE),
        ([MNI, DENSE, *SIDES["fsaverage5"]], {"space": "fsaverage5"}, SIDES["fsaverage5"][0]),
        ([DENSE], {}, DENSE),
        (SIDES["fsaverage5"], {}, SIDES["fsaverage5"][0]),
    ],
)
def test_surfaces_among_the_derivatives_of_a_raw_run(tmp_path, raw, is_named, names, entities, expected):
    folder = tmp_path / "other" if is_named else raw / "derivatives" / "fmriprep"
    touch(folder, *names)
    (recording,) = find_recordings(
        raw,
        filter_file=filter_file(tmp_path, **entities) if entities else None,
        derivatives=[folder] if is_named else [],
    )
    assert recording.path.name == expected
    assert recording.route == ("preprocessed" if expected == MNI else "surface")
    assert recording.sidecar["TaskName"] == "x"
    assert recording.key == STEM


def test_raw_runs_of_two_kinds_are_refused(tmp_path, raw):
    touch(raw, kind="raw", subject="02")
    image = raw / "sub-01/func" / f"{STEM}_bold.nii.gz"
    (raw / "sub-02/func" / image.name.replace("01", "02")).write_bytes(image.read_bytes())
    folder = raw / "derivatives" / "fmriprep"
    touch(touch(folder, MNI), DENSE, subject="02")
    with pytest.raises(MetadataError, match=r"kind volume, .* of kind surface"):
        find_recordings(raw)


def test_a_hemisphere_alone_among_derivatives_is_refused(raw):
    touch(raw / "derivatives" / "fmriprep", SIDES["fsaverage5"][0])
    with pytest.raises(MetadataError, match="other hemisphere"):
        find_recordings(raw)
