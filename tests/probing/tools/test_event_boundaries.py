"""Events must be those that are there; the contrast and its null distributions must be those of plain loops."""

import itertools

import numpy as np
import pytest
import torch
from event_runs import BOUNDARIES, N_TIME_POINTS, event_run
from recall_runs import N_FEATURES
from scipy.stats import binomtest
from stimulus_runs import ar1_noise

from titan_neuro.probing.tools.event_boundaries import (
    RunMeasures,
    average_subjects,
    boundary_contrast,
    count_events,
    find_events,
)

KIND = "events"


def test_events_of_subjects_are_found():
    others = [event_run(subject, lead=5 * subject) for subject in range(3)]
    average, positions = average_subjects(others, None)
    # Time points that at least half of the subjects have scored, counted from the stimulus's beginning.
    assert positions[0] == 8 and positions[-1] == N_TIME_POINTS - 1
    starts = positions[find_events(average, n_events=len(BOUNDARIES) + 1, n_components=50)]
    np.testing.assert_array_equal(starts, BOUNDARIES)


def test_many_features_are_projected():
    run = event_run(1, noise=0.1)
    series = run.series.numpy() @ np.random.default_rng(0).normal(size=(N_FEATURES, 30 * N_FEATURES))
    run.series, run.n_features = torch.tensor(series, dtype=torch.float32), series.shape[1]
    average, positions = average_subjects([run], None)
    assert average.shape[1] == 512
    np.testing.assert_array_equal(positions[find_events(average, n_events=10, n_components=50)], BOUNDARIES)


def test_number_of_events_follows_their_length():
    assert count_events(300, 30) == 10
    assert count_events(12, 1) == 4
    assert count_events(40, 30) == count_events(5, 1) == 0


def measures_of(values, boundaries, subject="01", stimulus="a", usable=None):
    return RunMeasures(
        key=f"sub-{subject}_{stimulus}",
        subject=subject,
        stimulus=stimulus,
        values=np.asarray(values, float).reshape(len(values), -1),
        usable=np.ones(len(values), bool) if usable is None else usable,
        boundaries={KIND: np.asarray(boundaries)},
    )


def near(n_time_points, boundaries, half_width):
    distances = np.abs(np.subtract.outer(np.arange(n_time_points), np.asarray(boundaries)))
    return distances.min(axis=1) <= half_width


def test_shifted_contrasts_agree_with_loop():
    rng = np.random.default_rng(0)
    usable = rng.random(80) > 0.2
    usable[[0, -1]] = True
    run = measures_of(rng.normal(size=(80, 2)), [11, 13, 40, 78], usable=usable)
    observed, permuted = boundary_contrast([run], KIND, "shifts", half_width=2, n_permutations=100, seed=0)
    values = run.values[usable]
    values = (values - values.mean(0)) / values.std(0)
    mask = near(80, [11, 13, 40, 78], 2)[usable]
    expected = [
        np.roll(values, -shift, axis=0)[mask].mean(0) - np.roll(values, -shift, axis=0)[~mask].mean(0)
        for shift in range(len(values))
    ]
    np.testing.assert_allclose(observed[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(permuted, expected[1:], atol=1e-12)


def test_shuffled_lengths_are_permutations_of_lengths(monkeypatch):
    rng = np.random.default_rng(0)
    run = measures_of(rng.normal(size=(40, 1)), [3, 15, 19])
    monkeypatch.setattr("titan_neuro.probing.tools.event_boundaries._PERMUTATIONS_AT_A_TIME", 7)
    observed, permuted = boundary_contrast([run], KIND, "lengths", half_width=2, n_permutations=400, seed=0)
    scaled = run.scaled()[:, 0]

    def contrast(boundaries):
        mask = near(40, boundaries, 2)
        return scaled[mask].mean() - scaled[~mask].mean()

    np.testing.assert_allclose(observed[0, 0], contrast([3, 15, 19]))
    orders = itertools.permutations([3, 12, 4, 21])
    possible = {round(contrast(np.cumsum(order)[:-1]), 9) for order in orders}
    assert len(permuted) == 400
    assert {round(value, 9) for value in permuted[:, 0]} == possible


def autocorrelated_measures(rng, n_subjects, *, height=0.0, n_stimuli=1):
    """Subjects whose measures follow a partly shared AR(1), and rise by `height` at boundaries."""
    runs = []
    for stimulus in range(n_stimuli):
        n_time_points = 200 + 17 * stimulus
        # Lengths in random order: every order is equally likely.
        lengths = rng.permutation(rng.integers(8, 40, size=20))
        boundaries = np.cumsum(lengths)
        boundaries = boundaries[boundaries < n_time_points - 8]
        shared = ar1_noise(rng, n_time_points, 1, 0.8)
        for subject in range(n_subjects):
            values = 0.6 * shared + 0.8 * ar1_noise(rng, n_time_points, 1, 0.8)
            values[boundaries] += height
            runs.append(measures_of(values, boundaries, f"{subject:02}", f"movie-{stimulus}"))
    return runs


@pytest.mark.parametrize("null, n_stimuli", [("shifts", 1), ("shifts", 2), ("lengths", 1), ("lengths", 2)])
@pytest.mark.parametrize("n_seeds", [60, pytest.param(240, marks=pytest.mark.slow)])
def test_false_positive_rate_is_nominal(null, n_stimuli, n_seeds):
    level, n_significant = 0.05, 0
    for seed in range(n_seeds):
        runs = autocorrelated_measures(np.random.default_rng([seed, n_stimuli]), 4, n_stimuli=n_stimuli)
        observed, permuted = boundary_contrast(runs, KIND, null, half_width=2, n_permutations=199, seed=seed)
        n_significant += (np.sum(permuted[:, 0] >= observed.mean() - 1e-9) + 1) / (len(permuted) + 1) <= level
    interval = binomtest(n_significant, n_seeds).proportion_ci(0.99)
    assert interval.low <= level <= interval.high, f"{n_significant} of {n_seeds}"


@pytest.mark.parametrize("null", ["shifts", "lengths"])
def test_rise_at_boundaries_is_found(null):
    runs = autocorrelated_measures(np.random.default_rng(1), 4, height=3.0, n_stimuli=2)
    observed, permuted = boundary_contrast(runs, KIND, null, half_width=2, n_permutations=199, seed=0)
    assert observed.shape == (4, 1) and np.mean(permuted >= observed.mean()) < 0.02
