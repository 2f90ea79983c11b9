"""Linear autoregression of each feature: the strongest simple forecaster (Nozari et al. 2024), the main reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.baselines.base import Baseline
from titan_neuro.linear.autoregression import Autoregression, autoregress
from titan_neuro.typing import RunData


class AutoregressionBaseline(Baseline[Tensor]):
    """Forecast each feature from its own last time points; the reference of `skill_ar`.

    The state holds the last time points, ``(order - 1, features)``.

    Attributes
    ----------
    fitted : Autoregression
        Weights, and the order and penalty of each lead time; set by `fit`.
    """

    name = "ar"
    fitted: Autoregression

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; raises what :func:`titan_neuro.linear.autoregression.fit_autoregression` does."""
        self.fitted = self.shared_fits.autoregression(runs)

    def init_state(self) -> Tensor:
        """Zeros, the mean of z-scored data, ``(order - 1, features)``."""
        _, order, n_features = self.fitted.coefficients.shape
        return torch.zeros(order - 1, n_features)

    def step(self, series: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast from each time point of ``(time, features)``: ``(time, horizons, features)``."""
        return autoregress(series, state, self.fitted.coefficients, self.fitted.intercept)
