import sys
from dataclasses import replace

import ants
import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from phantom import move, rigid, save
from scipy import ndimage

from titan_neuro.data.bids.names import ROUGH_SPACE
from titan_neuro.data.prepare import rough_registration
from titan_neuro.data.prepare.grid import grid_points
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.rough_registration import map_by_registration
from titan_neuro.errors import ConfigError, ImageError

VOXEL_MM, SHAPE, REFERENCE_TIME_POINTS = 6.0, (34, 40, 32), 2
AFFINE = np.diag([-VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
AFFINE[:3, 3] = -AFFINE[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + [0, -18, 10]
# The head lies and is shaped otherwise than the template, and moves after the volumes of the reference.
TO_REFERENCE = rigid([5, -4, 3], [4.0, -7.0, 8.0]) @ np.diag([1.06, 0.95, 1.04, 1.0])
HEAD_MOTION = np.stack(
    [np.eye(4), np.eye(4), rigid([1.5, -1, 0.5], [0.5, 1.0, -2.0]), rigid([-2.0, 0.8, 1.2], [1.5, -2, 1])]
)


def record(head_motion):
    """Volumes of the template with the contrast of an EPI (fluid is bright), and noise."""
    template = load_mni152_template(resolution=2)
    brain = np.asarray(template.dataobj, dtype=np.float64)
    brain = np.where(brain > 0.1, 1500 - 1000 * brain, 0)
    # What a voxel of 6 mm holds is a mean.
    brain = ndimage.gaussian_filter(brain, 0.42 * VOXEL_MM / 2)
    rng = np.random.default_rng(0)
    volumes = []
    for motion in head_motion:
        chain = np.linalg.inv(template.affine) @ np.linalg.inv(motion @ TO_REFERENCE) @ AFFINE
        volume = ndimage.affine_transform(brain, chain[:3, :3], chain[:3, 3], output_shape=SHAPE, order=1)
        volumes.append(volume + rng.normal(0, 10, SHAPE))
    return np.stack(volumes, axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def recorded():
    return record(HEAD_MOTION)


@pytest.fixture(scope="module")
def registered(recorded, tmp_path_factory):
    return register(recorded, tmp_path_factory.mktemp("first"))


def register(data, folder):
    path = folder / "sub-01_task-x_bold.nii.gz"
    save(path, data, AFFINE)
    return map_by_registration(BoldImage(path), VOXEL_MM, range(REFERENCE_TIME_POINTS))


def read_voxels(geometry, volume):
    """Where the output's voxels are read in a volume: images of a coordinate each tell, for splines keep them."""
    return np.stack([geometry.resampler(axis.astype(np.float32), volume) for axis in np.indices(SHAPE)], axis=-1)


def displacement_mm(geometry, volume, head_motion):
    points = grid_points(geometry.space.mask, geometry.space.affine)
    expected = move(np.linalg.inv(AFFINE) @ head_motion[volume] @ TO_REFERENCE, points)
    # At the edge of the field of view the coordinate is that of the edge.
    inner = ((expected > 2) & (expected < np.array(SHAPE) - 3)).all(axis=1)
    return VOXEL_MM * np.linalg.norm(read_voxels(geometry, volume) - expected, axis=1)[inner]


def test_registration_error_is_a_fraction_of_a_voxel(registered):
    assert registered.space.name == ROUGH_SPACE
    assert registered.space.mask.sum() > 6000
    points = grid_points(registered.space.mask, registered.space.affine)
    assert np.linalg.norm(move(TO_REFERENCE, points) - points, axis=1).mean() > 12
    for volume in range(len(HEAD_MOTION)):
        displacement = displacement_mm(registered, volume, HEAD_MOTION)
        assert len(displacement) > 5000
        # Measured: 0.9 and 1.8 mm. Most of it is the way to the template, whose contrast is another.
        assert displacement.mean() < 0.2 * VOXEL_MM
        assert displacement.max() < 0.4 * VOXEL_MM


def test_head_motion_error_is_below_0_05_voxels(registered):
    points = grid_points(registered.space.mask, registered.space.affine)
    for found, truth in zip(registered.head_motion, HEAD_MOTION, strict=True):
        # Measured: 0.12 to 0.20 mm.
        assert np.linalg.norm(move(found, points) - move(truth, points), axis=1).mean() < 0.05 * VOXEL_MM
    assert np.linalg.norm(move(HEAD_MOTION[3], points) - points, axis=1).mean() > 3


def test_registration_is_reproducible_and_ignores_later_volumes(registered, recorded, tmp_path, monkeypatch):
    """ITK has started in this process with as many threads as it likes; nothing is left where it writes."""
    ants.smooth_image(ants.from_numpy(recorded[..., 0]), 1.0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    other = recorded.copy()
    other[..., 3] = other[::-1, :, :, 3]
    again = register(other, tmp_path)
    assert np.array_equal(again.head_motion[:3], registered.head_motion[:3])
    assert not np.array_equal(again.head_motion[3], registered.head_motion[3])
    assert np.array_equal(read_voxels(again, 2), read_voxels(registered, 2))
    assert np.array_equal(again.space.mask, registered.space.mask)
    assert not list(scratch.iterdir())


def test_without_ants(recorded, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ants", None)
    with pytest.raises(ConfigError, match="ANTs is not installed") as caught:
        register(recorded, tmp_path)
    assert "titan-neuro[raw]" in caught.value.hint


def test_a_value_that_is_not_finite(recorded, tmp_path):
    data = recorded.copy()
    data[7, 8, 9, 1] = np.nan
    with pytest.raises(ImageError, match=r"found nan in volume 1, voxel \(7, 8, 9\)"):
        register(data, tmp_path)


def test_a_volume_that_shows_nothing(recorded, tmp_path):
    data = recorded.copy()
    data[..., 1] = 7
    with pytest.raises(ImageError, match="volume 1 is constant"):
        register(data, tmp_path)


def test_a_registration_that_fails(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(rough_registration, "AFFINE", replace(rough_registration.AFFINE, transform="Affine[]["))
    with pytest.raises(ImageError, match=r"_bold.nii.gz: ANTs could not register it"):
        register(recorded, tmp_path)


def test_no_brain(tmp_path):
    with pytest.raises(ImageError, match="found no brain"):
        register(np.random.default_rng(0).normal(size=(*SHAPE, 3)), tmp_path)
