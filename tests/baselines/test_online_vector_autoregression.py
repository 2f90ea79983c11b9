import numpy as np
import pytest
import torch
from stimulus_runs import ar1_noise, as_run, error, r2, stream

from titan_neuro.baselines import (
    OnlineVectorAutoregressionBaseline,
    SharedFits,
    VectorAutoregressionBaseline,
    online_regression,
    shared_fits,
    vector_autoregression,
)
from titan_neuro.linear.running_averages import TIME_CONSTANTS

HORIZONS = (1, 3)


def individual_dynamics(rng, subject, n_time_points=700):
    """A VAR(1) of twelve features, each driven by one other, which differs between subjects."""
    order = rng.permutation(12)
    weights = 0.5 * np.eye(12)
    weights[order, np.roll(order, 1)] = 0.45
    series = rng.normal(size=(n_time_points, 12))
    for t in range(1, n_time_points):
        series[t] += weights @ series[t - 1]
    return as_run(series / series.std(), f"sub-{subject:02}_task-rest")


@pytest.fixture(scope="module")
def subjects():
    rng = np.random.default_rng(3)
    return [individual_dynamics(rng, subject) for subject in range(8)]


def fit_both(runs, horizons=HORIZONS):
    shared = SharedFits(horizons)
    online, var = OnlineVectorAutoregressionBaseline(horizons, shared), VectorAutoregressionBaseline(horizons, shared)
    online.fit(runs)
    var.fit(runs)
    return online, var


@pytest.fixture(scope="module")
def fitted(subjects):
    return fit_both(subjects[:6])


def test_individual_dynamics_are_learned(fitted, subjects):
    online, var = fitted
    assert None not in online.penalties
    assert r2(online, subjects[6:], 1) > r2(var, subjects[6:], 1) + 0.06
    assert r2(online, subjects[6:], 3) > r2(var, subjects[6:], 3) + 0.02


def predictors_of(model, series):
    """Predictors time point by time point: scaled components, and their running averages."""
    scores = (series.numpy() - model.space.mean.numpy()) @ model.space.components.numpy()
    scores = scores.astype(np.float64) / model.space.variance.numpy() ** 0.25
    averages, rows = [np.zeros(scores.shape[1]) for _ in TIME_CONSTANTS], []
    for score in scores:
        averages = [old * (1 - 1 / span) + score / span for old, span in zip(averages, TIME_CONSTANTS, strict=True)]
        rows.append([score, *(np.sqrt(n) * one for n, one in zip(TIME_CONSTANTS, averages, strict=True))])
    return np.array(rows).reshape(len(scores), -1)


@pytest.mark.parametrize("max_plain_features", [512, 4], ids=["features", "components"])
def test_weights_equal_a_ridge_regression_on_past_pairs(subjects, monkeypatch, max_plain_features):
    monkeypatch.setattr(shared_fits, "MAX_PLAIN_FEATURES", max_plain_features)
    model, var = fit_both(subjects[:6])
    model.weights = 0.01 * torch.randn(model.weights.shape, generator=torch.Generator().manual_seed(0))
    series = subjects[6].series[:300]
    predictors, group = predictors_of(model, series), stream(var, series).numpy()
    forecasts = stream(model, series, cuts=(45, 46, 200)).numpy()
    unit = float((model.space.variance**0.5).mean())
    axes = np.eye(12) if max_plain_features == 512 else model.space.components.numpy()
    for index, horizon in enumerate(HORIZONS):
        base = model.weights[0, :, index].numpy().astype(np.float64)
        errors = (series[horizon:].numpy() - group[:-horizon, index]) @ axes
        penalty = unit * model.penalties[index]
        for t in (0, horizon, 31, 32, 40, 97, 150, 299):
            past = slice(0, max(0, t - horizon + 1))
            z, target = predictors[past], errors[past]
            own = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ target - z.T @ z @ base)
            weights = base + float(model.shrinkage[index]) * own
            expected = group[t, index] + predictors[t] @ weights @ axes.T
            np.testing.assert_allclose(forecasts[t, index], expected, atol=1e-4)


def test_a_state_can_be_used_twice(fitted, subjects):
    model, series = fitted[0], subjects[7].series
    _, state = model.step(series[:90], model.init_state())
    first, _ = model.step(series[90:200], state)
    again, _ = model.step(series[90:200], state)
    assert torch.equal(first, again)


def test_the_state_does_not_grow(fitted, subjects):
    model = fitted[0]
    sizes = []
    for n_time_points in (128, 640):
        _, state = model.step(subjects[7].series[:n_time_points], model.init_state())
        parts = [*state.predictors, state.pending, *vars(state.regression).values()]
        sizes.append(sum(part.numel() for part in parts if isinstance(part, torch.Tensor)))
    assert sizes[0] == sizes[1]


def test_noise_makes_it_no_worse_than_var():
    rng = np.random.default_rng(4)
    runs = [as_run(ar1_noise(rng, 400, 10, 0.0), f"sub-{subject:02}_task-rest") for subject in range(6)]
    online, var = fit_both(runs[:4])
    for horizon in HORIZONS:
        assert error(online, runs[4:], horizon) == pytest.approx(error(var, runs[4:], horizon), rel=0.003)


def test_without_a_helpful_option_it_is_var(subjects, monkeypatch):
    monkeypatch.setattr(online_regression, "choose_option", lambda changes: None)
    online, var = fit_both(subjects[:6])
    assert online.penalties == online.group_penalties == (None, None)
    assert torch.equal(stream(online, subjects[6].series), stream(var, subjects[6].series))


@pytest.mark.parametrize("n_runs", [1, 2])
def test_one_subject_suffices(subjects, n_runs):
    series = subjects[0].series[:480].numpy().reshape(n_runs, -1, 12)
    later = [as_run(subjects[0].series[480:].numpy(), "sub-00_run-9")]
    online, var = fit_both([as_run(part, f"sub-00_run-{number}") for number, part in enumerate(series)])
    if n_runs == 1:
        assert online.penalties == (None, None)
    assert error(online, later, 1) < 1.02 * error(var, later, 1)


def test_var_is_fitted_once(subjects, monkeypatch):
    calls = []
    fit = VectorAutoregressionBaseline._fit
    monkeypatch.setattr(
        vector_autoregression.VectorAutoregressionBaseline, "_fit", lambda *args: calls.append(1) or fit(*args)
    )
    fit_both(subjects[:3])
    assert calls == [1]
