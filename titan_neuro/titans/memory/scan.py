"""The memory's two operations: writing and reading (`memory_scan`), and reading only (`memory_read`)."""

from __future__ import annotations

import importlib.util
import os

import torch
from jaxtyping import Float
from torch import Tensor

from titan_neuro.errors import ConfigError
from titan_neuro.titans.memory import native
from titan_neuro.titans.memory.backends import Backend
from titan_neuro.titans.memory.checks import check_call, check_options, check_queries
from titan_neuro.titans.memory.chunked import chunked_scan
from titan_neuro.titans.memory.mlp import memory_mlp
from titan_neuro.titans.memory.naive import naive_scan
from titan_neuro.titans.memory.state import MemoryState
from titan_neuro.titans.memory.tokens import Tokens

_BACKENDS = ("auto", "naive", "chunked", "native", "triton")


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
    """Write each token into the memory, and read from the memory that contains it.

    Equations 12 to 16 of Behrouz, Zhong & Mirrokni 2025, arXiv:2501.00663, for each item and head::

        S_t = eta_t S_{t-1} - theta_t grad_W ||M(k_t; W_ref) - v_t||^2
        W_t = (1 - alpha_t) W_{t-1} + S_t
        y_t = M(q_t; W_t)

    with ``W_ref`` the weights before the first token of the chunk that contains ``t``. Chunks are counted from the
    start of the stream: a stream may be cut into calls anywhere, with the same results.

    Parameters
    ----------
    queries, keys, values : torch.Tensor
        ``q_t`` and ``k_t``, ``(batch, heads, tokens, key_dim)``, and ``v_t``, ``(.., value_dim)``; at least one token.
    alpha, eta, theta : torch.Tensor
        Gates of forgetting and momentum, in [0, 1], and step size, at least 0; ``(batch, heads, tokens)``.
    state, chunk_size : MemoryState, int
        From the previous call, or `init_state`; tokens of a chunk: 1 is the exact online rule.
    backend : {"auto", "naive", "chunked", "native", "triton"}
        ``naive`` is the definition, token by token; ``chunked`` the dual form; ``native`` the dual form compiled for a
        CPU; ``triton`` the dual form in one GPU kernel, for one or two layers. ``auto`` selects ``native`` on a CPU
        where it was compiled, ``triton`` on a GPU where it can run and the state is float32, else ``chunked``.
    max_delta_norm : float, optional
        Clamp on the norm of ``delta``, a token's error at a layer's output, when it is written; what is propagated
        further is not clamped. By default there is no clamp. Not in the paper.

    Returns
    -------
    outputs : torch.Tensor
        ``y_t``, ``(batch, heads, tokens, value_dim)``, in the queries' type.
    state : MemoryState
        The memory after the last token.

    Raises
    ------
    MismatchError
        Shapes, types or devices that don't fit each other, gates out of range, a state of another model or chunk size.
        With ``TITAN_NEURO_DEBUG=1`` in the environment also values that are not finite (see `checks`).
    ConfigError
        `chunk_size` or `max_delta_norm` out of range, an unknown backend or one that can't run here.
    """
    check_options(chunk_size, max_delta_norm)
    check_call(tokens := Tokens(queries, keys, values, alpha, eta, theta), state, chunk_size)
    # Autocast would round the products inside to half precision.
    with torch.autocast(queries.device.type, enabled=False):
        return _scan(tokens, state, chunk_size, max_delta_norm, _choose(backend, state, chunk_size))


def _scan(
    tokens: Tokens, state: MemoryState, chunk_size: int, max_delta_norm: float | None, backend: str
) -> tuple[Tensor, MemoryState]:
    if backend == "triton":
        # Imported here: a machine without a GPU need not have Triton.
        from titan_neuro.titans.memory.triton import triton_scan

        return triton_scan(tokens, state, chunk_size, max_delta_norm)
    if backend == "naive":
        return naive_scan(tokens, state, chunk_size, max_delta_norm)
    return chunked_scan(tokens, state, chunk_size, max_delta_norm, is_native=backend == "native")


def _choose(backend: str, state: MemoryState, chunk_size: int) -> str:
    if backend not in _BACKENDS:
        raise ConfigError(f"backend: expected one of {', '.join(_BACKENDS)}, found {backend!r}.")
    weight = state.weights[0]
    if backend == "auto" and weight.device.type == "cpu":
        return "native" if native.IS_COMPILED else "chunked"
    # The search for a module that is not loaded reads the disk: not in every call on a CPU.
    has_triton = backend in ("auto", "triton") and importlib.util.find_spec("triton") is not None
    if backend == "auto":
        if not (has_triton and weight.is_cuda and weight.dtype == torch.float32):
            return "chunked"
        from titan_neuro.titans.memory.triton import kernel_limitation

        return "triton" if kernel_limitation(state, chunk_size) is None else "chunked"
    if backend == "native" and not native.IS_COMPILED:
        raise ConfigError(
            "backend: native was not compiled when the package was installed.",
            "Install a C++ compiler and then the package again, or use backend chunked.",
        )
    if backend == "native" and weight.device.type != "cpu":
        raise ConfigError(f"backend: native needs tensors on a CPU, found {weight.device}.", "Use backend auto.")
    if backend == "triton" and not has_triton:
        raise ConfigError("backend: triton is not installed.", "Install it, or use backend chunked.")
    if backend == "triton" and not weight.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            f"backend: triton needs tensors on a GPU, found {weight.device}.",
            "Use backend auto; or TRITON_INTERPRET=1 to try the kernels, slowly, without a GPU.",
        )
    return backend


def memory_read(
    queries: Float[Tensor, "batch heads tokens key_dim"], state: MemoryState
) -> Float[Tensor, "batch heads tokens value_dim"]:
    """Read the memory without writing: ``M(q; W)`` (equation 15, with the same ``W`` for all queries).

    Parameters
    ----------
    queries : torch.Tensor
        ``(batch, heads, tokens, key_dim)``.
    state : MemoryState
        The memory to read.

    Returns
    -------
    torch.Tensor
        ``(batch, heads, tokens, value_dim)``, in the queries' type.

    Raises
    ------
    MismatchError
        Queries that don't fit the state.
    """
    check_queries(queries, state)
    with torch.autocast(queries.device.type, enabled=False):
        return memory_mlp(queries.to(state.weights[0].dtype), state.weights).to(queries.dtype)
