"""Transforms are read from every format as ANTs reads them, which is the outside oracle."""

from __future__ import annotations

import ants
import h5py
import nibabel as nib
import numpy as np
import pytest
from phantom import LPS, move, rigid, save

from titan_neuro.data.prepare.itk_transforms import read_itk_file
from titan_neuro.data.prepare.motion import read_head_motion
from titan_neuro.data.prepare.transforms import load_affine, load_composite
from titan_neuro.data.simulate.itk import DisplacementField, write_composite
from titan_neuro.errors import ImageError, MetadataError

POINTS = np.random.default_rng(0).uniform(-40, 40, (20, 3))
VERSOR = np.array([0.1, -0.2, 0.3])
QUATERNION = [*VERSOR, np.sqrt(1 - VERSOR @ VERSOR)]
MATRIX = (np.eye(3) + np.random.default_rng(1).normal(0, 0.1, (3, 3))).ravel()
ROTATION = rigid([3, -5, 8], [0, 0, 0])[:3, :3].ravel()
SHIFT, CENTER = [1.0, 2.0, 3.0], [4.0, 5.0, -6.0]
# Class: parameters, fixed parameters.
LINEAR = {
    "affine": ("AffineTransform", [*MATRIX, *SHIFT], CENTER),
    "matrix": ("MatrixOffsetTransformBase", [*MATRIX, *SHIFT], CENTER),
    "no center": ("MatrixOffsetTransformBase", [*MATRIX, *SHIFT], [0, 0, 0]),
    "rigid": ("Rigid3DTransform", [*ROTATION, *SHIFT], CENTER),
    "centered affine": ("CenteredAffineTransform", [*MATRIX, *CENTER, *SHIFT], [7, 8, 9]),
    "euler": ("Euler3DTransform", [0.1, -0.2, 0.3, *SHIFT], CENTER),
    "euler, ZXY": ("Euler3DTransform", [0.1, -0.2, 0.3, *SHIFT], [*CENTER, 0]),
    "euler, ZYX": ("Euler3DTransform", [0.1, -0.2, 0.3, *SHIFT], [*CENTER, 1]),
    "centered euler": ("CenteredEuler3DTransform", [0.1, -0.2, 0.3, *CENTER, *SHIFT], [0, 0, 0, 0]),
    "versor": ("VersorTransform", VERSOR, CENTER),
    "versor rigid": ("VersorRigid3DTransform", [*VERSOR, *SHIFT], CENTER),
    "quaternion": ("QuaternionRigidTransform", [*QUATERNION, *SHIFT], CENTER),
    "similarity": ("Similarity3DTransform", [*VERSOR, *SHIFT, 1.2], CENTER),
    "translation": ("TranslationTransform", SHIFT, []),
    "identity": ("IdentityTransform", [], []),
}


def as_ants(path, points=POINTS):
    transform = ants.read_transform(str(path), precision="double")
    mapped = [ants.apply_ants_transform_to_point(transform, point) for point in points @ LPS[:3, :3]]
    return np.array(mapped) @ LPS[:3, :3]


def entry(number, kind, parameters, fixed):
    numbers, center = (" ".join(f"{value:.12g}" for value in values) for values in (parameters, fixed))
    return f"#Transform {number}\nTransform: {kind}_double_3_3\nParameters: {numbers}\nFixedParameters: {center}\n"


def write_text(path, *entries):
    path.write_text("\n".join(["#Insight Transform File V1.0", *entries]))
    return path


