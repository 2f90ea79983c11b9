"""Parcels cut out of voxels, and how reliable their signal is."""

import nibabel as nib
import numpy as np
import pytest
import voxel_scaling


def test_every_voxel_of_the_mask_has_a_parcel(tmp_path):
    mask = np.zeros((6, 7, 5), dtype=np.uint8)
    mask[1:5, 1:6, 1:4] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([3.0, 3, 3, 1])), tmp_path / "mask.nii.gz")
    path = voxel_scaling.write_atlas(tmp_path / "mask.nii.gz", tmp_path, "tpl-MNI152NLin6Asym_", 6)
    labels = np.asarray(nib.load(path).dataobj)
    np.testing.assert_array_equal(labels > 0, mask > 0)
    assert set(np.unique(labels)) == {*range(7)}
    # Neighbors: no parcel reaches through the whole block.
    for label in range(1, 7):
        assert np.ptp(np.argwhere(labels == label), axis=0).max() < 4


def test_intersubject_correlation_leaves_the_subject_out():
    rng = np.random.default_rng(0)
    one, two, three = rng.standard_normal((3, 300, 2))
    found = voxel_scaling.intersubject_correlation([one, two[:280], three])
    shortest = [series[:280] for series in (one, two, three)]
    expected = [
        np.corrcoef(shortest[i][:, parcel], shortest[(i + 1) % 3][:, parcel] + shortest[(i + 2) % 3][:, parcel])[0, 1]
        for i in range(3)
        for parcel in range(2)
    ]
    assert found == pytest.approx(np.mean(expected))
