"""The normalization that all layers use."""

from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` that computes in the type of its weights, also under autocast.

    A sum of squares is imprecise in half precision.

    Parameters
    ----------
    dim : int
        Width of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each token, ``(..., dim)``, to a mean square of 1, times the learned weights."""
        return super().forward(x.to(self.weight.dtype))
