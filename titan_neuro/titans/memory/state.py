"""The state that the memory carries from one call to the next."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.stream_state import StreamState

STATE_DTYPES = (torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True)
class MemoryState(StreamState):
    """The memory after some number of tokens, for every item of the batch and every head.

    Attributes
    ----------
    weights, momentum : tuple of torch.Tensor
        ``W_t`` and ``S_t``, one ``(batch, heads, d_out, d_in)`` per layer, float32 or float64.
    reference : tuple of torch.Tensor
        ``W_ref``, the weights before the first token of the open chunk; the same as `weights` where no chunk is open.
    position : int
        Tokens that the open chunk has already; 0 where no chunk is open.
    """

    weights: tuple[Float[Tensor, "batch heads _ _"], ...]
    momentum: tuple[Float[Tensor, "batch heads _ _"], ...]
    reference: tuple[Float[Tensor, "batch heads _ _"], ...]
    position: int


def init_state(initial_weights: tuple[Float[Tensor, "heads _ _"], ...], batch_size: int) -> MemoryState:
    """State before the first token: the (learned) initial weights for every item, zero momentum.

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
    ConfigError
        A batch size below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected at least 1, found {batch_size}.")
    dtype = torch.float64 if any(weight.dtype == torch.float64 for weight in initial_weights) else torch.float32
    weights = tuple(weight.to(dtype).expand(batch_size, *weight.shape) for weight in initial_weights)
    state = MemoryState(weights, tuple(torch.zeros_like(weight) for weight in weights), weights, 0)
    check_state(state)
    return state


def check_state(state: MemoryState) -> None:
    """Raise a `MismatchError` that names the first part of `state` that does not fit the rest."""
    if not isinstance(state, MemoryState):
        raise MismatchError(
            f"state: expected a MemoryState, found {type(state).__name__}.",
            "Pass what init_state or the previous call returned.",
        )
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
                    "Each layer is (batch, heads, d_out, d_in); its d_in is the d_out of the layer before it.",
                )
            if tensor.dtype not in STATE_DTYPES or tensor.dtype != first.dtype or tensor.device != first.device:
                raise MismatchError(
                    f"state.{name}[{layer}]: expected {first.dtype} (float32 or float64) on {first.device}, "
                    f"found {tensor.dtype} on {tensor.device}."
                )
