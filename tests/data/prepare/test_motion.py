import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from nitransforms.io.fsl import FSLLinearTransformArray
from nitransforms.linear import LinearTransformsMapping
from scipy.spatial.transform import Rotation

from titan_neuro.data.prepare.motion import (
    MOTION,
    center_of_mass,
    framewise_displacement,
    motion_parameters,
    read_head_motion,
)
from titan_neuro.errors import MetadataError

SHAPE = (20, 24, 18)


def oriented(codes):
    ornt = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = from_matvec(np.diag([2.0, 2.5, 3.0]), [-31.0, -20.0, -44.0])
    return affine @ inv_ornt_aff(ornt, SHAPE)


OBLIQUE = from_matvec(Rotation.from_euler("xyz", [0.3, -0.2, 0.1]).as_matrix(), [1, 2, 3])
AFFINES = {codes: oriented(codes) for codes in ("RAS", "LAS", "LPS", "PIR", "ASL")}
AFFINES |= {"oblique RAS": OBLIQUE @ oriented("RAS"), "oblique LPS": OBLIQUE @ oriented("LPS")}
every_orientation = pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)


@pytest.fixture(scope="module")
def reference():
    """A volume whose mass is not in the middle of its grid."""
    volume = np.random.default_rng(0).gamma(2.0, 100.0, size=SHAPE)
    volume[:6] = 0
    return volume


def truth(n=30, translation_mm=0.6, rotation_rad=0.03):
    scale = np.repeat([translation_mm, rotation_rad], 3)
    return np.vstack([np.zeros(6), np.random.default_rng(1).normal(size=(n - 1, 6)) * scale])


def left_handed(axis, angle):
    """Rotation matrix written out, as FSL's source has it: +sin above the diagonal."""
    matrix = np.eye(3)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = np.sin(angle), -np.sin(angle)
    return matrix


def fsl_matrices(parameters, center_mm):
    """FSL's matrices of a movement: turn about the center (in FSL's own mm), then shift."""
    matrices = []
    for shift, angles in zip(parameters[:, :3], parameters[:, 3:], strict=True):
        turn = left_handed(0, angles[0]) @ left_handed(1, angles[1]) @ left_handed(2, angles[2])
        matrices.append(from_matvec(turn, shift + center_mm - turn @ center_mm))
    return np.stack(matrices)


def true_motion(parameters, volume, affine):
    """What a registration would have written, by nitransforms' conversion from FSL."""
    image = nib.Nifti1Image(volume, affine)
    center = np.array([np.average(np.indices(SHAPE)[i], weights=volume) for i in range(3)])
    if np.linalg.det(affine) > 0:
        center[0] = SHAPE[0] - 1 - center[0]
    series = FSLLinearTransformArray()
    series.xforms = [
        FSLLinearTransformArray._inner_type(m) for m in fsl_matrices(parameters, center * image.header.get_zooms())
    ]
    return series.to_ras(moving=image, reference=image)


@every_orientation
def test_planted_motion_is_found(reference, affine):
    parameters = truth()
    head_motion = true_motion(parameters, reference, affine)
    found = motion_parameters(head_motion, affine, center_of_mass(reference, affine))
    assert tuple(found.columns) == MOTION
    np.testing.assert_allclose(found.to_numpy(), parameters, atol=2e-6)


@every_orientation
def test_fmriprep_recovers_the_same_to_the_first_order(reference, affine):
    parameters = truth(translation_mm=0.3, rotation_rad=0.004)
    image = nib.Nifti1Image(reference, affine)
    head_motion = true_motion(parameters, reference, affine)
    fsl = FSLLinearTransformArray.from_ras(head_motion, reference=image, moving=image)
    matrices = np.stack([each["parameters"] for each in fsl.xforms])
    turns = matrices[:, :3, :3].transpose(0, 2, 1)
    center = np.array([np.average(np.indices(SHAPE)[i], weights=reference) for i in range(3)])
    if np.linalg.det(affine) > 0:
        center[0] = SHAPE[0] - 1 - center[0]
    center *= image.header.get_zooms()
    shifts = matrices[:, :3, 3] - turns @ center + center
    found = motion_parameters(head_motion, affine, center_of_mass(reference, affine))
    np.testing.assert_allclose(found[list(MOTION[:3])], shifts, atol=0.01)
    np.testing.assert_allclose(found[list(MOTION[3:])], Rotation.from_matrix(turns).as_euler("XYZ"), atol=1e-4)


