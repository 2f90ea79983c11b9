"""Forecast origins have scored targets at every lead time; targets are the run's time points."""

import numpy as np
import pytest
import torch
from delay_memory import delayed_run
from event_runs import event_run, persistence_forecaster

from titan_neuro.probing.tools.forecasts import (
    evenly_spaced,
    find_origins,
    forecast_windows,
    observe_run,
    read_targets,
    select_origins,
)


def test_origins_have_scored_targets_without_motion():
    run = delayed_run(n_time_points=60)
    run.high_motion[40] = True
    expected = [
        t for t in range(60) if all(t + h < 60 and run.scored[t + h] and not run.high_motion[t + h] for h in (1, 3))
    ]
    assert np.flatnonzero(find_origins(run, (1, 3))).tolist() == expected
    assert select_origins(run, (1, 3), count=100).tolist() == expected


def test_selected_indices_are_evenly_spaced():
    assert evenly_spaced(np.ones(9, dtype=bool), 3).tolist() == [0, 4, 8]
    assert evenly_spaced(np.array([False, True, True]), 5).tolist() == [1, 2]


def test_targets_are_time_points_of_the_run():
    run, origins = delayed_run(), torch.tensor([30, 77])
    targets = read_targets(run, origins, (1, 3))
    torch.testing.assert_close(targets, torch.stack([run.series[origins + 1], run.series[origins + 3]], dim=1))


@pytest.mark.parametrize("is_longer_than_keys", [False, True])
@torch.inference_mode()
def test_a_window_is_a_stream_of_its_own(is_longer_than_keys):
    """Whichever form of the memory reads it."""
    model, run = persistence_forecaster().double(), event_run(1)
    key_width = model.backbone.memory.associations.key_map.shape[1]
    length = key_width + 20 if is_longer_than_keys else key_width
    _, observed = observe_run(model, run, torch.tensor([200]))
    windows = torch.tensor([100, 150, 200])[:, None] + torch.arange(1 - length, 1)
    found = forecast_windows(model, observed, windows, positions=(-4, -1))
    for window, of_window in zip(windows, found, strict=True):
        residual, _ = model.forecast_residual(observed.at(slice(int(window[0]), int(window[-1]) + 1)))
        torch.testing.assert_close(of_window, residual[0, [-4, -1]], rtol=1e-8, atol=1e-10)
    assert found.abs().max() > 0.1, "the memory has learned something"
