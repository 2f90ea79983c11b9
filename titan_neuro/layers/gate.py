"""The paper's gate, by which a memory and an attention are brought together."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class NonlinearGate(nn.Module):
    """``s(norm(a)) * s(norm(b))``: both sides normalised with learned scales, a non-linearity (SiLU), the product.

    Behrouz et al. 2025 (arXiv:2501.00663), below equation 28; equation 25 uses the same.

    Parameters
    ----------
    dim : int
        Width of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_a = nn.RMSNorm(dim, eps=1e-5)
        self.norm_b = nn.RMSNorm(dim, eps=1e-5)

    def forward(self, a: Float[Tensor, "B T D"], b: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Gate two streams of tokens, each ``(batch, tokens, dim)``, by each other."""
        return F.silu(self.norm_a(a)) * F.silu(self.norm_b(b))
