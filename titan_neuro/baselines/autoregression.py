"""Linear autoregression per feature: what usually wins (Nozari et al. 2024), hence the headline's reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from titan_neuro.ops.autoregression import ORDERS, PENALTIES, Autoregression, autoregress, fit_autoregression
from titan_neuro.typing import FrameRun


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AutoregressionConfig:
    """What the fit may choose from.

    Attributes
    ----------
    orders : tuple of int
        Numbers of past frames, each at least 1.
    penalties : tuple of float
        Ridge penalties per row, in units of the data's variance, above 0.
    n_folds : int
        The most inner folds on which order and penalty are chosen.
    memory_gib : float
        Room for the moments of the fit, GiB.
    """

    orders: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = ORDERS
    penalties: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = PENALTIES
    n_folds: Annotated[int, Field(ge=2)] = 5
    memory_gib: Annotated[float, Field(gt=0)] = 1.0

    def build(self, horizons: tuple[int, ...]) -> AutoregressionBaseline:
        """Return the baseline, not yet fitted."""
        return AutoregressionBaseline(self, horizons)


class AutoregressionBaseline:
    """Forecast each feature from its own last frames; the reference of `skill_ar`.

    Parameters
    ----------
    config : AutoregressionConfig
        What the fit may choose from.
    horizons : tuple of int
        Frames ahead, ascending.

    Attributes
    ----------
    fitted : Autoregression
        Weights, and the order and penalty of each horizon; there once `fit` was called.
    """

    name = "ar"
    fitted: Autoregression

    def __init__(self, config: AutoregressionConfig, horizons: tuple[int, ...]) -> None:
        self.config = config
        self.horizons = horizons

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Fit to the training runs; see `titan_neuro.ops.autoregression.fit_autoregression` for what it raises."""
        self.fitted = fit_autoregression(
            runs,
            self.horizons,
            orders=self.config.orders,
            penalties=self.config.penalties,
            n_folds=self.config.n_folds,
            memory_bytes=round(self.config.memory_gib * 2**30),
        )

    def start(self) -> Tensor:
        """No past: zeros, the mean of z-scored data, ``(order - 1, features)``."""
        _, order, n_features = self.fitted.coefficients.shape
        return torch.zeros(order - 1, n_features)

    def step(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast from every frame: ``(time, horizons, features)``; the state is the last frames."""
        return autoregress(frames, state, self.fitted.coefficients, self.fitted.intercept)
