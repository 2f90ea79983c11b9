"""Persistence: the last time point is the forecast, as it is or damped towards the mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.baselines.base import StatelessBaseline, require_rows
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.runs import read_blocks
from titan_neuro.typing import RunData


class Persistence(StatelessBaseline):
    """Forecast the present time point; the reference of `skill`."""

    name = "persistence"

    def fit(self, runs: Sequence[RunData]) -> None:
        """Do nothing: there are no parameters."""

    def step(self, series: Tensor, state: None) -> tuple[Tensor, None]:
        """Forecast each time point ``(time, features)`` from itself: ``(time, horizons, features)``."""
        return series[:, None].expand(-1, len(self.horizons), -1), None


class DampedPersistence(StatelessBaseline):
    """Forecast ``phi_v^h y_t``: each feature decays towards 0, the mean of z-scored data, at its own rate.

    ``phi_v`` is the least-squares weight of a time point for the next, over the scored time points of all training
    runs, limited to -1 to 1, so that no forecast grows.

    Attributes
    ----------
    factors : torch.Tensor
        float32, ``(horizons, features)``: ``phi_v^h``; set by `fit`.
    """

    name = "damped"
    factors: Tensor

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit ``phi_v`` to the training runs; raises what :meth:`Baseline.fit` does."""
        cross = torch.zeros(common_n_features(runs), dtype=torch.float64)
        power = torch.zeros_like(cross)
        n_rows = 0
        for run in runs:
            for block, series in read_blocks(run, start=1, n_before=1):
                scored = torch.as_tensor(run.scored[block])
                before, after = series[:-1][scored].double(), series[1:][scored].double()
                cross += (before * after).sum(dim=0)
                power += before.square().sum(dim=0)
                n_rows += len(after)
        require_rows(n_rows, runs, " with one before it")
        phi = (cross / power.clamp(min=torch.finfo(power.dtype).tiny)).clamp(-1, 1)
        self.factors = torch.stack([phi**horizon for horizon in self.horizons]).float()

    def step(self, series: Tensor, state: None) -> tuple[Tensor, None]:
        """Scale each time point ``(time, features)``: ``(time, horizons, features)``."""
        return series[:, None] * self.factors, None
