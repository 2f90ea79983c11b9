"""The controls do to the model what they say, and nothing else."""

import dataclasses

import pytest
import torch

from titan_neuro.baselines import AutoregressionBaseline
from titan_neuro.evaluation import FrozenMemory, ResetMemory, controls_of
from titan_neuro.evaluation.streaming import stream_forecasts
from titan_neuro.evaluation.vocabulary import RESET_TIME_POINTS


@pytest.fixture(params=["lmm", "mac"])
def model(request, make_forecaster):
    return make_forecaster(request.param)


@pytest.fixture
def series():
    return torch.randn(70, 6, generator=torch.Generator().manual_seed(1))


def forecasts_of(model, series, block_time_points=16):
    return torch.cat(list(stream_forecasts(model, series, "run", block_time_points)))


def memories_of(state):
    """What is written at test time: the backbone's memory, and the recall's."""
    return [*(block.memory.memory for block in state.memory.backbone.blocks), state.memory.recall[0].memory.memory]


def test_they_bear_the_models_name(model):
    name = model.name
    assert [control.name for control in controls_of(model)] == [f"{name}-frozen", f"{name}-reset20"]


@torch.no_grad()
def test_a_frozen_memory_is_never_written(model, series):
    found = forecasts_of(FrozenMemory(model), series)
    state = model.init_state()
    expected = []
    for start in range(0, 70, 16):
        part, state = model(series[start : start + 16][None], state, memory_frozen=True)
        expected.append(part[0])
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=0)
    for found_memory, initial in zip(memories_of(state), memories_of(model.init_state()), strict=True):
        torch.testing.assert_close(found_memory.weights, initial.weights, rtol=0, atol=0)
    assert not torch.allclose(found, forecasts_of(model, series))


@torch.no_grad()
@pytest.mark.parametrize("block_time_points", [1, 16, 20, 64])
def test_a_reset_memory_knows_its_own_twenty_frames_and_the_skip_all_its_lags(model, series, block_time_points):
    found = forecasts_of(ResetMemory(model), series, block_time_points)
    linear, seen, _ = model.observe(series[None], model.init_state().linear)
    beyond = [
        model.forecast_residual(seen.at(slice(start, start + RESET_TIME_POINTS)))[0]
        for start in range(0, 70, RESET_TIME_POINTS)
    ]
    torch.testing.assert_close(found, (linear + torch.cat(beyond, dim=1))[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, forecasts_of(model, series))


def test_without_recall_both_are_the_autoregression_before_training(make_run, model, series):
    runs = [make_run("01", 1, n_features=6), make_run("02", 1, n_features=6)]
    model = dataclasses.replace(model.config, recall=None).build(n_features=6)
    baseline = AutoregressionBaseline((1, 3))
    for row in (model, baseline):
        row.fit(runs)
    for control in controls_of(model):
        torch.testing.assert_close(forecasts_of(control, series), forecasts_of(baseline, series))


def test_the_table_puts_them_below_their_model(make_run, make_forecaster, quick, score):
    train, test = [make_run(s, 1, n_features=6) for s in ("01", "02")], [make_run("03", 1, n_features=6)]
    model = make_forecaster("mac")
    comparison_model = make_forecaster("lmm")
    benchmark = score([model, comparison_model, *controls_of(model)], train, test, quick)
    assert list(benchmark.kinds.items())[:4] == [
        ("titan-mac", "model"),
        ("titan-mac-frozen", "control"),
        ("titan-mac-reset20", "control"),
        ("titan-lmm", "comparison_model"),
    ]