@pytest.mark.parametrize("extension", ["txt", "mat", "h5"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_transforms_map_as_ants(tmp_path, name, extension):
    path = write_text(tmp_path / "x.txt", entry(0, *LINEAR[name]))
    if extension != "txt":
        converted = tmp_path / f"x.{extension}"
        ants.write_transform(ants.read_transform(str(path), precision="double"), str(converted))
        path = converted
    np.testing.assert_allclose(move(load_affine(path), POINTS), as_ants(path), atol=1e-4)
    np.testing.assert_allclose(load_composite(path).map(POINTS), as_ants(path), atol=1e-4)


@pytest.mark.parametrize("name", ["euler", "similarity", "matrix"])
def test_head_motion_of_any_linear_kind(tmp_path, name):
    kind, parameters, fixed = LINEAR[name]
    shifts = [0.0, 0.5, -2.0]
    entries = [entry(i, kind, [*parameters[:3], *(np.array(parameters[3:]) + s)], fixed) for i, s in enumerate(shifts)]
    found = read_head_motion(write_text(tmp_path / "hmc_xfm.txt", *entries))
    alone = [load_affine(write_text(tmp_path / "x.txt", each)) for each in entries]
    assert found.shape == (3, 4, 4)
    assert np.array_equal(found, alone)


def write_spelled(path, n, prefix="Transform"):
    """A composite of `n` transforms that do not commute, and a field in the middle."""
    rng = np.random.default_rng(n)
    parts = [rigid(rng.normal(0, 10, 3), rng.normal(0, 4, 3)) for _ in range(n)]
    affine = np.diag([10.0, 10, 10, 1])
    affine[:3, 3] = -100
    parts[n // 2] = DisplacementField(vectors_mm=rng.normal(0, 3, (21, 21, 21, 3)), affine=affine)
    write_composite(path, parts)
    with h5py.File(path, "r+") as file:
        for group in list(file["TransformGroup"].values())[1:]:
            for name in ("Parameters", "FixedParameters"):
                if prefix != "Transform":
                    group.move(f"Transform{name}", f"{prefix}{name}")


@pytest.mark.parametrize("prefix", ["Transform", "Tranform"])
@pytest.mark.parametrize("n", [1, 2, 9, 10, 12, 101])
def test_composites_apply_members_by_number(tmp_path, n, prefix):
    path, spelled = tmp_path / "x.h5", tmp_path / "spelled.h5"
    write_spelled(path, n)
    write_spelled(spelled, n, prefix)
    expected = as_ants(path)
    np.testing.assert_allclose(load_composite(spelled).map(POINTS), expected, atol=1e-3)
    assert np.abs(expected - POINTS).max() > 3


@pytest.mark.parametrize("n", [1, 2, 12])
def test_linear_composites_as_text_and_hdf5(tmp_path, n):
    rng = np.random.default_rng(n)
    matrices = [rigid(rng.normal(0, 10, 3), rng.normal(0, 4, 3)) for _ in range(n)]
    write_composite(tmp_path / "x.h5", matrices)
    lps = [LPS @ matrix @ LPS for matrix in matrices]
    text = [
        entry(i, "AffineTransform", [*each[:3, :3].ravel(), *each[:3, 3]], [0, 0, 0]) for i, each in enumerate(lps, 1)
    ]
    header = "#Transform 0\nTransform: CompositeTransform_double_3_3"
    path = write_text(tmp_path / "x.txt", header, *text)
    expected = as_ants(tmp_path / "x.h5")
    np.testing.assert_allclose(as_ants(path), expected, atol=1e-4)
    for file in (path, tmp_path / "x.h5"):
        np.testing.assert_allclose(move(load_affine(file), POINTS), expected, atol=1e-4)
        np.testing.assert_allclose(load_composite(file).map(POINTS), expected, atol=1e-4)


# ---- displacement fields -----------------------------------------------------------------------------------------

SPACING, ORIGIN, SHAPE = np.array([4.0, 5.0, 6.0]), np.array([-11.0, 3.0, 20.0]), np.array([6, 5, 7])


def field_vectors():
    return np.random.default_rng(2).normal(0, 8, (*SHAPE, 3)).astype(np.float32)


def write_field(path, vectors, affine):
    """A composite of one field on an oblique grid, in HDF5."""
    lps = LPS @ affine
    with h5py.File(path, "w") as file:
        file["ITKVersion"], file["HDFVersion"] = [b"5.2.0"], [b"1.10"]
        file["TransformGroup/0/TransformType"] = [b"CompositeTransform_float_3_3"]
        file["TransformGroup/1/TransformType"] = [b"DisplacementFieldTransform_float_3_3"]
        file["TransformGroup/1/TransformFixedParameters"] = np.concatenate(
            [SHAPE, lps[:3, 3], SPACING, (lps[:3, :3] / SPACING).ravel()]
        )
        values = np.moveaxis(vectors * np.float32([-1, -1, 1]), -1, 0).ravel(order="F")
        file["TransformGroup/1/TransformParameters"] = values


def around(shape):
    """Voxel coordinates all over a field and 2 voxels around it, none on the edge itself."""
    coordinates = np.random.default_rng(3).uniform(-2, shape + 1, (3000, 3))
    return coordinates[(np.abs(np.abs(coordinates - (shape - 1) / 2) - shape / 2) > 1e-3).all(axis=1)]


@pytest.mark.parametrize("name", ["1Warp.nii.gz", "x.h5"])
@pytest.mark.parametrize("orientation", ["RAS", "oblique"])
def test_fields_are_held_and_end_as_in_itk(tmp_path, orientation, name):
    """Over the outer half voxel the edge is held; farther out points stay where they are."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    if orientation == "oblique":
        affine = rigid([10, -15, 20], [0, 0, 0]) @ affine
    vectors = field_vectors()
    image = nib.Nifti1Image((vectors * np.float32([-1, -1, 1]))[:, :, :, None], affine)
    image.header.set_intent("vector")
    nib.save(image, tmp_path / "1Warp.nii.gz")
    points = move(affine, around(SHAPE))
    expected = as_ants(tmp_path / "1Warp.nii.gz", points)
    if name == "x.h5":
        write_field(tmp_path / name, vectors, affine)
        np.testing.assert_allclose(as_ants(tmp_path / name, points), expected, atol=1e-3)
    found = load_composite(tmp_path / name).map(points)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    voxels = around(SHAPE)
    outer = ((voxels < 0) | (voxels > SHAPE - 1)).any(axis=1) & ((voxels > -0.5) & (voxels < SHAPE - 0.5)).all(axis=1)
    assert outer.sum() > 100
    assert (np.abs(found - points)[outer].max(axis=1) > 0.5).mean() > 0.9
    outside = ((voxels < -0.5) | (voxels > SHAPE - 0.5)).any(axis=1)
    assert np.array_equal(found[outside], points[outside])


@pytest.mark.parametrize(("intent", "sign"), [("vector", -1), ("displacement vector", 1)])
def test_signs_of_field_images_follow_their_intent(tmp_path, intent, sign):
    """As in ITK, vectors are LPS, and displacement vectors RAS."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    image = nib.Nifti1Image((field_vectors() * np.float32([sign, sign, 1]))[:, :, :, None], affine)
    image.header.set_intent(intent)
    nib.save(image, tmp_path / "x.nii.gz")
    points = move(affine, np.argwhere(np.ones(SHAPE)))
    found = load_composite(tmp_path / "x.nii.gz").map(points)
    np.testing.assert_allclose(found, points + field_vectors().reshape(-1, 3), atol=1e-4)
    np.testing.assert_allclose(as_ants(tmp_path / "x.nii.gz", points), found, atol=1e-3)


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry(0, "ScaleVersor3DTransform", np.ones(9), CENTER), "found ScaleVersor3DTransform"),
        (entry(0, "BSplineTransform", np.ones(9), CENTER), "found BSplineTransform"),
        (entry(0, "Euler3DTransform", np.ones(7), CENTER), "expected 6 parameters of Euler3DTransform, found 7"),
        (entry(0, "AffineTransform", [np.nan, *np.ones(11)], CENTER), "expected finite parameters"),
        (entry(0, "AffineTransform", np.ones(12), [1, 2]), "expected a center of 3 coordinates"),
        (entry(0, "VersorTransform", [1, 1, 1], CENTER), "expected a unit quaternion"),
        (entry(0, "QuaternionRigidTransform", [1, 1, 1, 1, *SHIFT], CENTER), "expected a unit quaternion"),
        (
            "Transform: Euler2DTransform_double_2_2\nParameters: 1 2 3\nFixedParameters: 0 0",
            "of 3 dimensions, found Eu",
        ),
        ("#Transform 0\nTransform: CompositeTransform_double_3_3\n", "expected a transform, found none"),
        ("", "expected a transform, found none"),
        ("#Transform 0\nTransform: AffineTransform_double_3_3\nParameters: 1 0 x\n", "could not convert string"),
    ],
)
def test_unreadable_transforms_are_named(tmp_path, text, message):
    path = write_text(tmp_path / "x.txt", text)
    for load in (load_affine, load_composite):
        with pytest.raises(ImageError, match=message) as caught:
            load(path)
        assert "x.txt" in caught.value.message
    with pytest.raises(MetadataError, match=message):
        read_head_motion(path)


