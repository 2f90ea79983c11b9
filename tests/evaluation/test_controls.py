"""The controls restrict the memory as described, and change nothing else."""

import dataclasses

import pytest
import torch

from titan_neuro.baselines import AutoregressionBaseline
from titan_neuro.evaluation import FrozenMemory, ResetMemory, controls_of
from titan_neuro.evaluation.metrics_and_rows import RESET_TIME_POINTS
from titan_neuro.evaluation.streaming import stream_forecasts


@pytest.fixture(params=["lmm", "mac"])
def model(request, make_forecaster):
    return make_forecaster(request.param)


@pytest.fixture
def series():
    return torch.randn(70, 6, generator=torch.Generator().manual_seed(1))


def forecasts_of(model, series, block_time_points=16):
    return torch.cat(list(stream_forecasts(model, series, "run", block_time_points)))


def memories_of(state):
    """The memories that learn at test time: that of the backbone, and that of the recall."""
    recall = state.memory.recall[0].memory
    return [*(block.memory.memory.weights for block in state.memory.backbone.blocks), (recall.weights,)]


def test_controls_are_named_after_their_model(model):
    name = model.name
    assert [control.name for control in controls_of(model)] == [f"{name}-frozen", f"{name}-reset20"]


@torch.no_grad()
def test_a_frozen_memory_is_never_written(model, series):
    forecasts = forecasts_of(FrozenMemory(model), series)
    state = model.init_state()
    expected = []
    for start in range(0, 70, 16):
        part, state = model(series[start : start + 16][None], state, memory_frozen=True)
        expected.append(part[0])
    torch.testing.assert_close(forecasts, torch.cat(expected), rtol=0, atol=0)
    for memory, initial in zip(memories_of(state), memories_of(model.init_state()), strict=True):
        torch.testing.assert_close(memory, initial, rtol=0, atol=0)
    assert not torch.allclose(forecasts, forecasts_of(model, series))


@torch.no_grad()
@pytest.mark.parametrize("block_time_points", [1, 16, 20, 64])
def test_reset_memory_contains_twenty_time_points_at_most(model, series, block_time_points):
    forecasts = forecasts_of(ResetMemory(model), series, block_time_points)
    linear, observation, _ = model.observe(series[None], model.init_state().observation)
    beyond = [
        model.forecast_residual(observation.at(slice(start, start + RESET_TIME_POINTS)))[0]
        for start in range(0, 70, RESET_TIME_POINTS)
    ]
    torch.testing.assert_close(forecasts, (linear + torch.cat(beyond, dim=1))[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(forecasts, forecasts_of(model, series))


def test_untrained_controls_without_recall_equal_autoregression(make_run, model, series):
    runs = [make_run("01", 1, n_features=6), make_run("02", 1, n_features=6)]
    model = dataclasses.replace(model.config, recall=None).build(n_features=6)
    baseline = AutoregressionBaseline((1, 3))
    for row in (model, baseline):
        row.fit(runs)
    for control in controls_of(model):
        torch.testing.assert_close(forecasts_of(control, series), forecasts_of(baseline, series))


def test_controls_stand_below_their_model(make_run, make_forecaster, quick, score):
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
