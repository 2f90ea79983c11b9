"""The AUC must be scikit-learn's; planted strength must be found, and where there is none the rate must be nominal."""

import numpy as np
import pytest
from retold_stories import N_SCENES
from scipy.stats import binom
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from titan_neuro.metrics import p_of_null
from titan_neuro.probing.tools.reinstatement import compare, draw_keys
from titan_neuro.probing.tools.retold_scenes import WatchedScenes


def watched(values, is_retold, lengths=None):
    names = tuple(str(index) for index in range(len(values)))
    lengths = np.full(len(values), 7) if lengths is None else lengths
    return WatchedScenes(names=names, n_time_points=lengths, is_retold=is_retold, measures={"m": np.asarray(values)})


def keys_of(count, n_permutations=200, seed=0):
    return draw_keys([str(index) for index in range(count)], n_permutations=n_permutations, seed=seed)


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    values, is_retold, lengths = rng.normal(size=30).round(1), rng.random(30) < 0.6, rng.integers(3, 40, 30)
    values[4] = np.nan
    found, finite = watched(values, is_retold, lengths), np.isfinite(values)
    plain = found.auc("m", keys_of(30), adjusted=False)
    assert plain[0] == pytest.approx(roc_auc_score(is_retold[finite], values[finite]))
    position = np.arange(30.0)[finite]
    design = np.column_stack([position, position**2, np.log(lengths[finite])])
    residual = values[finite] - LinearRegression().fit(design, values[finite]).predict(design)
    adjusted = found.auc("m", keys_of(30))
    assert adjusted[0] == pytest.approx(roc_auc_score(is_retold[finite], residual))
    assert len(adjusted) == 201 and abs(adjusted[1:].mean() - 0.5) < 0.05


def test_position_and_length_are_no_result():
    position, lengths = np.arange(40.0), np.tile([5, 9, 30, 14], 10)
    values = 0.1 * position - 0.0025 * position**2 + 2 * np.log(lengths) + np.random.default_rng(0).normal(size=40)
    is_retold = lengths > 9
    found = watched(values, is_retold, lengths)
    assert found.auc("m", keys_of(40), adjusted=False)[0] > 0.8
    assert abs(found.auc("m", keys_of(40))[0] - 0.5) < 0.2


@pytest.mark.parametrize(
    "values, is_retold",
    [
        (np.arange(9.0), np.arange(9) < 2),
        (np.full(9, 3.0), np.arange(9) < 4),
        (np.full(9, np.nan), np.arange(9) < 4),
    ],
)
def test_too_few_or_equal_scenes_have_no_auc(values, is_retold):
    assert watched(values, is_retold).auc("m", keys_of(9)) is None


def p_values(seed, *, reinstated, decided, n_subjects=6, n_units=60, n_permutations=1999):
    """Test one simulated study: p of reinstatement, and of a measure that tells retold from forgotten scenes."""
    rng = np.random.default_rng(seed)
    names = [str(index) for index in range(3 * N_SCENES)]
    keys = draw_keys(names, n_permutations=n_permutations, seed=seed)
    shared, drift = rng.normal(size=(2, len(names), n_units))
    contrasts, aucs, common = [], [], rng.normal(size=len(names))
    for _ in range(n_subjects):
        strength = (common + rng.normal(size=len(names))) / np.sqrt(2)
        is_retold = rng.random(len(names)) < 1 / (1 + np.exp(-decided * strength))
        retold = {
            name: reinstated * shared[index] + rng.normal(size=n_units)
            for index, name in enumerate(names)
            if is_retold[index]
        }
        # All subjects have the same noise in what others watched: only shared permutations allow for that.
        seen = {name: shared[index] + 0.5 * drift[index] for index, name in enumerate(names)}
        found = compare(retold, seen)
        contrasts.append(np.append(found.contrast, found.permuted(keys)))
        aucs.append(watched(strength + rng.normal(size=len(names)), is_retold).auc("m", keys))
    mean, auc = np.mean(contrasts, axis=0), np.abs(np.mean(aucs, axis=0) - 0.5)
    return p_of_null(mean[0], mean[1:]), p_of_null(auc[0], auc[1:])


def test_planted_retelling_is_found():
    for p in p_values(0, reinstated=0.5, decided=3.0):
        assert p < 0.001


@pytest.mark.parametrize("n_seeds", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_absent_retelling_is_found_at_the_nominal_rate(n_seeds):
    found = np.array([p_values(seed, reinstated=0.0, decided=0.0, n_permutations=399) for seed in range(n_seeds)])
    low, high = binom.interval(0.99, n_seeds, 0.05)
    for name, rejected in zip(("reinstatement", "AUC"), (found <= 0.05).sum(axis=0), strict=True):
        assert low <= rejected <= high, (name, rejected)
