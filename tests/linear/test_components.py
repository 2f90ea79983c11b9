"""Components, against a singular value decomposition and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD

from titan_neuro.linear.components import orthonormal_union, principal_components


def spread_samples(n_samples, n_features, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    rank = rank or min(n_samples, n_features)
    strengths = rng.normal(size=(n_samples, rank)) * 0.8 ** np.arange(rank)
    return strengths @ rng.normal(size=(rank, n_features))


def projector(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows.T @ rows


@pytest.mark.parametrize("shape", [(200, 12), (12, 200), (30, 30)], ids=["tall", "wide", "square"])
def test_directions_are_those_of_a_singular_value_decomposition(shape):
    samples = spread_samples(*shape) + 0.3
    found = principal_components(torch.tensor(samples, dtype=torch.float32), 6).numpy()
    _, _, expected = np.linalg.svd(samples, full_matrices=False)
    # Each up to its sign.
    np.testing.assert_allclose(np.abs((found * expected[:6]).sum(1)), 1, atol=1e-4)
    np.testing.assert_allclose(found @ found.T, np.eye(6), atol=1e-4)
    oracle = TruncatedSVD(6, algorithm="arpack", random_state=0).fit(samples)
    np.testing.assert_allclose(projector(found), projector(oracle.components_), atol=1e-4)


@pytest.mark.parametrize("shape", [(200, 12), (12, 200)], ids=["tall", "wide"])
def test_components_are_no_more_than_the_rank(shape):
    samples = spread_samples(*shape, rank=3)
    found = principal_components(torch.tensor(samples, dtype=torch.float32), 8)
    assert found.shape == (3, shape[1])
    np.testing.assert_allclose(samples @ projector(found), samples, atol=1e-5)


@pytest.mark.parametrize("n_samples", [2, 5])
def test_constant_samples_have_no_components(n_samples):
    assert principal_components(torch.zeros(n_samples, 3), 2).shape == (0, 3)


def test_a_constant_feature_has_no_weight():
    samples = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    samples[:, 2] = 0
    found = principal_components(samples, 6)
    assert found.shape == (5, 6)
    assert float(found[:, 2].abs().max()) < 1e-12


def test_a_union_spans_all_rows_in_order():
    rng = np.random.default_rng(1)
    first, second = (np.linalg.qr(rng.normal(size=(40, n)))[0].T for n in (5, 9))
    union = orthonormal_union(torch.tensor(first).float(), torch.tensor(second).float()).numpy()
    np.testing.assert_allclose(union @ union.T, np.eye(14), atol=1e-5)
    np.testing.assert_allclose(projector(union[:5]), projector(first), atol=1e-5)
    for n_rows in range(1, 10):
        together = np.linalg.svd(np.concatenate([first, second[:n_rows]]), full_matrices=False)[2]
        np.testing.assert_allclose(projector(union[: 5 + n_rows]), projector(together), atol=1e-5)


def test_a_repeated_row_hides_no_later_row():
    identity = torch.eye(4)
    union = orthonormal_union(identity[:1], identity[[0, 1]], identity[[1, 0, 3]])
    np.testing.assert_allclose(union.abs(), identity[[0, 1, 3]], atol=1e-7)
