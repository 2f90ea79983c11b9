import numpy as np
import pandas as pd
import pytest

from titan_neuro.data.prepare.normalization import CausalZScore


@pytest.fixture
def bold():
    rng = np.random.default_rng(0)
    return 900 + np.cumsum(rng.normal(size=(200, 7)), axis=0)


def test_it_is_the_expanding_z_score(bold):
    expanding = pd.DataFrame(bold).expanding()
    expected = ((bold - expanding.mean()) / expanding.std(ddof=0)).to_numpy()
    found = CausalZScore(7)(bold)
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-5, atol=1e-6)
    assert (found[0] == 0).all()


@pytest.mark.parametrize("cuts", [(1,), (63, 64, 100), tuple(range(1, 200))])
def test_blocks_give_the_same_bits_as_one_call(bold, cuts):
    scale = CausalZScore(7)
    pieces = [scale(part) for part in np.split(bold, cuts)]
    assert np.array_equal(np.concatenate(pieces), CausalZScore(7)(bold))


@pytest.mark.parametrize("volume", [0, 1, 50, 199])
def test_later_time_points_change_no_earlier_one(bold, volume):
    other = bold.copy()
    other[volume + 1 :] = np.random.default_rng(1).normal(size=other[volume + 1 :].shape)
    assert np.array_equal(CausalZScore(7)(bold)[: volume + 1], CausalZScore(7)(other)[: volume + 1])


def test_a_constant_voxel_is_zero_not_noise():
    block = np.full((50, 2), 1234.567)
    block[:, 1] += np.arange(50)
    found = CausalZScore(2)(block)
    assert (found[:, 0] == 0).all()
    assert (found[1:, 1] > 0).all()


def test_first_time_points_are_bounded():
    spikes = np.zeros((30, 1))
    spikes[5] = 1e9
    found = CausalZScore(1)(spikes)
    assert found[5, 0] == pytest.approx(np.sqrt(5))
