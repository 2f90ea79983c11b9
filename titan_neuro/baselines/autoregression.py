"""Linear autoregression per feature: what usually wins (Nozari et al. 2024), hence the headline's reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.baselines.groundwork import Groundwork
from titan_neuro.ops.autoregression import Autoregression, autoregress
from titan_neuro.typing import FrameRun


class AutoregressionBaseline:
    """Forecast each feature from its own last frames; the reference of `skill_ar`.

    Parameters
    ----------
    horizons : tuple of int
        Frames ahead, ascending.
    groundwork : Groundwork, optional
        Shared with other rows of the table.

    Attributes
    ----------
    fitted : Autoregression
        Weights, and the order and penalty of each horizon; there once `fit` was called.
    """

    name = "ar"
    fitted: Autoregression

    def __init__(self, horizons: tuple[int, ...], groundwork: Groundwork | None = None) -> None:
        self.horizons = horizons
        self._groundwork = groundwork or Groundwork(horizons)

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Fit to the training runs; see `titan_neuro.ops.autoregression.fit_autoregression` for what it raises."""
        self.fitted = self._groundwork.autoregression(runs)

    def start(self) -> Tensor:
        """No past: zeros, the mean of z-scored data, ``(order - 1, features)``."""
        _, order, n_features = self.fitted.coefficients.shape
        return torch.zeros(order - 1, n_features)

    def step(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast from every frame: ``(time, horizons, features)``; the state is the last frames."""
        return autoregress(frames, state, self.fitted.coefficients, self.fitted.intercept)
