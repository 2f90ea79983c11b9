"""Probabilities must be those of all divisions, counted; events must be those of BrainIAK 0.12."""

import itertools

import numpy as np
import pytest

from titan_neuro.probing.tools.event_boundaries import find_events
from titan_neuro.probing.tools.event_hmm import _probabilities, fit_events

# The first time points that `EventSegment(9)` finds in `noisy_events(seed)`. It was given components in which its
# z-score changes no angle: 50 principal components times the rows 1 to 50 of a Hadamard matrix of 64.
OF_BRAINIAK = {
    0: [17, 34, 47, 61, 78, 91, 104, 117],
    1: [19, 40, 69, 90, 112, 129, 158, 189],
    2: [15, 33, 48, 66, 84, 101, 117, 140],
    3: [18, 35, 55, 71, 100, 116, 135, 151],
    4: [30, 65, 102, 123, 142, 161, 198, 238],
}


def noisy_events(seed, noise=3.0):
    """Nine events of 3 to 39 time points: ``(time, features)``, and their first time points without 0."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 40, size=9)
    patterns = rng.normal(size=(9, 60))
    series = patterns[np.repeat(np.arange(9), lengths)] + noise * rng.normal(size=(lengths.sum(), 60))
    return series, np.cumsum(lengths)[:-1]


@pytest.mark.parametrize("seed", OF_BRAINIAK)
def test_events_agree_with_brainiak(seed):
    series, _ = noisy_events(seed)
    assert find_events(series, n_events=9, n_components=50).tolist() == OF_BRAINIAK[seed]


def test_clear_events_are_found_wherever_the_offset():
    rng = np.random.default_rng(0)
    series = rng.normal(size=(4, 20))[np.repeat(np.arange(4), [12, 9, 15, 11])] + 0.1 * rng.normal(size=(47, 20))
    for offset in (0, 1000):
        assert find_events(series + offset, n_events=4, n_components=50).tolist() == [12, 21, 36]


@pytest.mark.parametrize(("n_time_points", "n_events"), [(2, 2), (5, 1), (5, 5), (8, 3)])
def test_probabilities_count_every_division(n_time_points, n_events):
    log_density = np.random.default_rng(0).normal(size=(n_time_points, n_events))
    expected, total = np.zeros((n_time_points, n_events)), 0.0
    for starts in itertools.combinations(range(1, n_time_points), n_events - 1):
        event_of = np.searchsorted(starts, np.arange(n_time_points), side="right")
        density = np.exp(log_density[np.arange(n_time_points), event_of].sum())
        expected[np.arange(n_time_points), event_of] += density
        total += density
    belongs, log_likelihood = _probabilities(log_density)
    np.testing.assert_allclose(belongs, expected / total, atol=1e-12)
    assert log_likelihood == pytest.approx(np.log(total))


def test_time_points_without_a_pattern_do_no_harm():
    series, _ = noisy_events(0, noise=0.1)
    series[40:50] = series.mean(axis=0)
    centered = series - series.mean(axis=0)
    centered[40:50] = 0
    belongs = fit_events(centered, 9)
    np.testing.assert_allclose(belongs.sum(axis=1), 1)
    assert (np.diff(belongs.argmax(axis=1)) >= 0).all()
