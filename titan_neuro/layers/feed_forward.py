"""The part of a block that works on each token alone."""

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
    expansion : int
        Hidden width in units of `dim`.
    """

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, 2 * expansion * dim, bias=False)
        self.outer = nn.Linear(expansion * dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Map ``(batch, tokens, dim)``, token by token."""
        gate, content = self.inner(x).chunk(2, dim=-1)
        projected: Tensor = self.outer(F.silu(gate) * content)
        return projected
