"""Edges of images: held over the outer half voxel; farther inside volumes are interpolated as by fMRIPrep."""

from __future__ import annotations

import numpy as np
import pytest
from phantom import rigid, save
from scipy import ndimage

from titan_neuro.data.prepare.distortion_correction import DistortionShift
from titan_neuro.data.prepare.grid import regrid_mask
from titan_neuro.data.prepare.resampling import Resampler, sample_image
from titan_neuro.data.prepare.transforms import apply_affine, interpolate_linearly, is_inside
from titan_neuro.errors import ImageError

SHAPE = np.array([9, 8, 7])
AFFINE = rigid([4, -7, 12], [30.0, -20, 10]) @ np.diag([-3.0, 3.5, 4, 1])
RNG = np.random.default_rng(0)
VOLUME = RNG.normal(100, 10, SHAPE).astype(np.float32)


def around(shape, margin, n=4000):
    return np.random.default_rng(1).uniform(-margin, np.array(shape) - 1 + margin, (n, 3))


def clip(coordinates):
    return np.clip(coordinates, 0, SHAPE - 1)


def test_outer_half_voxel_of_volumes_is_held():
    outer = around(SHAPE, 0.5)
    found = Resampler(apply_affine(AFFINE, outer), AFFINE)(VOLUME, 0)
    held = Resampler(apply_affine(AFFINE, clip(outer)), AFFINE)(VOLUME, 0)
    assert ((outer < 0) | (outer > SHAPE - 1)).any(axis=1).sum() > 1000
    np.testing.assert_allclose(found, held, rtol=1e-5)
    # At the centers of the outer voxels it is their value.
    corners = np.argwhere(np.ones((2, 2, 2))) * (SHAPE - 1.0)
    at_corners = Resampler(apply_affine(AFFINE, corners + np.where(corners == 0, -0.4, 0.4)), AFFINE)(VOLUME, 0)
    np.testing.assert_allclose(at_corners, VOLUME[tuple(corners.astype(int).T)], rtol=1e-4)


def test_motion_out_of_view_mirrors_nothing():
    """Three voxels outside, a ramp still has the value of its edge."""
    ramp = np.broadcast_to(100.0 * np.arange(SHAPE[2]), SHAPE).astype(np.float32)
    motion = np.stack([np.eye(4)] * 2)
    motion[1, 2, 3] = 3.0
    top = np.array([[4.0, 4, SHAPE[2] - 1]])
    resampler = Resampler(top, np.eye(4), head_motion=motion)
    assert resampler(ramp, 0) == pytest.approx(100.0 * (SHAPE[2] - 1), rel=1e-4)
    assert resampler(ramp, 1) == pytest.approx(100.0 * (SHAPE[2] - 1), rel=1e-4)


@pytest.mark.parametrize("direction", [0, 1, 2])
def test_interior_equals_fmripreps_formula(direction):
    """Its `resample_vol`: motion, then the shift, then splines that blend towards 0 beyond the edges."""
    shape = (34, 36, 32)
    volume = RNG.normal(100, 10, shape).astype(np.float32)
    inner = RNG.uniform(14, np.array(shape) - 15, (500, 3))
    motion = np.stack([rigid(RNG.normal(0, 0.5, 3), RNG.normal(0, 0.3, 3)) for _ in range(3)])
    shift = RNG.normal(0, 1, len(inner))
    distortion = DistortionShift(axis=direction, voxels=shift, is_covered=np.ones(len(inner), dtype=bool))
    resampler = Resampler(apply_affine(AFFINE, inner), AFFINE, head_motion=motion, distortion=distortion)
    for index, each in enumerate(motion):
        coordinates = apply_affine(np.linalg.inv(AFFINE) @ each @ AFFINE, inner).T
        coordinates[direction] += shift
        theirs = ndimage.map_coordinates(volume, coordinates, np.float32, order=3, mode="grid-constant", cval=0.0)
        np.testing.assert_allclose(resampler(volume, index), theirs, rtol=1e-5)


