from dataclasses import replace

import numpy as np
import pytest
import torch
from statsmodels.regression.linear_model import OLS
from stimulus_runs import stream

from titan_neuro.baselines import AutoregressionBaseline, DampedPersistence, Persistence, TrainingMean
from titan_neuro.errors import TrainingError

HORIZONS = (1, 3)


@pytest.fixture(scope="module")
def fitted(smooth_runs):
    models = {
        model.name: model
        for model in (
            TrainingMean(HORIZONS),
            Persistence(HORIZONS),
            DampedPersistence(HORIZONS),
            AutoregressionBaseline(HORIZONS),
        )
    }
    for model in models.values():
        model.fit(smooth_runs)
    return models


def test_mean_is_over_scored_training_time_points(fitted, smooth_runs):
    expected = np.concatenate([run.series[run.scored].numpy() for run in smooth_runs]).astype(float).mean(0)
    forecasts = stream(fitted["mean"], smooth_runs[0].series)
    assert forecasts.shape == (300, 2, 12)
    np.testing.assert_allclose(forecasts[123, 1], expected, atol=1e-6)
    assert torch.equal(forecasts, forecasts[:1, :1].expand_as(forecasts))


def test_mean_needs_scored_time_points(smooth_runs):
    unscored = replace(smooth_runs[0], scored=np.zeros(300, dtype=bool))
    with pytest.raises(TrainingError, match="None of the 1 training runs"):
        TrainingMean(HORIZONS).fit([unscored])


def test_persistence_forecasts_the_present_time_point(fitted, smooth_runs):
    series = smooth_runs[0].series
    forecasts = stream(fitted["persistence"], series, cuts=(100,))
    assert torch.equal(forecasts[:, 0], series)
    assert torch.equal(forecasts[:, 1], series)


def test_damped_persistence_agrees_with_statsmodels(fitted, smooth_runs):
    before = np.concatenate([run.series[9:-1].numpy() for run in smooth_runs]).astype(float)
    after = np.concatenate([run.series[10:].numpy() for run in smooth_runs]).astype(float)
    series = smooth_runs[0].series
    forecasts = stream(fitted["damped"], series, cuts=(100,))
    for feature in (0, 5, 11):
        phi = OLS(after[:, feature], before[:, feature]).fit().params[0]
        assert phi == pytest.approx(0.7, abs=0.06)
        np.testing.assert_allclose(forecasts[:, 0, feature], phi * series[:, feature], atol=1e-5)
        np.testing.assert_allclose(forecasts[:, 1, feature], phi**3 * series[:, feature], atol=1e-5)


def test_damped_persistence_never_grows(smooth_runs):
    growing = replace(smooth_runs[0], series=1.02 ** torch.arange(300.0)[:, None].expand(-1, 12))
    model = DampedPersistence(HORIZONS)
    model.fit([growing])
    assert torch.equal(model.factors, torch.ones(2, 12))


def test_damped_persistence_needs_scored_time_points(smooth_runs):
    unscored = replace(smooth_runs[0], scored=np.arange(300) == 0)
    with pytest.raises(TrainingError, match="None of the 1 training runs has a scored time point with one before it"):
        DampedPersistence(HORIZONS).fit([unscored])


def test_autoregression_recovers_the_true_weights(fitted):
    weights = fitted["ar"].fitted
    assert weights.coefficients[0, 0].mean() == pytest.approx(0.7, abs=0.02)
    assert weights.coefficients[1].sum(0).mean() == pytest.approx(0.7**3, abs=0.04)


def test_autoregression_reaches_the_theoretical_r2(fitted, smooth_runs):
    series, forecasts = smooth_runs[0].series, stream(fitted["ar"], smooth_runs[0].series)
    for index, horizon in enumerate(HORIZONS):
        error = (series[horizon:] - forecasts[:-horizon, index]).square().mean()
        assert 1 - error / series.var() == pytest.approx(0.49**horizon, abs=0.08)


@pytest.mark.parametrize("name", ["mean", "persistence", "damped", "ar"])
def test_block_lengths_change_no_bit(fitted, smooth_runs, name):
    series = smooth_runs[2].series
    whole = stream(fitted[name], series)
    for cuts in ((1,), (64, 128, 192), (3, 4, 5, 200), tuple(range(1, 300))):
        assert torch.equal(stream(fitted[name], series, cuts), whole)


@pytest.mark.parametrize("name", ["mean", "persistence", "damped", "ar"])
def test_later_time_points_change_no_earlier_forecast(fitted, smooth_runs, name):
    series = smooth_runs[1].series
    whole = stream(fitted[name], series)
    for last in (0, 1, 63, 64, 150, 298):
        altered = series.clone()
        altered[last + 1 :] = 3 - 2 * altered[last + 1 :]
        assert torch.equal(stream(fitted[name], altered)[: last + 1], whole[: last + 1])
