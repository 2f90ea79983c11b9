"""Known motion, distortion, coregistration and warp are undone, in every orientation, in one interpolation."""

from __future__ import annotations

from pathlib import Path

import ants
import h5py
import nibabel as nib
import numpy as np
import pytest
from phantom import ORIENTATIONS, STEM, Phantom, move, rigid, save, write_itk
from scipy import ndimage

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare.distortion_correction import PhaseEncoding
from titan_neuro.data.prepare.grid import grid_points
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.resampling import Resampler
from titan_neuro.data.prepare.spatial_mapping import map_by_transforms
from titan_neuro.data.prepare.time_series import ResampledVolumes
from titan_neuro.data.prepare.transforms import load_affine, load_composite
from titan_neuro.errors import ImageError, MetadataError


def undo(root):
    """The phantom's volumes on the template, ``(time, voxels)``, and the points of its voxels."""
    [recording] = find_recordings(root)
    assert recording.route == "transforms"
    volumes = BoldImage(recording.path)
    geometry = map_by_transforms(recording, volumes, Phantom.voxel_mm)
    scanned = ResampledVolumes(volumes, geometry.space, geometry.resampler).read(0, volumes.n_volumes)
    return scanned, grid_points(geometry.space.mask, geometry.space.affine)


def displacement_mm(phantom, scanned, points):
    """How far off the pattern lies, along its slope: what nine voxels of ten stay below."""
    slope = np.linalg.norm(phantom.gradient(points), axis=1)
    steep = slope > np.median(slope)
    return np.quantile(np.abs(scanned - phantom.pattern(points))[:, steep] / slope[steep], 0.9)


@pytest.mark.parametrize(("orientation", "direction"), [*zip(ORIENTATIONS, ["j", "j-", "i", "k-"], strict=True)])
def test_known_transforms_are_undone_within_0_05_voxels(tmp_path, orientation, direction):
    phantom = Phantom(orientation=orientation, direction=direction)
    scanned, points = undo(phantom.write(tmp_path / "bids"))
    assert len(points) > 10_000
    assert displacement_mm(phantom, scanned, points) < 0.05 * Phantom.voxel_mm
    error = np.sqrt(((scanned - phantom.pattern(points)) ** 2).mean()) / phantom.pattern(points).std()
    assert error < 0.05


@pytest.mark.parametrize(
    "spoil",
    [
        lambda phantom: setattr(phantom, "head_motion", phantom.head_motion[::-1]),
        lambda phantom: setattr(phantom, "head_motion", np.linalg.inv(phantom.head_motion)),
        lambda phantom: setattr(phantom, "direction", "j"),
        lambda phantom: setattr(phantom, "coregistration", np.linalg.inv(phantom.coregistration)),
        lambda phantom: setattr(phantom, "linear", np.eye(4)),
        lambda phantom: setattr(phantom, "warp", lambda points: 0 * points),
        lambda phantom: setattr(phantom, "field_hz", lambda points: 0 * points[:, 0]),
    ],
    ids=["other motion", "inverted motion", "direction", "coregistration", "linear", "warp", "fieldmap"],
)
def test_a_wrong_part_displaces_the_pattern(tmp_path, recorded_phantom, spoil):
    """One wrong file is enough: the test above can fail."""
    truth, data = recorded_phantom
    phantom = Phantom()
    spoil(phantom)
    scanned, points = undo(phantom.write(tmp_path / "bids", data))
    assert displacement_mm(truth, scanned, points) > 0.25 * Phantom.voxel_mm


