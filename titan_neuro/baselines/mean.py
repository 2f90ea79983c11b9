"""The training mean: what is known of a feature without looking at the run at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.typing import RunData

_BLOCK_TIME_POINTS = 256


class TrainingMean:
    """Forecast each feature's mean over the scored time points of the training runs; the reference of `r2`.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.

    Attributes
    ----------
    mean : torch.Tensor
        float32, ``(features,)``; there once `fit` was called.
    """

    name = "mean"
    mean: Tensor

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self.horizons = horizons

    def fit(self, runs: Sequence[RunData]) -> None:
        """Average the scored time points of all `runs`.

        Raises
        ------
        TrainingError
            No run, or no scored time point in any of them.
        MismatchError
            The runs differ in their number of features.
        """
        total = torch.zeros(common_n_features(runs), dtype=torch.float64)
        n_scored = 0
        for run in runs:
            scored = torch.as_tensor(run.scored)
            n_scored += int(scored.sum())
            for start in range(0, run.n_time_points, _BLOCK_TIME_POINTS):
                stop = min(start + _BLOCK_TIME_POINTS, run.n_time_points)
                total += run.read(start, stop)[scored[start:stop]].double().sum(dim=0)
        if n_scored == 0:
            raise TrainingError(
                f"None of the {len(runs)} training runs has a scored time point.",
                "Check the events that mark scored time points.",
            )
        self.mean = (total / n_scored).float()

    def init_state(self) -> None:
        """Nothing is carried from time point to time point."""

    def step(self, series: Tensor, state: None) -> tuple[Tensor, None]:
        """Forecast the mean from every time point: ``(time, horizons, features)``."""
        return self.mean.expand(series.shape[0], len(self.horizons), -1), None
