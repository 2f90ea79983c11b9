"""Maps agree where one follows the other, over parcels as over the voxels of a brain."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from titan_neuro.probing.tools.map_comparison import compare_maps


@pytest.mark.parametrize(("edge", "n_units"), [(6, 216 - 3), (16, None)])
def test_related_maps_agree(edge, n_units):
    rng = np.random.default_rng(0)
    centers = np.argwhere(np.ones((edge,) * 3)) * 3.0
    first = np.sin(centers @ rng.normal(size=(3, 4)) / 8).sum(axis=1)
    related, unrelated = first + rng.normal(size=len(first)), np.sin(centers @ rng.normal(size=(3, 4)) / 8).sum(axis=1)
    related[:3] = np.nan
    found = compare_maps(first, np.exp(related), centers, n_maps=199, seed=0)
    assert found.rho > 0.5 and found.p == 1 / 200 and len(found.null) == 199
    if n_units:
        assert found.n_units == n_units
        np.testing.assert_allclose(found.rho, spearmanr(first[3:], related[3:]).statistic)
    else:
        assert 300 < found.n_units <= 1000
    assert compare_maps(first, unrelated, centers, n_maps=199, seed=0).p > 0.05


def test_without_places_there_is_no_test():
    rng = np.random.default_rng(0)
    first = rng.normal(size=2000)
    found = compare_maps(first, first**3, None, n_maps=99, seed=0)
    assert found.rho == pytest.approx(1) and np.isnan(found.p) and not len(found.null) and found.n_units == 2000


@pytest.mark.parametrize("values", [np.ones(40), np.r_[np.arange(9.0), np.full(31, np.nan)]])
def test_constant_or_few_values_have_no_agreement(values):
    found = compare_maps(np.arange(40.0), values, np.random.default_rng(0).normal(size=(40, 3)), n_maps=9, seed=0)
    assert np.isnan(found.rho) and np.isnan(found.p)
