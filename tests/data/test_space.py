import numpy as np
import pytest

from titan_neuro.data.space import ParcelLayout, Space, common_space
from titan_neuro.errors import ImageError, MismatchError


def volume_space(mask, affine=None, name="native"):
    return Space(kind="volume", name=name, mask=mask, affine=np.eye(4) if affine is None else affine)


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    return [rng.random((4, 5, 6)) > 0.3 for _ in range(3)]


def test_common_space_is_the_intersection_of_masks(masks):
    spaces = {f"run-{index}": volume_space(mask) for index, mask in enumerate(masks)}
    common = common_space(spaces)
    assert np.array_equal(common.mask, masks[0] & masks[1] & masks[2])
    volume = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)
    for mask, space in zip(masks, spaces.values(), strict=True):
        assert np.array_equal(volume[mask][common.columns_in(space)], volume[common.mask])


def test_scatter_is_the_inverse_of_masking(masks):
    space = volume_space(masks[0])
    values = np.random.default_rng(1).normal(size=(2, space.n_features)).astype(np.float32)
    volumes = space.scatter(values, fill=np.nan)
    assert np.array_equal(volumes[:, masks[0]], values)
    assert np.isnan(volumes[:, ~masks[0]]).all()


def test_different_grids_are_refused(masks):
    shifted = np.eye(4)
    shifted[0, 3] = 2
    with pytest.raises(ImageError, match=r"run-b does not lie in the space of run-a") as caught:
        common_space({"run-a": volume_space(masks[0]), "run-b": volume_space(masks[1], shifted)})
    assert "affine" in caught.value.message
    with pytest.raises(ImageError, match=r"grid of \(4, 5, 6\), found \(4, 5, 5\)"):
        common_space({"run-a": volume_space(masks[0]), "run-b": volume_space(masks[1][..., :5])})


def test_masks_without_a_common_voxel_are_refused(masks):
    with pytest.raises(ImageError, match="no voxel in common"):
        common_space({"run-a": volume_space(masks[0]), "run-b": volume_space(~masks[0])})


def test_masks_with_missing_voxels_are_refused(masks):
    with pytest.raises(MismatchError, match=r"lacks \d+ of the"):
        volume_space(np.ones((4, 5, 6), bool)).columns_in(volume_space(masks[0]))


def test_identity_distinguishes_masks_and_parcels(masks):
    assert volume_space(masks[0]).identity() != volume_space(masks[1]).identity()
    one = Space(kind="parcels", name="Schaefer", parcels=("a", "b"))
    other = Space(kind="parcels", name="Schaefer", parcels=("b", "a"))
    assert one.identity() != other.identity()
    with pytest.raises(ImageError, match="2 parcels"):
        common_space({"run-a": one, "run-b": other})


def rotation(angle):
    matrix = np.diag([3.0, 3.0, 3.3, 1.0])
    matrix[:2, :2] = 3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:3, 3] = [-96.4, -120.7, -71.3]
    return matrix


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (rotation(0.3).astype(np.float32), True),
        # Six decimals, four decimals, the rounding of a quaternion.
        (rotation(0.3).round(6), True),
        (rotation(0.3).round(4), True),
        (rotation(0.3 + 1e-6), True),
        (rotation(0.3) + 0.002 * np.eye(4)[:, 3:] * [0, 0, 0, 1], True),
        (rotation(0.31), False),
        (rotation(0.3) * [[1], [1], [1.005], [1]], False),
        (rotation(0.3) + 0.1 * np.eye(4)[:, :1] * [0, 0, 0, 1], False),
    ],
)
def test_affines_may_differ_by_rounding_alone(other, fits):
    mask = np.ones((64, 64, 36), bool)
    spaces = {"run-a": volume_space(mask, rotation(0.3)), "run-b": volume_space(mask, other.astype(np.float64))}
    if fits:
        assert np.array_equal(common_space(spaces).affine, rotation(0.3))
    else:
        with pytest.raises(ImageError, match="run-b does not lie in the space of run-a") as caught:
            common_space(spaces)
        assert "--resolution" in caught.value.hint


def parcels(*names, lost=()):
    return Space(kind="parcels", name="X", parcels=names, lost_parcels=lost)


def test_common_space_has_the_parcels_of_all_runs():
    runs = {
        "run-a": parcels("a", "b", "c", lost=("d",)),
        "run-b": parcels("a", "c", "d", lost=("b",)),
        "run-c": parcels("a", "b", "c", "d"),
    }
    common = common_space(runs)
    assert common.parcels == ("a", "c")
    assert set(common.lost_parcels) == {"b", "d"}
    assert [common.columns_in(space).tolist() for space in runs.values()] == [[0, 2], [0, 1], [0, 2]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        # An atlas with more parcels, whose first ones have the same names, is another atlas.
        (parcels("a", "b", "c", "d"), "expected 3 parcels .* found 4 .* it adds d"),
        (parcels("a", "b"), "expected 3 parcels .* found 2 .* it lacks c"),
        (parcels("a", "b", lost=("d",)), "expected 3 parcels .* found 2 .* it lacks c and it adds d"),
        (parcels("b", "a", lost=("c",)), "expected 3 parcels .* found 2 .* in another order"),
    ],
)
def test_parcels_of_another_atlas_are_refused(other, message):
    with pytest.raises(ImageError, match=message) as caught:
        common_space({"run-a": parcels("a", "b", "c"), "run-b": other})
    assert "of one atlas" in caught.value.hint
    with pytest.raises(MismatchError, match=message):
        parcels("a", "b", "c").columns_in(other)


def test_runs_without_a_common_parcel_are_refused():
    with pytest.raises(ImageError, match="no parcel in common"):
        common_space({"run-a": parcels("a", lost=("b",)), "run-b": parcels("b", lost=("a",))})
    with pytest.raises(MismatchError, match="lacks the parcels b of the study"):
        parcels("a", "b").columns_in(parcels("a", lost=("b",)))


def test_voxels_and_parcels_of_an_image_have_places():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 1] = mask[1, 2, 0] = mask[2, 2, 2] = True
    affine = np.array([[2.0, 0, 0, -5], [0, 3.0, 0, 1], [0, 0, 4.0, 0], [0, 0, 0, 1]])
    voxels = Space(kind="volume", name="x", mask=mask, affine=affine)
    centers = np.array([[-5, 1, 4], [-3, 7, 0], [-1, 7, 8]])
    np.testing.assert_allclose(voxels.centers_mm(), centers)
    layout = ParcelLayout(
        space=voxels, labels=np.array([1, 0, 1]), names=("a", "b"), hemispheres=("", ""), networks=("", "")
    )
    parcels = Space(kind="parcels", name="x", parcels=("b",), lost_parcels=("a",), layout=layout)
    np.testing.assert_allclose(parcels.centers_mm(), [(centers[0] + centers[2]) / 2])
    assert Space(kind="parcels", name="x", parcels=("a",)).centers_mm() is None
