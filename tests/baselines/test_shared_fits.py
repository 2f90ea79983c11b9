import numpy as np
import pytest
import torch
from stimulus_runs import stream

from titan_neuro.baselines import AutoregressionBaseline, SharedFits, shared_fits

HORIZONS = (1, 3)


def test_axes_are_eigenvectors_of_the_covariance(smooth_runs):
    space, _ = SharedFits(HORIZONS).residuals(smooth_runs)
    series = np.concatenate([run.series.numpy() for run in smooth_runs]).astype(float)
    values, vectors = np.linalg.eigh(np.cov(series.T))
    np.testing.assert_allclose(space.variance, values[::-1], rtol=1e-3)
    np.testing.assert_allclose(np.abs(space.components.T.numpy() @ vectors[:, ::-1]), np.eye(12), atol=2e-2)
    expected = (smooth_runs[0].series.numpy() - series.mean(0)) @ space.components.numpy()
    np.testing.assert_allclose(space.score(smooth_runs[0].series), expected, atol=1e-4)


@pytest.mark.parametrize("max_plain_features", [512, 4], ids=["features", "components"])
def test_residuals_are_those_of_the_autoregression(smooth_runs, monkeypatch, max_plain_features):
    monkeypatch.setattr(shared_fits, "MAX_PLAIN_FEATURES", max_plain_features)
    space, projected = SharedFits(HORIZONS).residuals(smooth_runs)
    autoregression = AutoregressionBaseline(HORIZONS)
    autoregression.fit(smooth_runs)
    run, forecasts = smooth_runs[4], stream(autoregression, smooth_runs[4].series)
    for index, horizon in enumerate(HORIZONS):
        expected = run.series[horizon:] - forecasts[:-horizon, index]
        found = projected[4].residuals[:, index]
        np.testing.assert_allclose(space.to_features(found[:-horizon]), expected, atol=1e-4)
        assert torch.equal(found[-horizon:], torch.zeros(horizon, 12))
        targets = np.arange(horizon, 300 + horizon)
        np.testing.assert_array_equal(projected[4].targets[:, index], (targets >= 10) & (targets < 300))


def test_short_runs_get_few_components(smooth_runs, monkeypatch):
    monkeypatch.setattr(shared_fits, "MAX_COMPONENTS", 3)
    monkeypatch.setattr(shared_fits, "MAX_PLAIN_FEATURES", 4)
    monkeypatch.setattr(shared_fits, "_PCA_NUMBERS", 12 * 400)
    space, projected = SharedFits(HORIZONS).residuals(smooth_runs)
    assert space.components.shape == (12, 3)
    np.testing.assert_allclose(space.components.T @ space.components, np.eye(3), atol=1e-5)
    assert projected[0].residuals.shape == (300, 2, 3)


def test_fits_are_made_once_per_training_set(smooth_runs):
    shared = SharedFits(HORIZONS)
    first = shared.residuals(smooth_runs)
    again = shared.residuals(list(smooth_runs))
    assert again[0] is first[0] and again[1] is first[1]
    assert shared.autoregression(smooth_runs) is first[0].autoregression
    other = shared.residuals(smooth_runs[:4])
    assert len(other[1]) == 4
    assert other[0].autoregression is not first[0].autoregression


def test_averages_leave_out_each_group(smooth_runs):
    shared = SharedFits(HORIZONS).stimuli(smooth_runs)
    assert [[run.subject for run in group] for group in shared.groups] == [[label] * 2 for label in ("01", "02", "03")]
    stimuli = {stimulus.stimulus: stimulus.series for stimulus in shared.without_group[1]}
    expected = (shared.groups[0][0].series + shared.groups[2][0].series) / 2
    np.testing.assert_allclose(stimuli["task-movie_run-01"], expected[shared.groups[0][0].stimulus_start :], atol=1e-5)
