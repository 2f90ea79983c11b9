"""What the memory carries from one call to the next."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from titan_neuro.errors import MismatchError
from titan_neuro.titans.stream_state import StreamState

STATE_DTYPES = (torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True)
class MemoryState(StreamState):
    """Memory after some number of tokens, for every item of the batch and every head.

    Attributes
    ----------
    weights, momentum : tuple of torch.Tensor
        ``W_t`` and ``S_t``, one ``(batch, heads, d_out, d_in)`` per layer, float32 or float64.
    reference : tuple of torch.Tensor
        ``W_ref``, the weights before the first token of the chunk that is open; `weights` themselves where none is.
    position : int
        Tokens that the open chunk holds already; 0 where no chunk is open.
    """

    weights: tuple[Float[Tensor, "batch heads _ _"], ...]
    momentum: tuple[Float[Tensor, "batch heads _ _"], ...]
    reference: tuple[Float[Tensor, "batch heads _ _"], ...]
    position: int


def init_state(initial_weights: tuple[Float[Tensor, "heads _ _"], ...], batch_size: int) -> MemoryState:
    """State before the first token: the (learned) initial weights for every item, and no momentum.

    Parameters
    ----------
    initial_weights : tuple of torch.Tensor
        One ``(heads, d_out, d_in)`` per layer. Gradients flow back to them.
    batch_size : int
        Items of the batch, at least 1.

    Returns
    -------
    MemoryState
        float64 where the weights are float64, float32 for every other type.

    Raises
    ------
    MismatchError
        No layers, or layers that don't fit each other.
    """
    dtype = torch.float64 if any(weight.dtype == torch.float64 for weight in initial_weights) else torch.float32
    weights = tuple(weight.to(dtype).expand(batch_size, *weight.shape) for weight in initial_weights)
    state = MemoryState(weights, tuple(torch.zeros_like(weight) for weight in weights), weights, 0)
    check_state(state)
    return state


def check_state(state: MemoryState) -> None:
    """Raise a `MismatchError` that names the first part of `state` that does not fit the rest."""
    if not state.weights:
        raise MismatchError("state.weights: expected a memory of at least one layer, found none.")
    first = state.weights[0]
    for name in ("weights", "momentum", "reference"):
        tensors: tuple[Tensor, ...] = getattr(state, name)
        if len(tensors) != len(state.weights):
            raise MismatchError(f"state.{name}: expected {len(state.weights)} layers, found {len(tensors)}.")
        for layer, (tensor, weight) in enumerate(zip(tensors, state.weights, strict=True)):
            d_in = state.weights[layer - 1].shape[-2] if layer else first.shape[-1]
            expected = (*first.shape[:2], weight.shape[-2], d_in)
            if tuple(tensor.shape) != expected:
                raise MismatchError(
                    f"state.{name}[{layer}]: expected shape {expected}, found {tuple(tensor.shape)}.",
                    "Each layer is (batch, heads, d_out, d_in), and takes in what the layer before it gives out.",
                )
            if tensor.dtype not in STATE_DTYPES or tensor.dtype != first.dtype or tensor.device != first.device:
                raise MismatchError(
                    f"state.{name}[{layer}]: expected {first.dtype} (float32 or float64) on {first.device}, "
                    f"found {tensor.dtype} on {tensor.device}."
                )
