"""The one norm of all layers."""

from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` that computes in the type of its weights, under autocast, too: squares add up badly in halves.

    Parameters
    ----------
    dim : int
        Width of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each token to a mean square of 1."""
        return super().forward(x.to(self.weight.dtype))
