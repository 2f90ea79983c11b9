"""Forecasts as sums of spatial patterns of the whole brain."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.forecaster.decoders.config import LowRankConfig
from titan_neuro.forecaster.shapes import require_tokens


class LowRankDecoder(nn.Module):
    """Each horizon weighs `rank` spatial patterns that all horizons share.

    ``forecast[h] = (W_h tokens) @ patterns`` with ``patterns`` of ``(rank, features)``. The patterns start at 0, so
    that a new decoder adds nothing to the linear skip.

    Parameters
    ----------
    config : LowRankConfig
    n_tokens, dim : int
        Tokens of a time point, and their width.
    n_horizons, n_features : int
        Number of lead times; voxels inside the mask, or parcels.
    """

    def __init__(self, config: LowRankConfig, *, n_tokens: int, dim: int, n_horizons: int, n_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_tokens * dim)
        self.weights = nn.Linear(n_tokens * dim, n_horizons * config.rank)
        self.patterns = nn.Parameter(torch.zeros(config.rank, n_features))
        self.n_tokens, self.dim, self.n_horizons = n_tokens, dim, n_horizons

    def forward(self, tokens: Tensor) -> Float[Tensor, "B T K V"]:
        """Forecast from each time point's tokens.

        Parameters
        ----------
        tokens : torch.Tensor
            ``(batch, time, tokens, dim)``.

        Returns
        -------
        torch.Tensor
            ``(batch, time, horizons, features)``.

        Raises
        ------
        MismatchError
            Tokens of another shape or dtype.
        """
        require_tokens(tokens, self.n_tokens, self.dim, caller="LowRankDecoder.forward")
        weights: Tensor = self.weights(self.norm(tokens.flatten(2)))
        return weights.view(*weights.shape[:2], self.n_horizons, -1) @ self.patterns

    def zero_output(self) -> None:
        """Set the patterns to 0: the decoder then forecasts 0."""
        nn.init.zeros_(self.patterns)

    def is_zero(self) -> bool:
        """Whether the decoder forecasts 0 from any tokens, as before the first gradient step."""
        return not self.patterns.any()
