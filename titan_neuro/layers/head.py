"""From the tokens of a frame to forecasts of later frames."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class HorizonHead(nn.Module):
    """Forecasts as a few spatial patterns: each horizon weighs `rank` patterns that all horizons share.

    ``forecast[h] = (W_h tokens) @ patterns`` with ``patterns`` of ``(rank, features)``. The patterns start at 0, so
    that a new model adds nothing to what stands beside it (the linear skip).

    Parameters
    ----------
    token_width : int
        Numbers in all tokens of a frame together.
    n_horizons, rank, n_features : int
    """

    def __init__(self, *, token_width: int, n_horizons: int, rank: int, n_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(token_width)
        self.weights = nn.Linear(token_width, n_horizons * rank)
        self.patterns = nn.Parameter(torch.zeros(rank, n_features))
        self.n_horizons = n_horizons

    def forward(self, tokens: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T K V"]:
        """Forecast ``K`` horizons of all features from each frame's tokens."""
        weights: Tensor = self.weights(self.norm(tokens.flatten(2)))
        return weights.view(*weights.shape[:2], self.n_horizons, -1) @ self.patterns
