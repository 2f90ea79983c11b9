"""Ridge regression from sums of products, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from titan_neuro.linear.ridge import RidgeStatistics, ridge_factor


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 6, generator=generator).double(), torch.randn(40, 3, generator=generator).double()


def test_weights_are_those_of_an_outside_oracle(rows):
    features, targets = rows
    expected = Ridge(alpha=2.5, fit_intercept=False).fit(features.numpy(), targets.numpy()).coef_.T
    np.testing.assert_allclose(RidgeStatistics.from_rows(features, targets).solve(2.5), expected, rtol=1e-10)


def test_each_feature_may_have_its_own_penalty(rows):
    features, targets = rows
    penalty = torch.arange(1.0, 7.0).double()
    # A penalty of p on a weight is a penalty of 1 on the feature divided by sqrt(p).
    expected = RidgeStatistics.from_rows(features / penalty.sqrt(), targets).solve(1.0) / penalty.sqrt()[:, None]
    torch.testing.assert_close(RidgeStatistics.from_rows(features, targets).solve(penalty), expected)


def test_a_fold_is_subtracted_from_all_rows(rows):
    features, targets = rows
    total = RidgeStatistics.from_rows(features, targets)
    fold, rest = (RidgeStatistics.from_rows(features[s], targets[s]) for s in (slice(15), slice(15, None)))
    torch.testing.assert_close((total - fold).solve(1.0), rest.solve(1.0))
    torch.testing.assert_close((fold + rest).solve(1.0), total.solve(1.0))
    assert (total - fold).n_rows == 25


def test_features_and_targets_are_selected_and_projected(rows):
    features, targets = rows
    chosen, directions = torch.tensor([4, 1]), torch.randn(3, 2, dtype=torch.float64)
    expected = RidgeStatistics.from_rows(features[:, chosen], targets @ directions).solve(0.3)
    found = RidgeStatistics.from_rows(features, targets).select(chosen).project_targets(directions).solve(0.3)
    torch.testing.assert_close(found, expected)


def test_error_change_equals_that_of_the_rows(rows):
    features, targets = rows
    weights = torch.randn(6, 3, dtype=torch.float64)
    expected = (targets - features @ weights).square().sum() - targets.square().sum()
    torch.testing.assert_close(RidgeStatistics.from_rows(features, targets).error_change(weights), expected)


def test_factors_of_corners_are_corners_of_factors(rows):
    gram = (rows[0].T @ rows[0]).expand(2, 6, 6)
    torch.testing.assert_close(ridge_factor(gram, 0.5)[:, :3, :3], ridge_factor(gram[:, :3, :3], 0.5))
