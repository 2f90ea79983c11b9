"""The memory's network: an MLP without biases that has its own weights for every item of the batch and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def memory_mlp(
    x: Float[Tensor, "*groups tokens in_dim"], weights: Sequence[Float[Tensor, "*groups _ _"]]
) -> Float[Tensor, "*groups tokens out_dim"]:
    """``M(x; W)``: ``W^1 x`` for one layer, ``W^L s(... s(W^1 x))`` with ``s = SiLU`` for more.

    Parameters
    ----------
    x : torch.Tensor
        ``(..., tokens, d_in)``.
    weights : sequence of torch.Tensor
        One ``(..., d_out, d_in)`` per layer.

    Returns
    -------
    torch.Tensor
        ``(..., tokens, d_out)`` of the last layer.
    """
    for layer, weight in enumerate(weights):
        x = (F.silu(x) if layer else x) @ weight.mT
    return x
