"""The recorded surprise must be the norm of the gradients that the memories are written with."""

import numpy as np
import pytest
import torch
from event_runs import N_TIME_POINTS, event_run, persistence_forecaster
from recall_runs import N_FEATURES, small_forecaster
from torch import nn

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster import LookaheadConfig
from titan_neuro.probing.tools.memory_surprise import (
    ACTIVITY,
    BLOCK_MEMORIES,
    GLOBAL_SIGNAL,
    MEASURES,
    PREDICTION,
    block_time_points,
    prediction_pair,
    record_activity_change,
    record_surprise,
)
from titan_neuro.titans.layers import NeuralMemoryConfig


@pytest.mark.parametrize("n_heads, depth", [(1, 1), (2, 2)])
def test_layer_surprise_is_norm_of_its_gradient(n_heads, depth):
    torch.manual_seed(0)
    config = NeuralMemoryConfig(n_heads=n_heads, depth=depth, chunk_time_points=4, max_delta_norm=None)
    memory = config.build(dim=8, tokens_per_time_point=1)
    before = memory.init_state(3)
    x = torch.randn(3, 1, 8)
    _, after = memory(x, before)
    _, _, theta = memory.gate_values(x)
    # The first token's momentum is its gradient, times the step.
    norms = [(part.flatten(2).norm(dim=2) / theta[..., 0]).square().sum(1) for part in after.memory.momentum]
    torch.testing.assert_close(memory.surprise(x, before)[:, 0], sum(norms).sqrt())
    with pytest.raises(MismatchError, match="reach beyond the chunk"):
        memory.surprise(torch.randn(3, 4, 8), after)


def test_forecast_memory_surprise_is_forecast_error():
    memory = persistence_forecaster().backbone.memory.associations
    torch.manual_seed(1)
    features, errors = torch.randn(1, 8, 2, memory.key_map.shape[-1]), torch.randn(1, 8, 2, N_FEATURES)
    _, surprise, _ = memory.learn_and_record(features, errors, memory.init_state(1))
    keys = torch.einsum("tkf,kdf->ktd", features[0], memory.key_map)
    for t in range(1, 8):
        expected = torch.zeros(())
        for k, h in enumerate((1, 3)):
            if t >= h:
                # The memory before this pair: the ridge regression on the pairs before it.
                seen, values = keys[k, : t - h], errors[0, h:t, k]
                held = torch.linalg.solve(seen.T @ seen + torch.eye(seen.shape[1]), seen.T @ values)
                missed = errors[0, t, k] - keys[k, t - h] @ held
                expected = expected + 4 * missed.square().sum() * keys[k, t - h].square().sum()
        torch.testing.assert_close(surprise[0, t], expected.sqrt(), rtol=1e-4, atol=1e-5)
    assert surprise[0, 0] == 0, "there was no forecast of the first time point"


def test_surprise_is_independent_of_blocks(monkeypatch):
    model, run = persistence_forecaster(), event_run(1)
    nn.init.normal_(model.decoder.patterns)
    at_once = record_surprise(model, run)
    assert block_time_points(model) == 40
    monkeypatch.setattr("titan_neuro.probing.tools.memory_surprise.block_time_points", lambda _: 5)
    in_parts = record_surprise(model, run)
    for name in MEASURES:
        np.testing.assert_allclose(at_once[name], in_parts[name], rtol=2e-3, atol=1e-4, err_msg=name)
        assert at_once[name].shape == (N_TIME_POINTS,)
    assert "learn" not in vars(model.backbone.memory.associations), "the method is put back"


def test_prediction_change_compares_forecasts_of_one_target():
    assert prediction_pair((1, 2, 3, 6, 10)) == (0, 1, 1)
    assert prediction_pair((1, 4, 6)) == (1, 2, 2)
    assert prediction_pair((5,)) == (0, 0, 1)
    model, run = persistence_forecaster(), event_run(1)
    forecasts, _ = model.step(run.series, model.init_state())
    expected = (forecasts[2:, 0] - forecasts[:-2, 1]).square().mean(1).sqrt()
    recorded = record_surprise(model, run)[PREDICTION]
    assert np.isnan(recorded[:2]).all()
    np.testing.assert_allclose(recorded[2:], expected, rtol=1e-3, atol=1e-5)


def test_activity_change_agrees_with_numpy():
    run = event_run(1)
    recorded, series = record_activity_change(run), run.series.numpy().astype(float)
    np.testing.assert_allclose(recorded[ACTIVITY][1:], np.sqrt((np.diff(series, axis=0) ** 2).mean(1)), rtol=1e-5)
    np.testing.assert_allclose(recorded[GLOBAL_SIGNAL][1:], np.abs(np.diff(series.mean(1))), rtol=1e-3, atol=1e-6)
    assert np.isnan([recorded[ACTIVITY][0], recorded[GLOBAL_SIGNAL][0]]).all()


def test_blocks_fit_chunks_of_the_backbones_memory():
    lookahead = LookaheadConfig(n_lags=2, n_components=2, key_width=8, chunk_time_points=12)
    model = small_forecaster(lookahead=lookahead).eval()
    run = event_run(1, series=event_run(1).series.numpy()[:60])
    assert block_time_points(model) == 64, "the blocks are not run before they are trained"
    assert np.isnan(record_surprise(model, run)[BLOCK_MEMORIES]).all()
    nn.init.normal_(model.decoder.patterns)
    assert block_time_points(model) == 8
    assert np.isfinite(record_surprise(model, run)[BLOCK_MEMORIES]).all()
