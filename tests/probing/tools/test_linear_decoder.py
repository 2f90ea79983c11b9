"""Scores must be those of scikit-learn and SciPy at every shift; their null distribution must be nominal."""

import numpy as np
import pytest
from scipy.stats import binom, pearsonr
from sklearn.metrics import balanced_accuracy_score

from titan_neuro.metrics import p_of_null
from titan_neuro.probing.tools.linear_decoder import (
    draw_shifts,
    fit_decoder,
    fit_reduction,
    is_slow,
    project_wide,
    shifted_scores,
)


def test_scores_agree_with_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    labels = rng.choice(["", "a", "b", "c"], size=61, p=[0.2, 0.5, 0.2, 0.1])
    predicted, usable = rng.choice(["a", "b", "c"], size=61), rng.random(61) < 0.8
    numbers = np.where(labels == "", np.nan, rng.normal(size=61) + 5)
    forecast = rng.normal(size=61)
    accuracy, r = (shifted_scores(*pair, usable) for pair in ((predicted, labels), (forecast, numbers)))
    for shift in range(61):
        shifted = np.roll(labels, shift)
        is_scored = usable & (shifted != "")
        np.testing.assert_allclose(accuracy[shift], balanced_accuracy_score(shifted[is_scored], predicted[is_scored]))
        np.testing.assert_allclose(
            r[shift], pearsonr(np.roll(numbers, shift)[is_scored], forecast[is_scored]).statistic
        )
    assert np.isnan(shifted_scores(np.ones(61), numbers, usable)).all()


def test_few_shifts_are_all_taken():
    np.testing.assert_allclose(draw_shifts({"one": 7}, n_permutations=100, seed=0)["one"] * 7, range(1, 7))
    fractions = draw_shifts({"one": 4, "two": 5}, n_permutations=19, seed=0)
    pairs = set(zip((fractions["one"] * 4).round(), (fractions["two"] * 5).round(), strict=True))
    assert len(pairs) == 19 and (0, 0) not in pairs
    assert draw_shifts({"one": 1}, n_permutations=10, seed=0)["one"].size == 0


def test_many_shifts_are_drawn():
    drawn = draw_shifts({"one": 400, "two": 500}, n_permutations=1000, seed=0)
    assert len(drawn["one"]) == 1000 and drawn["two"].min() >= 0 and drawn["two"].max() < 1


def slow_series(rng, n_series, n_time_points, persistence=0.9):
    """Series that follow an AR(1)."""
    series = rng.normal(size=(n_series, n_time_points + 100))
    for t in range(1, n_time_points + 100):
        series[:, t] += persistence * series[:, t - 1]
    return series[:, 100:]


@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize("n_seeds", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_false_positive_rate_is_nominal(categorical, n_seeds):
    n_significant = 0
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        # Subjects share a component: the null distribution of the group must contain it.
        series = slow_series(rng, 6, 400)
        labels, predicted = series[0], series[1] + series[2:]
        if categorical:
            labels, predicted = (np.where(values > 0, "a", "b") for values in (labels, predicted))
        usable = rng.random((4, 400)) < 0.95
        scores = [
            shifted_scores(*pair, labels_ok) for *pair, labels_ok in zip(predicted, [labels] * 4, usable, strict=True)
        ]
        group = np.mean(scores, axis=0)
        n_significant += p_of_null(group[0], group[1:]) <= 0.05
    low, high = binom.interval(0.99, n_seeds, 0.05)
    assert low <= n_significant <= high, n_significant


@pytest.mark.parametrize("persistence, fewest, most", [(0.5, 0, 0), (0.9, 0, 8), (0.99, 30, 60)])
def test_slow_pairs_are_marked(persistence, fewest, most):
    rng = np.random.default_rng(0)
    series = slow_series(rng, 120, 100, persistence)
    assert fewest <= sum(is_slow(*pair) for pair in zip(series[::2], series[1::2], strict=True)) <= most
    # One quick series is enough, and categories count as well as numbers.
    assert not any(is_slow(each, rng.normal(size=100)) for each in series)
    kinds = np.where(np.arange(100) < 50, "a", "b")
    assert is_slow(kinds, kinds) and not is_slow(kinds, np.tile(["a", "b"], 50))
    assert not is_slow(np.full(100, ""), kinds)


def test_decoders_fit_scaled_components():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(90, 4)) * [1, 10, 100, 1000] + 5, np.full((90, 2), 3.0)], axis=1)
    reduced = fit_reduction(features, 10)(features)
    np.testing.assert_allclose(np.square(reduced).mean(), 1)
    numbers = features[:, 0] - features[:, 3] / 1000
    groups = np.repeat(["a", "b", "c"], 30)
    assert pearsonr(fit_decoder(reduced, numbers, groups).predict(reduced), numbers).statistic > 0.99
    classes = np.where(numbers > np.median(numbers), "a", "b")
    assert fit_decoder(reduced, classes, np.full(90, "one")).score(reduced, classes) > 0.9


def test_constant_features_have_no_weight():
    assert not fit_reduction(np.ones((5, 3)), 2)(np.ones((4, 3))).any()


def test_wide_features_are_projected_equally():
    wide = np.random.default_rng(0).normal(size=(5, 3000))
    np.testing.assert_allclose(project_wide(wide)[2:], project_wide(wide[2:]))
    assert project_wide(wide).shape == (5, 1024)