@pytest.mark.parametrize(("codes", "expected"), [("RAS", 1.5), ("LAS", 1.5), ("LPS", -1.5), ("RPS", -1.5)])
def test_translation_sign_follows_fsl_first_axis(codes, expected):
    went_right = from_matvec(np.eye(3), [1.5, 0, 0])[None]
    found = motion_parameters(went_right, oriented(codes), np.zeros(3))
    np.testing.assert_allclose(found.to_numpy(), [[expected, 0, 0, 0, 0, 0]], atol=1e-12)


def test_a_rotation_about_the_center_is_no_translation():
    center = np.array([10.0, -25.0, 40.0])
    turn = Rotation.from_euler("x", 0.05).as_matrix()
    nod = from_matvec(turn, center - turn @ center)[None]
    found = motion_parameters(nod, oriented("LAS"), center)
    np.testing.assert_allclose(found.to_numpy(), [[0, 0, 0, 0.05, 0, 0]], atol=1e-12)
    elsewhere = motion_parameters(nod, oriented("LAS"), np.zeros(3))
    assert np.abs(elsewhere[["trans_y", "trans_z"]].to_numpy()).min() > 1


def test_center_of_mass_is_in_mm(reference):
    volume = np.zeros(SHAPE)
    volume[3, 5, 7] = 2
    np.testing.assert_allclose(
        center_of_mass(volume, AFFINES["oblique LPS"]), apply_affine(AFFINES["oblique LPS"], [3, 5, 7])
    )
    volume[5, 5, 7] = 2
    np.testing.assert_allclose(center_of_mass(volume, AFFINES["LAS"]), apply_affine(AFFINES["LAS"], [4, 5, 7]))


class TestFramewiseDisplacement:
    def test_it_sums_shifts_and_arcs_at_50_mm(self):
        motion = pd.DataFrame(np.zeros((4, 6)), columns=list(MOTION))
        motion.loc[1, ["trans_x", "trans_z"]] = [0.2, -0.3]
        motion.loc[2, ["trans_x", "trans_z", "rot_y"]] = [0.2, -0.3, -0.01]
        np.testing.assert_allclose(framewise_displacement(motion), [np.nan, 0.5, 0.5, 1.0])
        np.testing.assert_allclose(framewise_displacement(motion, radius_mm=80), [np.nan, 0.5, 0.8, 1.3])

    def test_later_time_points_change_no_earlier_one(self):
        motion = pd.DataFrame(truth(), columns=list(MOTION))
        other = motion.copy()
        other.iloc[12:] = np.nan
        assert np.array_equal(framewise_displacement(other)[:12], framewise_displacement(motion)[:12], equal_nan=True)

    def test_it_needs_no_order_of_columns(self):
        motion = pd.DataFrame(truth(), columns=list(MOTION))
        mixed = motion[list(MOTION[::-1])].assign(csf=1.0)
        np.testing.assert_array_equal(framewise_displacement(mixed), framewise_displacement(motion))


@pytest.mark.parametrize("n", [1, 2, 30])
def test_transforms_are_read_as_written(tmp_path, reference, n):
    head_motion = true_motion(truth(), reference, AFFINES["LAS"])[:n]
    path = tmp_path / "sub-01_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    LinearTransformsMapping(head_motion).to_filename(path, fmt="itk")
    found = read_head_motion(path)
    assert found.shape == (n, 4, 4)
    # The format's "%g" keeps six digits.
    np.testing.assert_allclose(found, head_motion, atol=1e-4)


def test_later_motion_changes_no_earlier_parameters(reference):
    affine = AFFINES["oblique RAS"]
    head_motion = true_motion(truth(), reference, affine)
    other = head_motion.copy()
    other[15:, :3, 3] += 40
    center = center_of_mass(reference, affine)
    found, changed = (motion_parameters(each, affine, center)[:15] for each in (head_motion, other))
    assert np.array_equal(found.to_numpy(), changed.to_numpy())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a transform\n",
        b"#Insight Transform File V1.0\n",
        b"#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_float_3_3\nParameters: 1 0 0\n",
        b"\x1f\x8b\x08\x00\xff\xfe\x00",
    ],
)
def test_what_is_no_transform_is_refused(tmp_path, content):
    path = tmp_path / "hmc_xfm.txt"
    path.write_bytes(content)
    with pytest.raises(MetadataError, match=r"hmc_xfm\.txt: expected head-motion transforms as ITK text"):
        read_head_motion(path)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(MetadataError, match="No such file"):
        read_head_motion(tmp_path / "missing.txt")


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "hmc_xfm.txt"
    matrices = np.stack([np.eye(4)] * 3)
    matrices[2, 0, 3] = np.nan
    LinearTransformsMapping(matrices).to_filename(path, fmt="itk")
    with pytest.raises(MetadataError, match="expected head-motion transforms"):
        read_head_motion(path)
