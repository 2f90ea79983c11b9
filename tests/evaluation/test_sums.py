"""Sums of runs with few scored time points, as of those with high motion."""

import numpy as np
import pytest
import torch

from titan_neuro.evaluation.sums import MIN_TIME_POINTS_OF_R, subject_sums
from titan_neuro.metrics.forecast_statistics import ForecastAccumulator


def noise_of(n_time_points, seed=0):
    """Sums of one forecaster whose forecasts are independent of the targets, of 50 features."""
    generator = torch.Generator().manual_seed(seed)
    accumulator = ForecastAccumulator(1, 1, 50)
    target, forecast = torch.randn(2, n_time_points, 50, generator=generator)
    accumulator.add(0, target, [forecast])
    return subject_sums("run-1", accumulator.finish()), (target - forecast).square().sum()


@pytest.mark.parametrize("n_time_points", [1, 2, 9, 10, 200])
def test_correlations_count_from_ten_time_points_on(n_time_points):
    sums, expected = noise_of(n_time_points)
    assert sums.squared_error.item() == pytest.approx(float(expected), rel=1e-5)
    assert sums.n_time_points.tolist() == [n_time_points] and sums.n_constant == 0
    assert sums.n_r.item() == (50 if n_time_points >= MIN_TIME_POINTS_OF_R else 0)
    assert abs(sums.r_z.item()) < 50 * 3 / np.sqrt(max(n_time_points - 3, 1) * 50)