def test_lists_are_no_single_transform(tmp_path):
    path = write_text(tmp_path / "x.txt", *(entry(i, *LINEAR["euler"]) for i in range(2)))
    with pytest.raises(ImageError, match="expected one linear transform, found 2"):
        load_affine(path)
    with pytest.raises(ImageError, match="found a list of 2 transforms"):
        load_composite(path)
    assert len(read_itk_file(path).transforms) == 2


def test_a_field_is_no_linear_transform(tmp_path):
    write_spelled(tmp_path / "x.h5", 1)
    with pytest.raises(ImageError, match="found DisplacementFieldTransform"):
        load_affine(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((4, 4, 4, 1, 3), np.float32), "expected the intent VECTOR"),
        (
            np.zeros((4, 4, 4), np.float32),
            r"expected a displacement field of shape \(x, y, z, 1, 3\), found \(4, 4, 4\)",
        ),
        (np.zeros((4, 4, 4, 3), np.float32), "found"),
    ],
)
def test_images_that_are_no_fields(tmp_path, vectors, message):
    save(tmp_path / "x.nii.gz", vectors, np.eye(4))
    with pytest.raises(ImageError, match=message):
        load_composite(tmp_path / "x.nii.gz")


def test_fields_that_are_not_finite_are_refused(tmp_path):
    image = nib.Nifti1Image(np.full((4, 4, 4, 1, 3), np.nan, np.float32), np.eye(4))
    image.header.set_intent("vector")
    nib.save(image, tmp_path / "x.nii")
    with pytest.raises(ImageError, match="expected finite displacements"):
        load_composite(tmp_path / "x.nii")


