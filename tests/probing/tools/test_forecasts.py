"""Forecast origins have scored targets at every lead time; targets are the run's time points."""

import numpy as np
import torch
from delay_memory import delayed_run

from titan_neuro.probing.tools.forecasts import evenly_spaced, find_origins, read_targets, select_origins


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
