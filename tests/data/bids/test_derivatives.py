"""The real trees of ds003017 and its published transforms: all parts of the resampling are found for every run."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.errors import MetadataError

DS003017 = Path(__file__).parents[3].parent / "shared" / "ds003017"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Names, sidecars and dangling annex links, as git has them."""
    if not DS003017.is_dir():
        pytest.skip(f"the metadata of ds003017 are not at {DS003017}")
    root = tmp_path_factory.mktemp("published") / "ds003017"
    for folder, name in {root: "ds003017-metadata", root / "derivatives/minimal": "ds003017-fmriprep-metadata"}.items():
        folder.mkdir(parents=True)
        with tarfile.open(DS003017 / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="tar")
    return root


def test_every_run_of_ds003017_has_its_transforms(published):
    recordings = find_recordings(published)
    assert len(recordings) == 125
    assert {recording.route for recording in recordings} == {"transforms"}
    assert {recording.sidecar["PhaseEncodingDirection"] for recording in recordings} == {"j-"}
    assert {recording.sidecar["RepetitionTime"] for recording in recordings} == {1.0}
    roles = {"head_motion", "coregistration", "standard", "brain", "white_matter", "csf", "fieldmap", "to_fieldmap"}
    for recording in recordings:
        assert set(recording.transforms) == roles
        for role in ("head_motion", "coregistration", "to_fieldmap"):
            assert recording.transforms[role].name.startswith(f"{recording.key}_from-")
        assert {path.name[:13] for path in recording.transforms.values()} == {f"sub-{recording.subject}"}
    first = recordings[0].transforms
    assert first["head_motion"].name.endswith("from-orig_to-boldref_mode-image_desc-hmc_xfm.txt")
    assert first["standard"].name.endswith("from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5")
    assert first["fieldmap"].name.endswith("fmapid-auto00000_desc-preproc_fieldmap.nii.gz")
    assert first["brain"].name.endswith("MPRAGE_desc-brain_mask.nii.gz")


@pytest.fixture
def one_subject(published, tmp_path):
    """The first subject alone, and a folder with its derivatives that may be changed."""
    root, derivatives = tmp_path / "raw", tmp_path / "derivatives"
    root.mkdir()
    for file in published.iterdir():
        if file.is_file():
            shutil.copy(file, root)
    name = "sub-sid000005"
    shutil.copytree(published / name, root / name, symlinks=True)
    shutil.copytree(published / "derivatives/minimal" / name, derivatives / name, symlinks=True)
    return root, derivatives


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*from-boldref_to-T1w*", "no from-boldref_to-T1w transform"),
        ("*from-T1w_to-MNI152NLin2009cAsym*", r"no transform from T1w to MNI152NLin2009cAsym \(.h5\)"),
        ("*label-CSF*", "no csf image"),
        ("*fieldmap.nii.gz", "no fieldmap auto00000 image"),
    ],
)
def test_missing_parts_are_named(one_subject, pattern, message):
    root, derivatives = one_subject
    for path in derivatives.rglob(pattern):
        path.unlink()
    with pytest.raises(MetadataError, match=message):
        find_recordings(root, derivatives=[derivatives])


def test_brain_masks_of_fieldmaps_are_ignored(one_subject):
    root, derivatives = one_subject
    (derivatives / "sub-sid000005/fmap/sub-sid000005_fmapid-auto00000_desc-brain_mask.nii.gz").touch()
    first = find_recordings(root, derivatives=[derivatives])[0]
    assert first.transforms["brain"].parent.name == "anat"


def test_transforms_without_a_fieldmap_are_complete(one_subject):
    root, derivatives = one_subject
    for path in derivatives.rglob("*_to-auto00000*"):
        path.unlink()
    first = find_recordings(root, derivatives=[derivatives])[0]
    assert first.route == "transforms"
    assert "fieldmap" not in first.transforms
