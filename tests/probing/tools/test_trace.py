"""A trace must be causal, and agree with streaming the model."""

import numpy as np
import pytest
import torch
from delay_memory import mac_forecaster
from stimulus_viewers import N_FEATURES, viewer_run

from titan_neuro.forecaster import RecallConfig
from titan_neuro.probing.tools.trace import WEIGHTS_WIDTH, count_sketch, draw_sketch, trace_run


def test_trace_is_causal():
    model, run, changed = mac_forecaster(N_FEATURES), viewer_run(1), viewer_run(1)
    changed.series = changed.series.clone()
    changed.series[100:] += 1
    trace, trace_of_changed = (trace_run(model, each) for each in (run, changed))
    for name in ("activity", "tokens", "memory_output"):
        values, values_of_changed = getattr(trace, name), getattr(trace_of_changed, name)
        np.testing.assert_array_equal(values[:100], values_of_changed[:100])
        assert (values[100] != values_of_changed[100]).any()
    before = trace.weights_time_points < 100
    np.testing.assert_array_equal(trace.memory_weights[before], trace_of_changed.memory_weights[before])
    assert (trace.memory_weights[~before][1:] != trace_of_changed.memory_weights[~before][1:]).any(axis=1).all()


@pytest.mark.parametrize("recall", [None, RecallConfig(n_components=4)], ids=["no recall", "recall"])
def test_trace_agrees_with_streaming(recall):
    model, run = mac_forecaster(N_FEATURES, recall=recall), viewer_run(1, n_time_points=83)
    trace = trace_run(model, run, count_from=5)
    assert trace.weights_time_points.tolist() == [*range(4, 83, 8), 82]
    with torch.inference_mode():
        state = model.init_state()
        _, observed, _ = model.observe(run.series[None], state.observation)
        output, _ = model.features(observed, state.memory)
    np.testing.assert_allclose(trace.memory_output, output[0], atol=1e-4)
    assert len(trace.activity) == len(trace.tokens) == 83


@torch.inference_mode()
def test_weights_are_those_of_the_memories_that_enter_forecasts():
    model, run = mac_forecaster(N_FEATURES, recall=RecallConfig(n_components=4)), viewer_run(1, n_time_points=83)
    # In float64: the calls of a trace are shorter, which float32 rounds in another way.
    model = model.double()
    memory = model.backbone.memory.associations
    memory.key_map.normal_(std=0.1)
    model.backbone.memory.directions.normal_()
    model.components.basis.normal_()
    _, state = model(run.series[None].double())
    content = memory.content(state.memory.backbone.memory[0].associations).flatten()
    expected = count_sketch(content.float(), *draw_sketch(len(content), WEIGHTS_WIDTH), WEIGHTS_WIDTH)
    assert content.any()
    torch.nn.init.zeros_(model.decoder.patterns)
    found = trace_run(model, run)
    np.testing.assert_allclose(found.memory_weights[-1], expected, rtol=1e-3, atol=1e-5)
    torch.nn.init.normal_(model.decoder.patterns)
    with_blocks = trace_run(model, run)
    assert np.abs(with_blocks.memory_weights[-1] - expected.numpy()).max() > 1e-3
    assert with_blocks.memory_output.shape[1] == found.memory_output.shape[1] + model.config.backbone.dim


def test_late_start_keeps_the_reading_grid():
    model, run = mac_forecaster(N_FEATURES), viewer_run(1, n_time_points=83)
    late = trace_run(model, run, count_from=5, first_time_point=21)
    assert late.weights_time_points.tolist() == [28, *range(36, 83, 8), 82] and len(late.activity) == 62


def test_wide_features_are_projected():
    trace = trace_run(mac_forecaster(N_FEATURES), viewer_run(1, n_time_points=83), width=8)
    assert trace.activity.shape[1] == trace.tokens.shape[1] == trace.memory_output.shape[1] == 8


def test_sketch_preserves_correlations():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 20_000)).astype(np.float32))
    values[20:] += values[:20]
    sketched = count_sketch(values, *draw_sketch(20_000, 512), 512)
    error = torch.corrcoef(values) - torch.corrcoef(sketched)
    assert error.abs().max() < 0.2 and error.square().mean().sqrt() < 0.05
