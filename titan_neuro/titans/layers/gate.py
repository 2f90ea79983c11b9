"""The paper's gate, which combines the outputs of a memory and of an attention."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.titans.layers.norm import RMSNorm

# Initial scale of each side, relative to its shift of 1.
_INITIAL_SCALE = 0.3


class NonlinearGate(nn.Module):
    """``(shift_a + norm(a)) * (shift_b + norm(b))``: both sides normalized with learned scales, then multiplied.

    Behrouz et al. 2025 (arXiv:2501.00663), below equation 28; equation 25 uses the same. The paper has a non-linearity
    on each side and no shifts: as printed, neither side reaches the output where the other is near 0. With shifts,
    initially 1, each side also passes alone, and the product of the two is the non-linearity. The decision on the gate
    in docs has the measurements.

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
            nn.init.constant_(norm.weight, _INITIAL_SCALE)

    def forward(self, a: Float[Tensor, "B T D"], b: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Multiply two streams of tokens, each ``(batch, tokens, dim)``, after normalizing and shifting both."""
        gated: Tensor = (self.norm_a(a) + self.shift_a) * (self.norm_b(b) + self.shift_b)
        return gated
