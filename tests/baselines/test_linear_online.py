import numpy as np
import pytest
import torch
from stimulus_runs import ar1_noise, as_run, error, stream

from titan_neuro.baselines import (
    AutoregressionBaseline,
    LinearOnlineBaseline,
    OnlineAutoregressionBaseline,
    SharedFits,
    shared_fits,
)
from titan_neuro.linear.running_averages import own_predictors

HORIZONS = (1, 3)


def own_rhythm(rng, subject, n_time_points=700, n_features=12):
    """Oscillations of each feature, whose period differs between features and subjects, after a high-pass filter."""
    period = rng.uniform(6, 14, n_features)
    a, b = 2 * 0.97 * np.cos(2 * np.pi / period), -(0.97**2)
    series = rng.normal(size=(n_time_points, n_features))
    for t in range(2, n_time_points):
        series[t] += a * series[t - 1] + b * series[t - 2]
    kernel = np.ones(61) / 61
    series -= np.stack([np.convolve(one, kernel, mode="same") for one in series.T], axis=1)
    return as_run(series / series.std(0), f"sub-{subject:02}_task-rest")


@pytest.fixture(scope="module")
def subjects():
    rng = np.random.default_rng(5)
    return [own_rhythm(rng, subject) for subject in range(8)]


def fit_rows(runs):
    shared = SharedFits(HORIZONS)
    rows = [
        row(HORIZONS, shared) for row in (AutoregressionBaseline, OnlineAutoregressionBaseline, LinearOnlineBaseline)
    ]
    for row in rows:
        row.fit(runs)
    return rows


@pytest.fixture(scope="module")
def fitted(subjects):
    return fit_rows(subjects[:6])


def test_the_rhythm_of_a_person_is_learned(fitted, subjects):
    ar, own, linear = fitted
    for horizon in HORIZONS:
        assert error(own, subjects[6:], horizon) < 0.85 * error(ar, subjects[6:], horizon)
        assert error(linear, subjects[6:], horizon) < 1.01 * error(own, subjects[6:], horizon)


@pytest.mark.parametrize("max_plain_features", [512, 4], ids=["features", "components"])
def test_weights_equal_a_ridge_regression_on_past_pairs(subjects, monkeypatch, max_plain_features):
    monkeypatch.setattr(shared_fits, "MAX_PLAIN_FEATURES", max_plain_features)
    ar, model, _ = fit_rows(subjects[:6])
    assert None not in model.penalties
    series = subjects[6].series[:300]
    axes = series if max_plain_features == 512 else model.space.score(series) * model.space.variance.rsqrt()
    predictors = own_predictors(axes, torch.zeros(7, 12), torch.zeros(4, 12))[0].double().numpy()
    directions = np.eye(12) if max_plain_features == 512 else model.space.components.numpy()
    before = stream(ar, series).numpy()
    forecasts = stream(model, series, cuts=(45, 46, 200)).numpy() @ directions
    for index, horizon in enumerate(HORIZONS):
        errors = (series[horizon:].numpy() - before[:-horizon, index]) @ directions
        for t in (0, 31, 32, 150, 299):
            known = max(0, t // 16 * 16 - max(HORIZONS))
            for axis in (0, 7):
                base = model.weights[axis, :, index, 0].double().numpy()
                x, y = predictors[axis, :known], errors[:known, axis]
                penalty = model.penalties[index] * np.eye(x.shape[1])
                own = np.linalg.solve(x.T @ x + penalty, x.T @ (y - x @ base))
                weights = base + float(model.shrinkage[index]) * own
                expected = before[t, index] @ directions[:, axis] + predictors[axis, t] @ weights
                assert forecasts[t, index, axis] == pytest.approx(expected, abs=2e-3)


def test_training_errors_are_those_of_the_row_without_the_fold(fitted):
    _, own, _ = fitted
    training_run = own.training_runs[0]
    whole = own.training_errors(training_run)
    assert whole.shape == (700, 2, 12)
    held_out = own._held_out[training_run.fold]
    assert not torch.equal(held_out, own.weights)
    kept, own.weights = own.weights, held_out
    try:
        forecasts = stream(own, training_run.observed.series)
    finally:
        own.weights = kept
    for index, horizon in enumerate(HORIZONS):
        expected = training_run.observed.series[horizon:] - forecasts[:-horizon, index]
        torch.testing.assert_close(whole[:-horizon, index], expected, atol=2e-3, rtol=0)


def test_noise_makes_it_no_worse_than_autoregression():
    rng = np.random.default_rng(4)
    runs = [as_run(ar1_noise(rng, 400, 10, 0.5), f"sub-{subject:02}_task-rest") for subject in range(6)]
    ar, own, linear = fit_rows(runs[:4])
    for horizon in HORIZONS:
        for row in (own, linear):
            assert error(row, runs[4:], horizon) == pytest.approx(error(ar, runs[4:], horizon), rel=0.005)


@pytest.mark.parametrize("n_runs", [1, 2])
def test_one_subject_suffices(subjects, n_runs):
    series = subjects[0].series[:480].numpy().reshape(n_runs, -1, 12)
    later = [as_run(subjects[0].series[480:].numpy(), "sub-00_run-9")]
    ar, own, linear = fit_rows([as_run(part, f"sub-00_run-{number}") for number, part in enumerate(series)])
    if n_runs == 1:
        assert own.penalties == linear.penalties == (None, None)
    assert error(linear, later, 1) < 1.02 * error(ar, later, 1)