def test_one_interpolation_beats_two(tmp_path):
    phantom = Phantom(shortest_mm=12.0)
    root = phantom.write(tmp_path / "bids")
    scanned, points = undo(root)
    image = nib.load(root / f"sub-01/func/{STEM}_bold.nii.gz")
    every = np.stack(np.meshgrid(*map(np.arange, Phantom.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    realign = Resampler(move(phantom.affine, every), phantom.affine, head_motion=phantom.head_motion)
    realigned = [realign(np.asarray(image.dataobj[..., t]), t).reshape(Phantom.shape) for t in range(phantom.n_volumes)]
    save(root / f"sub-01/func/{STEM}_bold.nii.gz", np.stack(realigned, axis=-1), phantom.affine)
    still = Phantom(shortest_mm=12.0)
    still.head_motion = np.stack([np.eye(4)] * phantom.n_volumes)
    transform = next(root.rglob("*desc-hmc_xfm.txt"))
    transform.unlink()
    write_itk(transform, still.head_motion)
    twice, _ = undo(root)
    once_error, twice_error = (np.sqrt(((x - phantom.pattern(points)) ** 2).mean()) for x in (scanned, twice))
    assert once_error < 0.8 * twice_error


def test_composite_transform_maps_points_as_ants(tmp_path):
    """A real registration (affine and SyN), written by ANTs, is the outside oracle."""
    rng = np.random.default_rng(3)
    base = ndimage.gaussian_filter(rng.normal(size=(40, 44, 36)), 3)
    bent = ndimage.map_coordinates(
        base, np.indices(base.shape) + 2 * np.sin(np.indices(base.shape)[::-1] / 6), order=3, mode="nearest"
    )
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -60
    oblique = rigid([8, -5, 3], [4, 2, -3]) @ affine
    images = []
    for name, data, where in (("fixed", base, affine), ("moving", bent, oblique)):
        save(tmp_path / f"{name}.nii", data.astype(np.float32), where)
        images.append(ants.image_read(str(tmp_path / f"{name}.nii")))
    found = ants.registration(
        *images,
        type_of_transform="SyN",
        outprefix=str(tmp_path / "x"),
        write_composite_transform=True,
        random_seed=1,
        reg_iterations=(10, 5),
    )
    path = found["fwdtransforms"]
    with h5py.File(path) as file:
        assert len(file["TransformGroup"]) == 3
    oracle = ants.read_transform(path)
    points = rng.uniform(-40, 40, (200, 3))
    expected = np.array([oracle.apply_to_point(tuple(p * [-1, -1, 1])) for p in points]) * [-1, -1, 1]
    np.testing.assert_allclose(load_composite(Path(path)).map(points), expected, atol=2e-3)
    assert np.abs(expected - points).max() > 3


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ({"TotalReadoutTime": 0.05}, "gives no PhaseEncodingDirection"),
        ({"PhaseEncodingDirection": "y", "TotalReadoutTime": 0.05}, "found 'y'"),
        ({"PhaseEncodingDirection": "j"}, "gives no TotalReadoutTime"),
        ({"PhaseEncodingDirection": "j", "TotalReadoutTime": 50}, "found 50"),
    ],
)
def test_a_fieldmap_needs_the_readout(tmp_path, sidecar, message):
    with pytest.raises(MetadataError, match=message):
        PhaseEncoding.from_sidecar(sidecar, tmp_path / "x_bold.nii.gz")


@pytest.mark.parametrize(("load_transform", "name"), [(load_composite, "x.h5"), (load_affine, "x.txt")])
def test_a_damaged_transform(tmp_path, load_transform, name):
    path = tmp_path / name
    path.write_bytes(b"no transform")
    with pytest.raises(ImageError, match="not a readable ITK transform"):
        load_transform(path)


def test_transforms_of_another_run(tmp_path):
    phantom = Phantom()
    root = phantom.write(tmp_path / "bids", np.zeros((*phantom.shape, phantom.n_volumes)))
    phantom.head_motion = phantom.head_motion[:-1]
    write_itk(next(root.rglob("*desc-hmc_xfm.txt")), phantom.head_motion)
    [recording] = find_recordings(root)
    with pytest.raises(ImageError, match=r"expected 3 transforms, one for each volume .* found 2"):
        map_by_transforms(recording, BoldImage(recording.path), Phantom.voxel_mm)
