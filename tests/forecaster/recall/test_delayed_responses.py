"""Delayed responses are found at the lags at which they were planted, and not in noise."""

import dataclasses

import numpy as np
import pytest
import torch
from stimulus_runs import HORIZONS, ar1_noise, as_run, error, stream

from titan_neuro.forecaster import Forecaster, ForecasterConfig, RecallConfig
from titan_neuro.forecaster.recall.delayed_responses import DelayedResponses, DelayedResponsesFit
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.titans.models import MACConfig

LAGS = (40, 90)
RECALL = RecallConfig(
    width=20,
    n_components=20,
    autoregressive_lags=2,
    longest_lag=120,
    n_delayed_responses=3,
)


def make_runs(n_subjects: int, lags: tuple[int, ...], n_time_points: int = 600) -> list:
    """AR(1) noise of 20 features, plus white noise of each run in 4 of them, repeated after each lag in 4 others."""
    rng = np.random.default_rng(3)
    runs = []
    for subject in range(n_subjects):
        series = ar1_noise(rng, n_time_points, 20, 0.5)
        source = 1.5 * rng.normal(size=(n_time_points, 4))
        for place, lag in enumerate((0, *lags)):
            series[lag:, 4 * place : 4 * place + 4] += source[: n_time_points - lag]
        runs.append(as_run(series, f"sub-{subject:02}_run-{subject:02}"))
    return runs


def make_model(recall: RecallConfig = RECALL) -> Forecaster:
    torch.manual_seed(0)
    backbone = MACConfig(dim=8, n_layers=1, n_heads=2, tokens_per_time_point=1)
    tokenizer = LinearTokenizerConfig(n_tokens=1)
    return ForecasterConfig(tokenizer=tokenizer, backbone=backbone, recall=recall, horizons=HORIZONS).build(
        n_features=20
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[Forecaster, list]:
    runs = make_runs(7, LAGS)
    model = make_model()
    model.fit(runs[:5])
    return model, runs


def test_planted_delayed_responses_are_forecast(fitted: tuple[Forecaster, list]) -> None:
    model, runs = fitted
    # The two delayed responses are 50 time points apart, so that the one predicts the other, too.
    assert set(LAGS) <= set(model.recall.delayed_responses.lags.tolist()) <= {*LAGS, LAGS[1] - LAGS[0]}
    without = make_model(dataclasses.replace(RECALL, longest_lag=0))
    without.fit(runs[:5])
    assert without.recall.delayed_responses.lags.numel() == 0
    for horizon in HORIZONS:
        # 8 of 20 features have a delayed response of variance 2.25 plus noise of variance 1; the first time points of a
        # run have none.
        fraction = 2 * 2.25 * 4 / (20 + 3 * 4 * 2.25)
        gained = 1 - error(model, runs[5:], horizon) / error(without, runs[5:], horizon)
        assert 0.5 * fraction < gained < 1.2 * fraction


def test_noise_has_no_delayed_responses() -> None:
    model = make_model()
    model.fit(make_runs(5, ()))
    assert model.recall.delayed_responses.lags.tolist() == []


def test_forecasts_do_not_depend_on_blocks(fitted: tuple[Forecaster, list]) -> None:
    model, runs = fitted
    whole = stream(model.eval(), runs[5].series)
    torch.testing.assert_close(stream(model, runs[5].series, (1, 7, 64, 200)), whole, rtol=1e-4, atol=1e-4)
    again = make_model()
    again.load_state_dict(model.state_dict())
    assert torch.equal(stream(again.eval(), runs[5].series), whole)


def test_forecasts_use_the_components_at_each_lag() -> None:
    generator = torch.Generator().manual_seed(0)
    module = DelayedResponses(horizons=(1, 4), longest_lag=12, n_components=3, width=5)
    components, weights = torch.randn(2, 30, 3, generator=generator), torch.randn(2, 6, 5, generator=generator)
    forecasts, _ = module(components, module.init_state(2))
    assert not forecasts.any() and forecasts.shape == (2, 30, 2, 5)
    without = torch.randn(3, 2, 6, 5, generator=generator)
    module.load(DelayedResponsesFit(torch.tensor([12, 5]), weights, without))
    forecasts, tail = module(components, module.init_state(2))
    held_out, _ = module(components, module.init_state(2), torch.tensor([2, -1]))
    assert torch.equal(tail, components[:, -12:])
    past = lambda t: components[:, t] if t >= 0 else torch.zeros(2, 3)  # noqa: E731
    for time_point in range(30):
        for index, horizon in enumerate((1, 4)):
            source = torch.cat([past(time_point + horizon - 12), past(time_point + horizon - 5)], dim=1)
            torch.testing.assert_close(forecasts[:, time_point, index], source @ weights[index])
            # A training run is forecast with weights that were fitted without its fold.
            torch.testing.assert_close(held_out[0, time_point, index], source[0] @ without[2, index])
            torch.testing.assert_close(held_out[1, time_point, index], source[1] @ weights[index])
