import numpy as np
import pytest

from titan_neuro.data.space import Space, common_space
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
