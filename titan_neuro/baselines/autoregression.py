"""Linear autoregression per feature: what usually wins (Nozari et al. 2024), hence the headline's reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.baselines.shared_fits import SharedFits
from titan_neuro.linear.autoregression import Autoregression, autoregress
from titan_neuro.typing import RunData


class AutoregressionBaseline:
    """Forecast each feature from its own last time points; the reference of `skill_ar`.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    shared_fits : SharedFits, optional
        Shared with other rows of the table.

    Attributes
    ----------
    fitted : Autoregression
        Weights, and the order and penalty of each horizon; there once `fit` was called.
    """

    name = "ar"
    fitted: Autoregression

    def __init__(self, horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> None:
        self.horizons = horizons
        self._shared_fits = shared_fits or SharedFits(horizons)

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; see `titan_neuro.linear.autoregression.fit_autoregression` for what it raises."""
        self.fitted = self._shared_fits.autoregression(runs)

    def init_state(self) -> Tensor:
        """No past: zeros, the mean of z-scored data, ``(order - 1, features)``."""
        _, order, n_features = self.fitted.coefficients.shape
        return torch.zeros(order - 1, n_features)

    def step(self, series: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast from every time point: ``(time, horizons, features)``; the state is the last time points."""
        return autoregress(series, state, self.fitted.coefficients, self.fitted.intercept)
