import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from titan_neuro.baselines import AutoregressionBaseline, Persistence, TrainingMean
from titan_neuro.errors import TrainingError

HORIZONS = (1, 3)


@pytest.fixture(scope="module")
def fitted(smooth_runs):
    models = {
        model.name: model for model in (TrainingMean(HORIZONS), Persistence(HORIZONS), AutoregressionBaseline(HORIZONS))
    }
    for model in models.values():
        model.fit(smooth_runs)
    return models


def stream(model, frames, cuts=()):
    state, parts = model.start(), []
    edges = [0, *cuts, len(frames)]
    for a, b in itertools.pairwise(edges):
        forecasts, state = model.step(frames[a:b], state)
        parts.append(forecasts)
    return torch.cat(parts)


def test_the_mean_is_that_of_the_scored_training_frames(fitted, smooth_runs):
    expected = np.concatenate([run.frames[run.scored].numpy() for run in smooth_runs]).astype(float).mean(0)
    forecasts = stream(fitted["mean"], smooth_runs[0].frames)
    assert forecasts.shape == (300, 2, 12)
    np.testing.assert_allclose(forecasts[123, 1], expected, atol=1e-6)
    assert torch.equal(forecasts, forecasts[:1, :1].expand_as(forecasts))


def test_the_mean_of_runs_without_scored_frames_is_refused(smooth_runs):
    unscored = replace(smooth_runs[0], scored=np.zeros(300, dtype=bool))
    with pytest.raises(TrainingError, match="None of the 1 training runs"):
        TrainingMean(HORIZONS).fit([unscored])


def test_persistence_forecasts_the_present_frame(fitted, smooth_runs):
    frames = smooth_runs[0].frames
    forecasts = stream(fitted["persistence"], frames, cuts=(100,))
    assert torch.equal(forecasts[:, 0], frames)
    assert torch.equal(forecasts[:, 1], frames)


def test_autoregression_finds_the_planted_weights(fitted):
    weights = fitted["ar"].fitted
    assert weights.coefficients[0, 0].mean() == pytest.approx(0.7, abs=0.02)
    assert weights.coefficients[1].sum(0).mean() == pytest.approx(0.7**3, abs=0.04)


def test_autoregression_reaches_the_skill_that_is_possible(fitted, smooth_runs):
    frames, forecasts = smooth_runs[0].frames, stream(fitted["ar"], smooth_runs[0].frames)
    for index, horizon in enumerate(HORIZONS):
        error = (frames[horizon:] - forecasts[:-horizon, index]).square().mean()
        assert 1 - error / frames.var() == pytest.approx(0.49**horizon, abs=0.08)


@pytest.mark.parametrize("name", ["mean", "persistence", "ar"])
def test_forecasts_are_the_same_bits_however_the_run_is_cut(fitted, smooth_runs, name):
    frames = smooth_runs[2].frames
    whole = stream(fitted[name], frames)
    for cuts in ((1,), (64, 128, 192), (3, 4, 5, 200), tuple(range(1, 300))):
        assert torch.equal(stream(fitted[name], frames, cuts), whole)


@pytest.mark.parametrize("name", ["mean", "persistence", "ar"])
def test_changing_later_frames_changes_no_earlier_forecast(fitted, smooth_runs, name):
    frames = smooth_runs[1].frames
    whole = stream(fitted[name], frames)
    for last in (0, 1, 63, 64, 150, 298):
        altered = frames.clone()
        altered[last + 1 :] = 3 - 2 * altered[last + 1 :]
        assert torch.equal(stream(fitted[name], altered)[: last + 1], whole[: last + 1])
