"""How well an autoregression predicts a series: what a temporal filter must not raise."""

import numpy as np


def ar5_r2(series):
    """r2 of an autoregression of order 5, fitted on the first half and scored on the second, over all columns."""
    past = np.stack([series[4 - lag : len(series) - 1 - lag] for lag in range(5)], axis=-1)
    target, half = series[5:], len(series) // 2
    scores = []
    for column in range(series.shape[1]):
        weights = np.linalg.lstsq(past[:half, column], target[:half, column], rcond=None)[0]
        error = target[half:, column] - past[half:, column] @ weights
        scores.append(1 - error.var() / target[half:, column].var())
    return np.mean(scores)