@pytest.mark.parametrize("spread_mm", [0.0, 0.5, 5.0, 60.0])
@pytest.mark.parametrize("is_distorted", [False, True])
def test_voxels_out_of_view_are_counted(spread_mm, is_distorted):
    motion = np.stack([rigid(RNG.normal(0, spread_mm, 3), RNG.normal(0, spread_mm, 3)) for _ in range(12)])
    voxels = around(SHAPE, 0.5, 700)
    shift = RNG.normal(0, 1, len(voxels)) if is_distorted else np.zeros(len(voxels))
    distortion = DistortionShift(axis=1, voxels=shift, is_covered=np.ones(len(voxels), dtype=bool))
    resampler = Resampler(apply_affine(AFFINE, voxels), AFFINE, head_motion=motion, distortion=distortion)
    expected = np.stack([~is_inside(resampler._coordinates_in(t), tuple(SHAPE)) for t in range(12)])
    n_volumes, n_voxels = resampler.count_out_of_view(tuple(SHAPE))
    assert np.array_equal(n_volumes, expected.sum(axis=0))
    assert np.array_equal(n_voxels, expected.sum(axis=1))
    assert (n_volumes > 0).any() == (spread_mm > 0 or is_distorted)


def test_selection_resamples_the_same_values():
    voxels, motion = around(SHAPE, 0, 200), rigid([1, 2, 3], [1, 0, 2])[None]
    keep = RNG.random(200) > 0.4
    distortion = DistortionShift(axis=1, voxels=RNG.normal(size=200), is_covered=np.ones(200, dtype=bool))
    resampler = Resampler(
        apply_affine(AFFINE, voxels), AFFINE, head_motion=motion, distortion=distortion, smoothing_voxels=(1, 0, 1)
    )
    assert np.array_equal(resampler.select(keep)(VOLUME, 0), resampler(VOLUME, 0)[keep])


# ---- linear interpolation of fields and masks ------------------------------------------------------------------------


def test_linear_interpolation_holds_then_ends():
    voxels = around(SHAPE, 1.5)
    found = interpolate_linearly(VOLUME, voxels)
    inside = ((voxels >= -0.5) & (voxels <= SHAPE - 0.5)).all(axis=1)
    held = ndimage.map_coordinates(VOLUME, clip(voxels).T, order=1)
    np.testing.assert_allclose(found[inside], held[inside], rtol=1e-5)
    assert not found[~inside].any()
    assert 0.3 < inside.mean() < 0.8


def test_images_are_sampled_to_their_edges(tmp_path):
    save(tmp_path / "x.nii.gz", VOLUME, AFFINE)
    voxels = around(SHAPE, 1.5)
    found = sample_image(tmp_path / "x.nii.gz", apply_affine(AFFINE, voxels), "fieldmap")
    np.testing.assert_allclose(found, interpolate_linearly(VOLUME, voxels), atol=0.01)


def test_images_that_are_not_finite_are_refused(tmp_path):
    save(tmp_path / "x.nii.gz", np.where(VOLUME > 110, np.nan, VOLUME).astype(np.float32), AFFINE)
    with pytest.raises(ImageError, match="expected a tissue map of finite values"):
        sample_image(tmp_path / "x.nii.gz", np.zeros((1, 3)), "tissue map")


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 0.5])
def test_masks_reach_to_the_edges_of_their_image(factor):
    """A mask of the whole image stays one on finer and coarser grids over the same field of view."""
    shape = tuple(int(n * factor) for n in (6, 8, 10))
    affine = np.diag([1 / factor] * 3 + [1.0])
    affine[:3, 3] = (1 / factor - 1) / 2
    full = np.ones((6, 8, 10), dtype=bool)
    found = regrid_mask(full, np.eye(4), shape, affine)
    # Where two faces meet, the interpolation rounds the corner.
    inner = slice(2, -2) if factor > 1 else slice(1, -1)
    faces = found[:, inner, inner], found[inner, :, inner], found[inner, inner, :]
    assert all(face.all() for face in faces)
    # One voxel farther out there is nothing.
    affine[:3, 3] -= 1 / factor
    moved = regrid_mask(full, np.eye(4), shape, affine)
    assert not moved[0].any()
    assert not moved[:, 0].any()
    assert not moved[:, :, 0].any()
