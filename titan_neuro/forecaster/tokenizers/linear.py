"""Tokens by one linear map of the whole time point: of parcels, vertices, or the voxels of a mask."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.forecaster.shapes import require_series
from titan_neuro.forecaster.tokenizers.config import LinearTokenizerConfig


class LinearTokenizer(nn.Module):
    """One linear map from all features of a time point to its tokens.

    Parameters
    ----------
    config : LinearTokenizerConfig
    n_features : int
        Number of voxels inside the mask, vertices or parcels.
    dim : int
        Width of a token.
    """

    def __init__(self, config: LinearTokenizerConfig, n_features: int, dim: int) -> None:
        super().__init__()
        self.n_tokens, self.n_features = config.n_tokens, n_features
        self.projection = nn.Linear(n_features, config.n_tokens * dim)

    def forward(self, series: Tensor) -> Float[Tensor, "B T P D"]:
        """Turn each time point into tokens.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, features)``, z-scored.

        Returns
        -------
        torch.Tensor
            ``(batch, time, tokens, dim)``.

        Raises
        ------
        MismatchError
            Series of another rank, number of features or dtype.
        """
        require_series(series, self.n_features, caller="LinearTokenizer.forward", dtype=self.projection.weight.dtype)
        tokens: Tensor = self.projection(series)
        return tokens.view(*series.shape[:2], self.n_tokens, -1)
