import numpy as np
import pytest
import torch
from stimulus_runs import as_run, stimulus_runs
from stimulus_viewers import isc_by_definition

from titan_neuro.baselines.shrinkage import held_out_change, isc_weights, shrinkage_weights
from titan_neuro.linear.ridge import choose_option
from titan_neuro.linear.stimulus_average import average_over_subjects


def test_isc_weights_are_mean_correlations_with_others():
    runs = stimulus_runs(5, 1, 0.2, n_time_points=200)
    pairs = [(run, average_over_subjects([other for other in runs if other is not run])[0]) for run in runs]
    expected = isc_by_definition(np.stack([run.series[10:].double().numpy() for run in runs])).mean(axis=0)
    np.testing.assert_allclose(isc_weights(pairs, 20), expected.clip(0), atol=1e-5)


def test_isc_weights_of_nothing_shared_are_one():
    assert torch.equal(isc_weights([], 4), torch.ones(4))
    opposite = np.outer(np.sin(np.arange(50)), np.ones(4))
    runs = [as_run(sign * opposite, f"sub-{sign}_task-movie") for sign in (-1, 1)]
    pairs = [(run, average_over_subjects([other])[0]) for run, other in (runs, runs[::-1])]
    assert torch.equal(isc_weights(pairs, 4), torch.ones(4))


def test_agreement_gives_least_squares_weights():
    power = torch.tensor([[4.0, 1.0], [2.0, 3.0], [5.0, 2.0]])
    cross = power * torch.tensor([0.6, 0.2])
    np.testing.assert_allclose(shrinkage_weights(cross, power), [0.6, 0.2], rtol=1e-5)
    np.testing.assert_allclose(shrinkage_weights(cross[:1], power[:1]), [0.6, 0.2], rtol=1e-5)


def test_weights_shrink_by_their_standard_error():
    power = torch.ones(4, 1, dtype=torch.float64)
    weights = torch.tensor([[0.2], [0.5], [0.6], [0.7]], dtype=torch.float64)
    error = weights.std() / 2
    assert float(shrinkage_weights(weights, power)) == pytest.approx(float(0.5 * (1 - error**2 / 0.25)))


def test_inconsistent_or_negative_weights_are_zero():
    power = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    cross = torch.tensor([[1.0, -0.5, 0.0], [-0.9, -0.5, 0.0]])
    assert torch.equal(shrinkage_weights(cross, power), torch.zeros(3))


def test_held_out_change_uses_the_other_subjects():
    rng = np.random.default_rng(5)
    forecasts = rng.normal(size=(4, 300, 6))
    targets = 0.5 * forecasts + rng.normal(size=(4, 300, 6))
    cross, power = torch.tensor((forecasts * targets).sum(1)), torch.tensor((forecasts**2).sum(1))
    changes = held_out_change(cross, power)
    others = [1, 2, 3]
    weight = shrinkage_weights(cross[others], power[others]).numpy()
    expected = ((targets[0] - weight * forecasts[0]) ** 2 - targets[0] ** 2).sum()
    assert float(changes[0]) == pytest.approx(expected)


def test_options_must_help_beyond_a_standard_error():
    assert choose_option(torch.tensor([[0.0, -1.0, -3.0], [0.0, -1.0, -2.0], [0.0, -1.0, -4.0]])) == 2
    assert choose_option(torch.tensor([[1.0, -9.0], [2.0, 4.0], [1.0, 4.0]])) is None
    assert choose_option(torch.zeros(3, 2)) is None
