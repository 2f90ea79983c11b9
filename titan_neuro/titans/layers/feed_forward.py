"""The feed-forward part of a block, which maps each token by itself."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Gated feed-forward layer, ``W_out (s(W_gate x) * W_in x)`` with ``s = SiLU`` (Shazeer 2020, arXiv:2002.05202).

    Parameters
    ----------
    dim : int
        Width of a token.
    width : int
        Hidden width.
    """

    def __init__(self, dim: int, *, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, 2 * width, bias=False)
        self.outer = nn.Linear(width, dim, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Map ``(batch, tokens, dim)`` to the same shape, token by token."""
        gate, content = self.inner(x).chunk(2, dim=-1)
        projected: Tensor = self.outer(F.silu(gate) * content)
        return projected
