"""How surprised the memory is: the length of its loss's gradient, token by token, without a gradient being stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def memory_surprise(
    keys: Float[Tensor, "*groups tokens key_dim"],
    values: Float[Tensor, "*groups tokens value_dim"],
    weights: Sequence[Float[Tensor, "*groups _ _"]],
) -> Float[Tensor, "*groups tokens"]:
    """``||grad_W ||M(k_t; W) - v_t||^2||`` over all layers: the surprise of Behrouz et al. 2025 (equations 8, 12).

    A token's gradient by a layer's weights is the outer product of ``delta``, the loss's gradient by the layer's
    result, and ``a``, what the layer is given; its norm is ``||delta|| ||a||``. All tokens are measured at the same
    weights: to have what `memory_scan` writes, give it tokens of one chunk and the weights that the chunk begins with.
    What ``max_delta_norm`` would shorten is measured in full.

    Parameters
    ----------
    keys : torch.Tensor
        ``(..., tokens, d_in)``.
    values : torch.Tensor
        ``(..., tokens, d_out)``.
    weights : sequence of torch.Tensor
        One ``(..., d_out, d_in)`` per layer.

    Returns
    -------
    torch.Tensor
        ``(..., tokens)``, at least 0, in the weights' type.
    """
    x = keys.to(weights[0].dtype)
    given, results = list[Tensor](), list[Tensor]()
    for layer, weight in enumerate(weights):
        given.append(F.silu(results[-1]) if layer else x)
        results.append(given[-1] @ weight.mT)
    delta = 2 * (results[-1] - values.to(results[-1].dtype))
    square = torch.zeros_like(delta[..., 0])
    for layer in reversed(range(len(weights))):
        square = square + delta.square().sum(-1) * given[layer].square().sum(-1)
        if layer:
            share = torch.sigmoid(results[layer - 1])
            delta = (delta @ weights[layer]) * share * (1 + results[layer - 1] * (1 - share))
    return square.sqrt()
