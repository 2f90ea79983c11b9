"""The surprise of the memory: the norm of its loss's gradient for each token, without storing the gradient."""

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
    output, and ``a``, the layer's input; its norm is ``||delta|| ||a||``. All tokens are measured at the same weights:
    for the gradients that `memory_scan` writes, pass tokens of one chunk and the weights before that chunk. The clamp
    ``max_delta_norm`` is not applied.

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
    inputs, outputs = list[Tensor](), list[Tensor]()
    for layer, weight in enumerate(weights):
        inputs.append(F.silu(outputs[-1]) if layer else x)
        outputs.append(inputs[-1] @ weight.mT)
    delta = 2 * (outputs[-1] - values.to(outputs[-1].dtype))
    square = torch.zeros_like(delta[..., 0])
    for layer in reversed(range(len(weights))):
        square = square + delta.square().sum(-1) * inputs[layer].square().sum(-1)
        if layer:
            sigmoid = torch.sigmoid(outputs[layer - 1])
            delta = (delta @ weights[layer]) * sigmoid * (1 + outputs[layer - 1] * (1 - sigmoid))
    return square.sqrt()
