import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from sklearn.linear_model import Ridge
from stimulus_runs import ar1_noise, as_run, error, r2, stream

from titan_neuro.baselines import (
    AutoregressionBaseline,
    VectorAutoregressionBaseline,
    shared_fits,
    vector_autoregression,
)
from titan_neuro.errors import TrainingError

HORIZONS = (1, 3)
# Feature v + 1 follows feature v, a time point later.
WEIGHTS = 0.5 * np.eye(12) + 0.45 * np.eye(12, k=-1)


@pytest.fixture(scope="module")
def process_runs():
    """Four subjects of a VAR(1) process, a thousand time points each."""
    rng = np.random.default_rng(1)
    runs = []
    for subject in range(4):
        series = rng.normal(size=(1000, 12))
        for t in range(1, 1000):
            series[t] += WEIGHTS @ series[t - 1]
        runs.append(as_run(series, f"sub-{subject:02}_task-rest"))
    return runs


@pytest.fixture(scope="module")
def fitted(process_runs):
    model = VectorAutoregressionBaseline(HORIZONS)
    model.fit(process_runs[:3])
    return model


def test_r2_approaches_that_of_the_true_process(fitted, process_runs):
    autoregression = AutoregressionBaseline(HORIZONS)
    autoregression.fit(process_runs[:3])
    variance = solve_discrete_lyapunov(WEIGHTS, np.eye(12))
    for horizon in HORIZONS:
        power = np.linalg.matrix_power(WEIGHTS, horizon)
        true = np.trace(power @ variance @ power.T) / np.trace(variance)
        assert r2(fitted, process_runs[3:], horizon) == pytest.approx(true, abs=0.03)
        assert r2(autoregression, process_runs[3:], horizon) < true - 0.1


@pytest.mark.parametrize("max_plain_features", [512, 4], ids=["features", "components"])
def test_weights_agree_with_scikit_learn(process_runs, monkeypatch, max_plain_features):
    monkeypatch.setattr(shared_fits, "MAX_PLAIN_FEATURES", max_plain_features)
    runs = process_runs[:3]
    model = VectorAutoregressionBaseline(HORIZONS)
    model.fit(runs)
    autoregression = AutoregressionBaseline(HORIZONS)
    autoregression.fit(runs)
    forecasts = stream(model, process_runs[3].series) - stream(autoregression, process_runs[3].series)
    for index, horizon in enumerate(HORIZONS):
        n_components, n_lags, penalty = model.chosen[index]

        def lagged(run, n_lags=n_lags, n_components=n_components):
            scores = model.space.score(run.series)[:, :n_components].numpy()
            return np.concatenate([np.pad(scores, ((lag, 0), (0, 0)))[: len(scores)] for lag in range(n_lags)], axis=1)

        predictors, targets = [], []
        for run in runs:
            rows = np.arange(max(4, 10 - horizon), 1000 - horizon)
            residual = run.series[horizon:] - stream(autoregression, run.series)[:-horizon, index]
            predictors.append(lagged(run)[rows])
            targets.append(residual[rows].numpy())
        predictors, targets = np.concatenate(predictors), np.concatenate(targets)
        ridge = Ridge(penalty * len(predictors) * float(model.space.variance.mean()), fit_intercept=False)
        expected = ridge.fit(predictors, targets).predict(lagged(process_runs[3]))
        np.testing.assert_allclose(forecasts[:, index], expected, atol=2e-4)


def test_independent_features_make_it_no_worse():
    rng = np.random.default_rng(2)
    runs = [as_run(ar1_noise(rng, 400, 10, 0.6), f"sub-{subject:02}_task-rest") for subject in range(6)]
    model, autoregression = VectorAutoregressionBaseline(HORIZONS), AutoregressionBaseline(HORIZONS)
    model.fit(runs[:4])
    autoregression.fit(runs[:4])
    for horizon in HORIZONS:
        assert error(model, runs[4:], horizon) == pytest.approx(error(autoregression, runs[4:], horizon), rel=0.003)


def test_without_a_helpful_option_it_is_autoregression(process_runs, monkeypatch):
    monkeypatch.setattr(vector_autoregression, "choose_option", lambda changes: None)
    model, autoregression = VectorAutoregressionBaseline(HORIZONS), AutoregressionBaseline(HORIZONS)
    model.fit(process_runs[:3])
    autoregression.fit(process_runs[:3])
    assert model.chosen == (None, None)
    assert torch.equal(stream(model, process_runs[3].series), stream(autoregression, process_runs[3].series))


@pytest.mark.parametrize("n_runs", [1, 2])
def test_one_subject_suffices(process_runs, n_runs):
    series = process_runs[0].series.numpy().reshape(n_runs, -1, 12)
    runs = [as_run(part, f"sub-00_run-{number}") for number, part in enumerate(series)]
    model, autoregression = VectorAutoregressionBaseline(HORIZONS), AutoregressionBaseline(HORIZONS)
    model.fit(runs)
    autoregression.fit(runs)
    assert error(model, process_runs[3:], 1) < 0.85 * error(autoregression, process_runs[3:], 1)


def test_no_training_run_is_refused(process_runs):
    with pytest.raises(TrainingError, match="There is no training run"):
        VectorAutoregressionBaseline(HORIZONS).fit([])
