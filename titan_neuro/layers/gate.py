"""The paper's gate, by which a memory and an attention are brought together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class NonlinearGate(nn.Module):
    """``(norm(a) + shift_a) * s(norm(b) + shift_b)``: both sides normalised with learned scales, SiLU on the second.

    Behrouz et al. 2025 (arXiv:2501.00663), below equation 28; equation 25 uses the same. The learned shifts, 1 at
    first, are not in the paper: without them neither side reaches the output where the other is near 0, and what one
    side knows can't pass by itself.

    Parameters
    ----------
    dim : int
        Width of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_a = nn.RMSNorm(dim, eps=1e-5)
        self.norm_b = nn.RMSNorm(dim, eps=1e-5)
        self.shift_a = nn.Parameter(torch.ones(dim))
        self.shift_b = nn.Parameter(torch.ones(dim))

    def forward(self, a: Float[Tensor, "B T D"], b: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Gate two streams of tokens, each ``(batch, tokens, dim)``, by each other."""
        gated: Tensor = (self.norm_a(a) + self.shift_a) * F.silu(self.norm_b(b) + self.shift_b)
        return gated
