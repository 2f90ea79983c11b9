"""Checks of the memory's arguments, before anything is computed."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.memory.state import MemoryState, check_state
from titan_neuro.titans.memory.tokens import Tokens

# Where this environment variable is 1, all values are checked. That takes time, and on a GPU synchronizes each call.
DEBUG_VARIABLE = "TITAN_NEURO_DEBUG"

_RANGES = {"alpha": (0.0, 1.0), "eta": (0.0, 1.0), "theta": (0.0, math.inf)}


def check_options(chunk_size: int, max_delta_norm: float | None) -> None:
    """Raise a `ConfigError` for a chunk size or a clamp out of its range."""
    if chunk_size < 1:
        raise ConfigError(f"chunk_size: expected at least 1 token, found {chunk_size}.")
    if max_delta_norm is not None and not max_delta_norm > 0:
        raise ConfigError(f"max_delta_norm: expected a norm above 0, found {max_delta_norm}.")


def check_call(tokens: Tokens, state: MemoryState, chunk_size: int) -> None:
    """Raise a `MismatchError` that names the first argument that does not fit the others.

    The range of the gates is checked on a CPU and, where `TITAN_NEURO_DEBUG` is 1, on every device. Whether all values
    are finite is checked in that case only.
    """
    check_state(state)
    _check_tokens(tokens, state)
    if not 0 <= state.position < chunk_size:
        raise MismatchError(
            f"state.position: expected 0 to {chunk_size - 1} with chunk_size {chunk_size}, found {state.position}.",
            "The chunk size must be the same for all calls of a stream.",
        )
    # A compiled graph can't branch on values.
    if torch.compiler.is_compiling():
        return
    is_debugging = os.environ.get(DEBUG_VARIABLE) == "1"
    if is_debugging:
        for name, tensor in tokens._asdict().items():
            check_finite(name, tensor)
        for name, tensors in (("weights", state.weights), ("momentum", state.momentum), ("reference", state.reference)):
            for layer, tensor in enumerate(tensors):
                check_finite(f"state.{name}[{layer}]", tensor)
    if is_debugging or tokens.alpha.device.type == "cpu":
        for name, (low, high) in _RANGES.items():
            _check_range(name, getattr(tokens, name), low, high)


def check_queries(queries: Tensor, state: MemoryState) -> None:
    """Raise a `MismatchError` where queries don't fit the state that they read."""
    check_state(state)
    _check_stream("queries", queries, (*_groups(state), "tokens", state.weights[0].shape[-1]), state)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise a `MismatchError` that names the position of the first value that is not finite."""
    is_bad = ~tensor.detach().isfinite()
    if is_bad.any():
        index = tuple(is_bad.nonzero()[0].tolist())
        raise MismatchError(
            f"{name}: expected finite values, found {tensor[index].item()} at {index} and {int(is_bad.sum())} such "
            f"values in all, of {tensor.numel()}."
        )


def _check_range(name: str, gate: Tensor, low: float, high: float) -> None:
    least, greatest = (float(value) for value in gate.detach().aminmax())
    if least < low or greatest > high:
        expected = f"values in [{low:g}, {high:g}]" if math.isfinite(high) else f"values of at least {low:g}"
        raise MismatchError(f"{name}: expected {expected}, found {least:g} to {greatest:g}.")


def _groups(state: MemoryState) -> tuple[int, int]:
    batch, heads = state.weights[0].shape[:2]
    return batch, heads


def _check_tokens(tokens: Tokens, state: MemoryState) -> None:
    batch, heads = _groups(state)
    if not isinstance(tokens.alpha, Tensor) or tokens.alpha.ndim != 3:
        found = tuple(tokens.alpha.shape) if isinstance(tokens.alpha, Tensor) else type(tokens.alpha).__name__
        raise MismatchError(f"alpha: expected shape ({batch}, {heads}, tokens), found {found}.")
    n_tokens = tokens.n_tokens
    if n_tokens < 1:
        raise MismatchError("alpha: expected at least one token, found none.")
    gates = (batch, heads, n_tokens)
    keys = (*gates, state.weights[0].shape[-1])
    values = (*gates, state.weights[-1].shape[-2])
    for (name, tensor), expected in zip(
        tokens._asdict().items(), (keys, keys, values, gates, gates, gates), strict=True
    ):
        _check_stream(name, tensor, expected, state)


def _check_stream(name: str, tensor: Tensor, expected: tuple[int | str, ...], state: MemoryState) -> None:
    if not isinstance(tensor, Tensor):
        raise MismatchError(f"{name}: expected a torch.Tensor, found {type(tensor).__name__}.")
    fits = len(expected) == tensor.ndim and all(
        isinstance(size, str) or size == found for size, found in zip(expected, tensor.shape, strict=True)
    )
    weight = state.weights[0]
    if not fits:
        sizes = ", ".join(map(str, expected))
        raise MismatchError(
            f"{name}: expected shape ({sizes}), found {tuple(tensor.shape)}.",
            f"The state's first layer is (batch, heads, d_out, d_in) = {tuple(weight.shape)}; is it of this model?",
        )
    if tensor.device != weight.device:
        raise MismatchError(f"{name}: expected device {weight.device}, where the state is, found {tensor.device}.")
    if not tensor.is_floating_point() or (tensor.dtype == torch.float64) > (weight.dtype == torch.float64):
        raise MismatchError(
            f"{name}: expected a floating-point type no wider than the state's {weight.dtype}, found {tensor.dtype}.",
            "Make the state of the same type: init_state(weights.double(), ...), or state.to(dtype=torch.float64).",
        )
