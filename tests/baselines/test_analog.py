import numpy as np
import pytest
import torch
from stimulus_runs import HORIZONS, ar1_noise, as_run, error, fit_all, r2, stimulus_runs, stream

from titan_neuro.baselines import AnalogBaseline, SharedFits, shared_fits

ANALOGS = [f"{kind}analog-{window}" for kind in ("", "soft-") for window in (20, 80, 160)]


@pytest.mark.parametrize("name", ANALOGS)
def test_analogs_nearly_reach_the_oracle_reference(fitted_on_stimulus, shown_to_all, name):
    test = shown_to_all[1]
    for horizon in HORIZONS:
        autoregression, oracle = (
            error(fitted_on_stimulus[row], test, horizon) for row in ("ar", "intersubject-average+ar")
        )
        skill = 1 - error(fitted_on_stimulus[name], test, horizon) / autoregression
        assert skill > 0.9 * (1 - oracle / autoregression) > 0.2


@pytest.mark.parametrize("phi", [0.0, 0.7], ids=["white", "colored"])
def test_noise_makes_no_row_worse_than_autoregression(phi):
    runs = stimulus_runs(10, 1, 0.0, phi=phi, seed=1)
    models = fit_all(runs[:8])
    for name, model in models.items():
        for horizon in HORIZONS:
            if phi == 0:
                assert r2(model, runs[8:], horizon) < 0.02
            if name in {*ANALOGS, "var", "intersubject-average+ar"}:
                assert error(model, runs[8:], horizon) < 1.005 * error(models["ar"], runs[8:], horizon)


def test_an_unknown_stimulus_retrieves_no_other():
    runs = stimulus_runs(8, 3, 0.33, seed=2)
    train = [run for run in runs if int(run.subject) < 6 and run.stimulus != "task-movie2"]
    models = fit_all(train, (1, 10))
    unknown = [run for run in runs if int(run.subject) >= 6 and run.stimulus == "task-movie2"]
    known = [run for run in runs if int(run.subject) >= 6 and run.stimulus != "task-movie2"]
    for name in ANALOGS:
        for horizon in (1, 10):
            assert error(models[name], unknown, horizon) < 1.04 * error(models["ar"], unknown, horizon)
            assert error(models[name], known, horizon) < 0.87 * error(models["ar"], known, horizon)


def test_one_subject_is_forecast_from_its_other_runs():
    rng = np.random.default_rng(3)
    response = ar1_noise(rng, 300, 20, 0.7)
    runs = [
        as_run(
            np.sqrt(0.5) * response + np.sqrt(0.5) * ar1_noise(rng, 300, 20, 0.7), f"sub-01_task-stimulus_run-{number}"
        )
        for number in range(5)
    ]
    models = fit_all(runs[:4])
    for name in ANALOGS:
        assert error(models[name], runs[4:], 10) < 0.9 * error(models["ar"], runs[4:], 10)


def test_one_training_run_gives_the_autoregression(shown_to_all):
    models = fit_all(shown_to_all[0][:1])
    series = shown_to_all[1][0].series
    for name in ANALOGS:
        assert torch.equal(stream(models[name], series), stream(models["ar"], series))


def test_a_shared_stimulus_is_forecast_on_components(shown_to_all, monkeypatch):
    monkeypatch.setattr(shared_fits, "MAX_PLAIN_FEATURES", 4)
    monkeypatch.setattr(shared_fits, "MAX_COMPONENTS", 10)
    train, test = shown_to_all
    shared = SharedFits(HORIZONS)
    model = AnalogBaseline(HORIZONS, shared, window=80, is_soft=True)
    model.fit(train)
    assert model.weights.shape == (3, 10)
    space = shared.residuals(train)[0]
    autoregression = space.autoregress(test[0].series, space.init_state())[0]
    errors = [
        (test[0].series[20:] - forecasts[10:-10, 2]).square().sum()
        for forecasts in (stream(model, test[0].series), autoregression)
    ]
    assert errors[0] < 0.85 * errors[1]


def test_one_forecast_equals_the_definition(fitted_on_stimulus, shown_to_all):
    """Matches, attention and weights at one time point, step by step."""
    model, series, t = fitted_on_stimulus["analog-20"], shown_to_all[1][1].series, 150
    space, bank = model.space, model.bank
    keys = space.score(series) * model._scale
    window = keys[t - 19 : t + 1].double()
    positions = [j for j in (bank.stimulus >= 0).nonzero()[:, 0].tolist() if j >= 38]
    matches = torch.stack(
        [
            (window * bank.keys[j - 19 : j + 1]).sum() / bank.keys[j - 19 : j + 1].norm() / window.norm()
            for j in positions
        ]
    )
    for index in range(len(HORIZONS)):
        count, threshold = model.options[index]
        best = matches.topk(int(count))
        assert best.values[0] > threshold
        following = bank.values.reshape(-1, 3, 20)[torch.tensor(positions)[best.indices], index].mean(0)
        expected = stream(fitted_on_stimulus["ar"], series)[t, index] + model.weights[index] * following
        np.testing.assert_allclose(stream(model, series)[t, index], expected, atol=1e-4)


def test_forecasts_depend_on_the_window_alone(fitted_on_stimulus, shown_to_all):
    """With a random offset, forecasts equal those of the whole run once the window is full."""
    series = shown_to_all[1][0].series
    for name in ("analog-20", "soft-analog-20"):
        whole, part = stream(fitted_on_stimulus[name], series), stream(fitted_on_stimulus[name], series[97:])
        np.testing.assert_allclose(part[20:], whole[117:], atol=1e-4)
