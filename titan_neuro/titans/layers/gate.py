"""The paper's gate, by which a memory and an attention are brought together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.titans.layers.norm import RMSNorm

# How much each side counts at first, beside the 1 that it is added to.
_FIRST_SCALE = 0.3


class NonlinearGate(nn.Module):
    """``(shift_a + norm(a)) * (shift_b + norm(b))``: both sides normalized with learned scales, then multiplied.

    Behrouz et al. 2025 (arXiv:2501.00663), below equation 28; equation 25 uses the same. The paper has a non-linearity
    on each side and no shifts. As printed neither side reaches the output where the other is near 0, and what one side
    knows can't pass by itself; with shifts, 1 at first, each side passes by itself and the product beside them is the
    non-linearity. docs/architecture.md has what was measured.

    Parameters
    ----------
    dim : int
        Width of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_a = RMSNorm(dim)
        self.norm_b = RMSNorm(dim)
        self.shift_a = nn.Parameter(torch.ones(dim))
        self.shift_b = nn.Parameter(torch.ones(dim))
        for norm in (self.norm_a, self.norm_b):
            nn.init.constant_(norm.weight, _FIRST_SCALE)

    def forward(self, a: Float[Tensor, "B T D"], b: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Gate two streams of tokens, each ``(batch, tokens, dim)``, by each other."""
        gated: Tensor = (self.norm_a(a) + self.shift_a) * (self.norm_b(b) + self.shift_b)
        return gated
