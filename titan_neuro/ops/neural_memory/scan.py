"""The two calls that the rest of the project makes: read and write, and read alone."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.ops.neural_memory.chunked import chunked_scan
from titan_neuro.ops.neural_memory.mlp import memory_mlp
from titan_neuro.ops.neural_memory.naive import naive_scan
from titan_neuro.ops.neural_memory.state import MemoryState, check_state
from titan_neuro.ops.neural_memory.tokens import Tokens

Backend = Literal["auto", "naive", "chunked"]

_SCANS = {"auto": chunked_scan, "naive": naive_scan, "chunked": chunked_scan}


def memory_scan(
    queries: Float[Tensor, "batch heads tokens key_dim"],
    keys: Float[Tensor, "batch heads tokens key_dim"],
    values: Float[Tensor, "batch heads tokens value_dim"],
    alpha: Float[Tensor, "batch heads tokens"],
    eta: Float[Tensor, "batch heads tokens"],
    theta: Float[Tensor, "batch heads tokens"],
    state: MemoryState,
    *,
    chunk_size: int,
    backend: Backend = "auto",
    max_delta_norm: float | None = None,
) -> tuple[Float[Tensor, "batch heads tokens value_dim"], MemoryState]:
    """Write each token into the memory and read from the memory that already holds it.

    Per item and head (Behrouz, Zhong & Mirrokni 2025, arXiv:2501.00663, equations 12 to 16)::

        S_t = eta_t S_{t-1} - theta_t grad_W ||M(k_t; W_ref) - v_t||^2
        W_t = (1 - alpha_t) W_{t-1} + S_t
        y_t = M(q_t; W_t)

    with ``W_ref`` the weights before the first token of the chunk that holds ``t``. Chunks are counted from the start
    of the stream, so a stream cut into several calls, anywhere, gives the numbers of one call.

    Parameters
    ----------
    queries, keys : torch.Tensor
        ``q_t`` and ``k_t``, ``(batch, heads, tokens, key_dim)``; at least one token.
    values : torch.Tensor
        ``v_t``, ``(batch, heads, tokens, value_dim)``.
    alpha, eta, theta : torch.Tensor
        Gates of forgetting and momentum, in [0, 1], and step size, at least 0; ``(batch, heads, tokens)``.
    state : MemoryState
        What the stream has left so far; at its start what `init_state` gives.
    chunk_size : int
        Tokens of a chunk; 1 is the exact online rule.
    backend : {"auto", "naive", "chunked"}
        ``naive`` is the definition, token by token; ``chunked`` the dual form. ``auto`` takes the fastest that fits.
    max_delta_norm : float, optional
        Longest ``delta``: each token's error, propagated back to a layer's result, is shortened to this length before
        it is written (after it has been propagated on to the layer before). By default nothing is shortened. Not in
        the paper.

    Returns
    -------
    outputs : torch.Tensor
        ``y_t``, ``(batch, heads, tokens, value_dim)``, in the queries' type.
    state : MemoryState
        The memory after the last token.

    Raises
    ------
    MismatchError
        Shapes, types or devices that don't fit each other, or a state of another model or chunk size.
    ConfigError
        A chunk size below 1, a longest delta that is not above 0, an unknown backend.
    """
    _check_options(chunk_size, backend, max_delta_norm)
    check_state(state)
    tokens = Tokens(queries, keys, values, alpha, eta, theta)
    _check_tokens(tokens, state)
    if not 0 <= state.position < chunk_size:
        raise MismatchError(
            f"state.position: expected 0 to {chunk_size - 1} with chunk_size {chunk_size}, found {state.position}.",
            "A stream keeps its chunk size from its first token to its last.",
        )
    dtype = state.weights[0].dtype
    # Autocast would quietly round the products inside to half precision.
    with torch.autocast(queries.device.type, enabled=False):
        scan = _SCANS[backend]
        outputs, state = scan(Tokens(*(tensor.to(dtype) for tensor in tokens)), state, chunk_size, max_delta_norm)
    return outputs.to(queries.dtype), state


def memory_read(
    queries: Float[Tensor, "batch heads tokens key_dim"], state: MemoryState
) -> Float[Tensor, "batch heads tokens value_dim"]:
    """Read the memory as it stands, writing nothing: ``M(q; W)`` (equation 15, with the same ``W`` for all queries).

    Parameters
    ----------
    queries : torch.Tensor
        ``(batch, heads, tokens, key_dim)``.
    state : MemoryState
        The memory that is read.

    Returns
    -------
    torch.Tensor
        ``(batch, heads, tokens, value_dim)``, in the queries' type.

    Raises
    ------
    MismatchError
        Queries that don't fit the state.
    """
    check_state(state)
    _check_stream("queries", queries, (*_groups(state), "tokens", state.weights[0].shape[-1]), state)
    with torch.autocast(queries.device.type, enabled=False):
        return memory_mlp(queries.to(state.weights[0].dtype), state.weights).to(queries.dtype)


def _groups(state: MemoryState) -> tuple[int, int]:
    batch, heads = state.weights[0].shape[:2]
    return batch, heads


def _check_options(chunk_size: int, backend: str, max_delta_norm: float | None) -> None:
    if chunk_size < 1:
        raise ConfigError(f"chunk_size: expected at least 1 token, found {chunk_size}.")
    if backend not in _SCANS:
        raise ConfigError(f"backend: expected one of {', '.join(_SCANS)}, found {backend!r}.")
    if max_delta_norm is not None and not max_delta_norm > 0:
        raise ConfigError(f"max_delta_norm: expected a length above 0, found {max_delta_norm}.")


def _check_tokens(tokens: Tokens, state: MemoryState) -> None:
    n_tokens = tokens.n_tokens
    if n_tokens < 1:
        raise MismatchError("alpha: expected at least one token, found none.")
    gates = (*_groups(state), n_tokens)
    keys = (*gates, state.weights[0].shape[-1])
    values = (*gates, state.weights[-1].shape[-2])
    for (name, tensor), expected in zip(
        tokens._asdict().items(), (keys, keys, values, gates, gates, gates), strict=True
    ):
        _check_stream(name, tensor, expected, state)


def _check_stream(name: str, tensor: Tensor, expected: tuple[int | str, ...], state: MemoryState) -> None:
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
