"""Known motion, distortion, coregistration and warp are undone, in every orientation, in one interpolation."""

from __future__ import annotations

import json
from pathlib import Path

import ants
import h5py
import nibabel as nib
import numpy as np
import pytest
from phantom import ORIENTATIONS, STEM, Phantom, move, rigid, save, write_itk
from scipy import ndimage

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare.distortion_correction import PhaseEncoding, distortion_shift
from titan_neuro.data.prepare.grid import grid_points
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.readout_time import ReadoutTime
from titan_neuro.data.prepare.resampling import Resampler
from titan_neuro.data.prepare.spatial_mapping import map_by_transforms
from titan_neuro.data.prepare.time_series import ResampledVolumes
from titan_neuro.data.prepare.transforms import load_composite
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


def test_transforms_of_another_run(tmp_path):
    phantom = Phantom()
    root = phantom.write(tmp_path / "bids", np.zeros((*phantom.shape, phantom.n_volumes)))
    phantom.head_motion = phantom.head_motion[:-1]
    write_itk(next(root.rglob("*desc-hmc_xfm.txt")), phantom.head_motion)
    [recording] = find_recordings(root)
    with pytest.raises(ImageError, match=r"expected 3 transforms, one for each volume .* found 2"):
        map_by_transforms(recording, BoldImage(recording.path), Phantom.voxel_mm)


# ---- the field of view -------------------------------------------------------------------------------------------


@pytest.fixture
def ramps(tmp_path):
    """Writes a phantom of `n_volumes` still volumes, of which some are moved along z; its voxels hold their z."""

    def write(n_volumes, moves_mm):
        phantom = Phantom(n_volumes=n_volumes, coregistration=np.eye(4), orientation="RAS")
        phantom.linear = np.eye(4)
        phantom.warp = lambda points: 0 * points
        phantom.field_hz = lambda points: 0 * points[:, 0]
        phantom.head_motion = np.stack([np.eye(4)] * n_volumes)
        for volume, z_mm in moves_mm.items():
            phantom.head_motion[volume, 2, 3] = z_mm
        # The image ends inside the brain.
        phantom.affine[2, 3] += 60
        ramp = np.broadcast_to(1000.0 + np.arange(phantom.shape[2])[:, None], (*phantom.shape, n_volumes))
        root = phantom.write(tmp_path / "bids", ramp)
        [recording] = find_recordings(root)
        volumes = BoldImage(recording.path)
        return phantom, volumes, map_by_transforms(recording, volumes, Phantom.voxel_mm)

    return write


def first_slice(phantom, mapping):
    """The lowest voxel of the image that the output shows, as a voxel coordinate."""
    points = grid_points(mapping.space.mask, mapping.space.affine)
    return move(np.linalg.inv(phantom.affine), points)[:, 2].min()


@pytest.mark.parametrize(
    ("n_volumes", "moves_mm", "lowest"),
    [
        (3, {}, -0.5),
        (3, {1: -12.0}, 2.5),
        (3, {0: -4.0, 2: -12.0}, 2.5),
        (3, {1: 12.0}, -0.5),
        # One volume in a hundred, and two.
        (100, {50: -12.0}, -0.5),
        (100, {50: -12.0, 51: -12.0}, 2.5),
    ],
)
def test_voxels_that_motion_loses_are_left_out(ramps, n_volumes, moves_mm, lowest):
    phantom, volumes, mapping = ramps(n_volumes, moves_mm)
    found = first_slice(phantom, mapping)
    assert lowest <= found < lowest + 1
    is_lost = lowest > -0.5
    assert (mapping.details["voxels_lost_by_motion"] > 0) == is_lost
    assert (mapping.details["values_held_at_edge"] > 0) == (n_volumes == 100 and not is_lost)
    scanned = ResampledVolumes(volumes, mapping.space, mapping.resampler).read(0, n_volumes)
    points = grid_points(mapping.space.mask, mapping.space.affine)
    for volume in {0, n_volumes - 1, *moves_mm}:
        z = move(np.linalg.inv(phantom.affine) @ phantom.head_motion[volume], points)[:, 2]
        expected = 1000 + np.clip(z, 0, phantom.shape[2] - 1)
        # Splines need a few voxels from the end of a ramp to follow it.
        np.testing.assert_allclose(scanned[volume], expected, atol=0.15)


def test_lost_voxels_are_warned_of(ramps, caplog):
    ramps(3, {1: -12.0})
    assert "voxels of the brain out of the field of view; they are left out" in caplog.text


def test_motion_that_loses_the_brain_is_refused(ramps):
    with pytest.raises(ImageError, match="head motion carries the whole brain out of its field of view"):
        ramps(3, {1: -900.0})


# ---- the fieldmap ------------------------------------------------------------------------------------------------

ENCODING = PhaseEncoding(axis=1, sign=-1, readout=ReadoutTime(seconds=0.04, source="TotalReadoutTime"))


