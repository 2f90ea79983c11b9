import numpy as np
import pytest
import torch
from film_runs import stream

from titan_neuro.baselines import AutoregressionBaseline, Groundwork, groundwork

HORIZONS = (1, 3)


def test_the_axes_are_the_eigenvectors_of_the_covariance(smooth_runs):
    space, _ = Groundwork(HORIZONS).residuals(smooth_runs)
    frames = np.concatenate([run.frames.numpy() for run in smooth_runs]).astype(float)
    values, vectors = np.linalg.eigh(np.cov(frames.T))
    np.testing.assert_allclose(space.variance, values[::-1], rtol=1e-3)
    np.testing.assert_allclose(np.abs(space.components.T.numpy() @ vectors[:, ::-1]), np.eye(12), atol=2e-2)
    expected = (smooth_runs[0].frames.numpy() - frames.mean(0)) @ space.components.numpy()
    np.testing.assert_allclose(space.score(smooth_runs[0].frames), expected, atol=1e-4)


@pytest.mark.parametrize("max_plain_features", [512, 4], ids=["features", "components"])
def test_residuals_are_what_the_autoregression_leaves(smooth_runs, monkeypatch, max_plain_features):
    monkeypatch.setattr(groundwork, "MAX_PLAIN_FEATURES", max_plain_features)
    space, projected = Groundwork(HORIZONS).residuals(smooth_runs)
    alone = AutoregressionBaseline(HORIZONS)
    alone.fit(smooth_runs)
    run, forecasts = smooth_runs[4], stream(alone, smooth_runs[4].frames)
    for index, horizon in enumerate(HORIZONS):
        expected = run.frames[horizon:] - forecasts[:-horizon, index]
        found = projected[4].residuals[:, index]
        np.testing.assert_allclose(space.to_features(found[:-horizon]), expected, atol=1e-4)
        assert torch.equal(found[-horizon:], torch.zeros(horizon, 12))
        targets = np.arange(horizon, 300 + horizon)
        np.testing.assert_array_equal(projected[4].targets[:, index], (targets >= 10) & (targets < 300))


def test_few_frames_of_many_features_are_seen_on_few_axes(smooth_runs, monkeypatch):
    monkeypatch.setattr(groundwork, "MAX_COMPONENTS", 3)
    monkeypatch.setattr(groundwork, "MAX_PLAIN_FEATURES", 4)
    monkeypatch.setattr(groundwork, "_PCA_NUMBERS", 12 * 400)
    space, projected = Groundwork(HORIZONS).residuals(smooth_runs)
    assert space.components.shape == (12, 3)
    np.testing.assert_allclose(space.components.T @ space.components, np.eye(3), atol=1e-5)
    assert projected[0].residuals.shape == (300, 2, 3)


def test_it_is_made_once_for_the_same_runs_and_anew_for_others(smooth_runs):
    shared = Groundwork(HORIZONS)
    first = shared.residuals(smooth_runs)
    assert shared.residuals(list(smooth_runs)) is first
    assert shared.autoregression(smooth_runs) is first[0].autoregression
    other = shared.residuals(smooth_runs[:4])
    assert len(other[1]) == 4
    assert other[0].autoregression is not first[0].autoregression


def test_the_others_of_a_subject_are_without_it(smooth_runs):
    shared = Groundwork(HORIZONS).shared(smooth_runs)
    assert [[run.subject for run in group] for group in shared.groups] == [[label] * 2 for label in ("01", "02", "03")]
    films = {film.stimulus: film.frames for film in shared.others[1]}
    expected = (shared.groups[0][0].frames + shared.groups[2][0].frames) / 2
    np.testing.assert_allclose(films["task-movie_run-01"], expected[shared.groups[0][0].film_start :], atol=1e-5)
