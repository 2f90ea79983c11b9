"""Persistence: nothing changes, or all of it fades."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.typing import RunData

_BLOCK_TIME_POINTS = 256


class Persistence:
    """Forecast the present time point; the reference of `skill`.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    """

    name = "persistence"

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self.horizons = horizons

    def fit(self, runs: Sequence[RunData]) -> None:
        """There is nothing to learn."""

    def init_state(self) -> None:
        """Nothing is carried from time point to time point."""

    def step(self, series: Tensor, state: None) -> tuple[Tensor, None]:
        """Forecast each time point from itself: ``(time, horizons, features)``."""
        return series[:, None].expand(-1, len(self.horizons), -1), None


class DampedPersistence:
    """Forecast ``phi_v^h y_t``: each feature fades towards 0, the mean of z-scored data, at its own pace.

    ``phi_v`` is the least-squares weight of a time point for the next, over the scored time points of all training
    runs, held within -1 and 1: a forecast that grows has no meaning.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.

    Attributes
    ----------
    factors : torch.Tensor
        float32, ``(horizons, features)``: ``phi_v^h``; there once `fit` was called.
    """

    name = "damped"
    factors: Tensor

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self.horizons = horizons

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit ``phi_v`` to the training runs.

        Raises
        ------
        TrainingError
            No run, or no scored time point that has one before it.
        MismatchError
            The runs differ in their number of features.
        """
        cross = torch.zeros(common_n_features(runs), dtype=torch.float64)
        power = torch.zeros_like(cross)
        n_rows = 0
        for run in runs:
            scored = torch.as_tensor(run.scored)
            n_rows += int(scored[1:].sum())
            for start in range(1, run.n_time_points, _BLOCK_TIME_POINTS):
                stop = min(start + _BLOCK_TIME_POINTS, run.n_time_points)
                series = run.read(start - 1, stop).double()
                before, after = series[:-1][scored[start:stop]], series[1:][scored[start:stop]]
                cross += (before * after).sum(dim=0)
                power += before.square().sum(dim=0)
        if n_rows == 0:
            raise TrainingError(
                f"None of the {len(runs)} training runs has a scored time point with one before it.",
                "Check the events that mark scored time points.",
            )
        phi = (cross / power.clamp(min=torch.finfo(power.dtype).tiny)).clamp(-1, 1)
        self.factors = torch.stack([phi**horizon for horizon in self.horizons]).float()

    def init_state(self) -> None:
        """Nothing is carried from time point to time point."""

    def step(self, series: Tensor, state: None) -> tuple[Tensor, None]:
        """Forecast from every time point: ``(time, horizons, features)``."""
        return series[:, None] * self.factors, None
