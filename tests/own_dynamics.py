"""Streams without a stimulus, in which only a memory that learns at test time can forecast."""

import numpy as np
import torch

from titan_neuro.forecaster.fit.components import ComponentRun
from titan_neuro.forecaster.recall.recall import Recalled

HORIZONS, WIDTH = (1, 3), 16


def own_dynamics(n_subjects, n_time_points=300, seed=0):
    """Streams in which each person's own rotation leads from a time point to the next; half of the power is noise."""
    rng = np.random.default_rng(seed)
    runs = []
    for subject in range(n_subjects):
        turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
        series = rng.normal(size=(n_time_points, WIDTH))
        for t in range(1, n_time_points):
            series[t] = 0.7 * series[t - 1] @ turn + 0.7 * series[t]
        series = torch.tensor(series, dtype=torch.float32)
        errors = series[:, None].repeat(1, len(HORIZONS), 1)
        for index, horizon in enumerate(HORIZONS):
            errors[:horizon, index] = 0
        run = ComponentRun(subject, subject % 4, "rest", 0, series, errors, torch.ones(n_time_points, dtype=torch.bool))
        runs.append((run, Recalled(torch.zeros_like(errors), torch.zeros_like(errors))))
    return runs