@pytest.mark.parametrize("name", ["x.txt", "x.mat", "x.h5", "x.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"no transform", bytes(range(256))])
def test_damaged_transforms_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match="not a readable ITK transform"):
        load_composite(tmp_path / name)


def test_members_with_wrong_names_are_refused(tmp_path):
    write_spelled(tmp_path / "x.h5", 2)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["TransformGroup"].move("2", "second")
    with pytest.raises(ImageError, match="invalid literal"):
        load_composite(tmp_path / "x.h5")


@pytest.mark.parametrize("how", ["link", "values", "virtual"])
def test_content_in_other_files_is_not_read(tmp_path, how):
    write_spelled(tmp_path / "x.h5", 1)
    (tmp_path / "raw").write_bytes(bytes(96))
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        entry = file["TransformGroup/1"]
        name = next(name for name in entry if name.endswith("FixedParameters"))
        del entry[name]
        if how == "link":
            entry[name] = h5py.ExternalLink(tmp_path / "y.h5", "values")
        elif how == "values":
            entry.create_dataset(name, (12,), "f8", external=[(tmp_path / "raw", 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((12,), "f8")
            layout[:] = h5py.VirtualSource(tmp_path / "y.h5", "values", (12,))
            entry.create_virtual_dataset(name, layout)
    with pytest.raises(ImageError, match=r"which (is|are) not read"):
        load_composite(tmp_path / "x.h5")