def write_fieldmap(path, affine, shape=(12, 14, 10), field=None):
    points = move(affine, np.argwhere(np.ones(shape)))
    values = (points @ [1.0, -2.0, 0.5] + 7 if field is None else field(points)).reshape(shape)
    save(path, values.astype(np.float32), affine)
    return path


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)])
@pytest.mark.parametrize("size_mm", [2.0, 7.0])
def test_fieldmaps_on_any_grid_give_one_shift(tmp_path, flips, size_mm):
    """A linear field is the same on every grid, between the centers of its outer voxels."""
    to_reference = rigid([5, -3, 8], [3.0, 1, -2])
    shape = np.array([84, 84, 84]) // int(size_mm)
    affine = rigid([3, 2, -9], [1.0, 2, 3]) @ np.diag([*(size_mm * np.array(flips)), 1.0])
    affine[:3, 3] -= move(affine, (shape[None] - 1) / 2)[0] - affine[:3, 3]
    path = write_fieldmap(tmp_path / "fieldmap.nii.gz", affine, tuple(shape))
    points = np.random.default_rng(0).uniform(-15, 15, (200, 3))
    found = distortion_shift(path, to_reference, ENCODING, points)
    hertz = move(np.linalg.inv(to_reference), points) @ [1.0, -2.0, 0.5] + 7
    np.testing.assert_allclose(found.voxels, -0.04 * hertz, atol=1e-4)
    assert found.is_covered.all()


def test_outer_half_voxel_of_fieldmaps_is_held(tmp_path, caplog):
    path = write_fieldmap(tmp_path / "fieldmap.nii.gz", np.eye(4), (5, 5, 5), lambda points: 0 * points[:, 0] + 50)
    points = np.array([[-0.4, 2, 2], [4.4, -0.4, 2], [4.4, 4.4, 4.4], [-0.6, 2, 2], [2, 2, 4.6]])
    found = distortion_shift(path, np.eye(4), ENCODING, points)
    np.testing.assert_allclose(found.voxels, [-2, -2, -2, 0, 0])
    assert found.is_covered.tolist() == [True, True, True, False, False]
    assert "40 % of the brain lie outside the fieldmap and stay distorted" in caplog.text


@pytest.mark.parametrize(
    ("unit", "is_refused"), [(None, False), ("Hz", False), ("rad/s", True), ("T", True), (1, True)]
)
def test_unit_of_fieldmaps_is_checked(tmp_path, unit, is_refused):
    path = write_fieldmap(tmp_path / "sub-1_fieldmap.nii.gz", np.eye(4))
    (tmp_path / "sub-1_fieldmap.json").write_text(json.dumps({} if unit is None else {"Units": unit}))
    arguments = path, np.eye(4), ENCODING, np.ones((3, 3))
    if not is_refused:
        assert np.isfinite(distortion_shift(*arguments).voxels).all()
        return
    with pytest.raises(MetadataError, match=r"sub-1_fieldmap.nii.gz: expected a fieldmap in Hz, found the unit"):
        distortion_shift(*arguments)


@pytest.mark.parametrize(
    ("field", "offset_mm", "message"),
    [
        (lambda points: np.where(points[:, 0] > 3, np.nan, 1.0), 0.0, "expected a fieldmap of finite values"),
        (lambda points: points[:, 0], 500.0, "no voxel of the brain lies inside the fieldmap"),
    ],
)
def test_fieldmaps_that_are_refused(tmp_path, field, offset_mm, message):
    path = write_fieldmap(tmp_path / "fieldmap.nii.gz", np.eye(4), field=field)
    with pytest.raises(ImageError, match=message):
        distortion_shift(path, np.eye(4), ENCODING, np.ones((3, 3)) + offset_mm)


def test_echo_spacing_gives_the_same_result(tmp_path, recorded_phantom):
    _, data = recorded_phantom
    root = Phantom().write(tmp_path / "bids", data)
    expected, _ = undo(root)
    [path] = root.glob("sub-*/func/*_bold.json")
    sidecar = json.loads(path.read_text())
    sidecar["EffectiveEchoSpacing"] = sidecar.pop("TotalReadoutTime") / (Phantom.shape[1] - 1)
    path.write_text(json.dumps(sidecar))
    found, _ = undo(root)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    [recording] = find_recordings(root)
    details = map_by_transforms(recording, BoldImage(recording.path), Phantom.voxel_mm).details
    assert details["total_readout_time_from"] == f"EffectiveEchoSpacing x ({Phantom.shape[1]} - 1)"
    assert details["voxels_outside_fieldmap"] == 0


# ---- formats -----------------------------------------------------------------------------------------------------


def test_transforms_in_other_formats_map_alike(tmp_path, recorded_phantom):
    """Coregistration and fieldmap transforms as `.mat`, the warp as an image."""
    _, data = recorded_phantom
    root = Phantom().write(tmp_path / "bids", data)
    expected, _ = undo(root)
    for name in ("to-T1w_mode-image_desc-coreg", "to-auto00000_mode-image"):
        [path] = root.rglob(f"*{name}_xfm.txt")
        ants.write_transform(ants.read_transform(str(path)), str(path.with_suffix(".mat")))
        path.unlink()
    found, _ = undo(root)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
