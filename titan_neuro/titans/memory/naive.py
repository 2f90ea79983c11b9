"""The definition of the memory: a loop over tokens, with autograd for the gradient.

Every faster implementation must agree with it.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from titan_neuro.titans.memory.mlp import memory_mlp
from titan_neuro.titans.memory.state import MemoryState
from titan_neuro.titans.memory.tokens import Tokens


def naive_scan(
    tokens: Tokens, state: MemoryState, chunk_size: int, max_delta_norm: float | None
) -> tuple[Float[Tensor, "batch heads tokens value_dim"], MemoryState]:
    """Read and write the memory token by token; see `memory_scan` for the arguments."""
    dtype, outputs = tokens.queries.dtype, []
    tokens = Tokens(*(tensor.to(state.weights[0].dtype) for tensor in tokens))
    for token in tokens.split([1] * tokens.n_tokens):
        state = _write(token, state, chunk_size, max_delta_norm)
        outputs.append(memory_mlp(token.queries, state.weights))
    return torch.cat(outputs, dim=-2).to(dtype), dataclasses.replace(state, reference=_open_reference(state))


def _open_reference(state: MemoryState) -> tuple[Tensor, ...]:
    return state.reference if state.position else state.weights


def _write(token: Tokens, state: MemoryState, chunk_size: int, max_delta_norm: float | None) -> MemoryState:
    """Equations 13 and 14 of the paper for one token, with the gradient of equation 16."""
    reference = _open_reference(state)
    gradient = _loss_gradient(reference, token.keys, token.values, max_delta_norm)
    alpha, eta, theta = (gate.unsqueeze(-1) for gate in (token.alpha, token.eta, token.theta))
    momentum = tuple(eta * s - theta * g for s, g in zip(state.momentum, gradient, strict=True))
    weights = tuple((1 - alpha) * w + s for w, s in zip(state.weights, momentum, strict=True))
    return MemoryState(weights, momentum, reference, (state.position + 1) % chunk_size)


def _loss_gradient(
    reference: tuple[Tensor, ...], key: Tensor, value: Tensor, max_delta_norm: float | None
) -> tuple[Tensor, ...]:
    """Gradient of equation 12, ``||M(k; W_ref) - v||^2``, each layer's part clamped as in `memory_scan`."""

    def loss(weights: tuple[Tensor, ...], offsets: tuple[Tensor, ...]) -> Tensor:
        x = key
        for layer, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
            x = (F.silu(x) if layer else x) @ weight.mT + offset
        return (x - value).square().sum()

    # A layer's delta is the loss's gradient by that layer's output, hence by a zero added to the output.
    zeros = tuple(weight.new_zeros(*weight.shape[:2], 1, weight.shape[-2]) for weight in reference)
    gradients, deltas = torch.func.grad(loss, argnums=(0, 1))(reference, zeros)
    if max_delta_norm is None:
        return tuple(gradients)
    scales = (
        max_delta_norm / torch.linalg.vector_norm(d, dim=-1, keepdim=True).clamp(min=max_delta_norm) for d in deltas
    )
    return tuple(gradient * scale for gradient, scale in zip(gradients, scales, strict=True))
