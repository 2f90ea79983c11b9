"""The training mean, which does not depend on the run it forecasts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.baselines.base import StatelessBaseline, require_rows
from titan_neuro.linear.lagged_statistics import common_n_features
from titan_neuro.runs import read_blocks
from titan_neuro.typing import RunData


class TrainingMean(StatelessBaseline):
    """Forecast each feature's mean over the scored time points of the training runs; the reference of `r2`.

    Attributes
    ----------
    mean : torch.Tensor
        float32, ``(features,)``; set by `fit`.
    """

    name = "mean"
    mean: Tensor

    def fit(self, runs: Sequence[RunData]) -> None:
        """Average the scored time points of all runs; raises what :meth:`Baseline.fit` does."""
        total = torch.zeros(common_n_features(runs), dtype=torch.float64)
        n_scored = 0
        for run in runs:
            for block, series in read_blocks(run):
                scored = series[torch.as_tensor(run.scored[block])]
                total += scored.double().sum(dim=0)
                n_scored += len(scored)
        require_rows(n_scored, runs)
        self.mean = (total / n_scored).float()

    def step(self, series: Tensor, state: None) -> tuple[Tensor, None]:
        """Forecast the mean, ``(time, horizons, features)``, whatever `series` is."""
        return self.mean.expand(series.shape[0], len(self.horizons), -1), None
