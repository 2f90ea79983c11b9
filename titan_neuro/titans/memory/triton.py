"""The memory as fused GPU kernels: one program per head and item scans the chunks (README.md, "The fused kernel").

This module launches the kernels and connects them to autograd; `triton_linear` has the kernels for a memory of one
layer, `triton_mlp` those for two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from titan_neuro.errors import ConfigError
from titan_neuro.titans.memory.state import MemoryState
from titan_neuro.titans.memory.tokens import Tokens
from titan_neuro.titans.memory.triton_linear import linear_backward, linear_forward
from titan_neuro.titans.memory.triton_mlp import mlp_backward, mlp_forward

_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
_MAX_DEPTH = 2
# A program keeps several chunk_size x chunk_size matrices and whole rows of weights in 227 KiB of shared memory.
_MAX_CHUNK_SIZE = 64
_MAX_WIDTH = 128


def triton_scan(
    tokens: Tokens, state: MemoryState, chunk_size: int, max_delta_norm: float | None
) -> tuple[Float[Tensor, "batch heads tokens value_dim"], MemoryState]:
    """Read and write the memory in one kernel; see `memory_scan` for the arguments.

    The streams may be of any type no wider than the state's. Where queries, keys and values are all of one half
    precision, the products round their operands to it; the state, its updates and the products of gates have the
    state's type.

    Returns
    -------
    outputs : torch.Tensor
        ``y_t``, in the queries' type.
    state : MemoryState
        The memory after the last token.

    Raises
    ------
    ConfigError
        The call is beyond the kernels; see `kernel_limitation`.
    """
    limitation = kernel_limitation(state, chunk_size)
    if limitation is not None:
        raise ConfigError(f"{limitation} with the triton backend.", 'Use backend="chunked".')
    depth = len(state.weights)
    n_chunks = -(-(state.position + tokens.n_tokens) // chunk_size)
    open_reference = state.reference if state.position else ()
    inputs = (*tokens, *state.weights, *state.momentum, *open_reference)
    position = (state.position + tokens.n_tokens) % chunk_size
    call = _Call(
        depth,
        n_chunks,
        state.position,
        chunk_size,
        max_delta_norm,
        gives_reference=n_chunks > 1 and position > 0,
        is_differentiated=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs),
    )
    outputs, *memory = _Scan.apply(call, *inputs)  # type: ignore[no-untyped-call]
    weights, momentum, last_start = (tuple(memory[i * depth : (i + 1) * depth]) for i in range(3))
    reference = weights
    if position:
        # The reference of the open chunk: the weights before its first token, in this call or an earlier one.
        reference = last_start or open_reference or state.weights
    return outputs, MemoryState(weights, momentum, reference, position)


def kernel_limitation(state: MemoryState, chunk_size: int) -> str | None:
    """Name the property of a call that the kernels don't support, with their limit; None where they support all."""
    depth = len(state.weights)
    if depth > _MAX_DEPTH:
        return f"depth: expected 1 or {_MAX_DEPTH} layers, found {depth},"
    if chunk_size > _MAX_CHUNK_SIZE:
        return f"chunk_size: expected at most {_MAX_CHUNK_SIZE} tokens, found {chunk_size},"
    width = max(state.weights[0].shape[-1], state.weights[-1].shape[-2])
    if width > _MAX_WIDTH:
        return f"keys, values: expected a width of at most {_MAX_WIDTH}, found {width},"
    return None


class _Call(NamedTuple):
    """Arguments of a scan other than tensors."""

    depth: int
    n_chunks: int
    position: int
    chunk_size: int
    max_delta_norm: float | None
    gives_reference: bool
    is_differentiated: bool


class _Scan(torch.autograd.Function):
    """The scan for autograd.

    Inputs are six streams, weights, momentum and, in an open chunk, the reference; results are the outputs, weights,
    momentum and, where the last of several chunks stays open, the weights at its start.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor) -> tuple[Tensor, ...]:
        depth = call.depth
        streams = [tensor.contiguous() for tensor in inputs[:6]]
        weights, momentum, reference = (inputs[6 + i * depth : 6 + (i + 1) * depth] for i in range(3))
        reference = tuple(tensor.contiguous() for tensor in reference)
        # The backward pass needs the state at each chunk's start; without it two slots alternate.
        n_slots = call.n_chunks + 1 if call.is_differentiated else 2
        states = _slots(weights, momentum, n_slots)
        outputs = torch.empty_like(streams[2], dtype=streams[0].dtype)
        _launch(_FORWARD[depth], call, streams, [*(reference or states), *states, outputs], states, n_slots)
        if call.is_differentiated:
            ctx.call = call
            ctx.save_for_backward(*streams, *reference, *states)
        results = [outputs, *_parts(states, call.n_chunks % n_slots)]
        if call.gives_reference:
            results += _parts(states, (call.n_chunks - 1) % n_slots)[:depth]
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, *d_memory: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        depth = call.depth
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        streams, reference, states = saved[:6], saved[6:-depth], saved[-depth:]
        d_weights, d_momentum, d_last_reference = (d_memory[i * depth : (i + 1) * depth] for i in range(3))
        d_states = _slots(d_weights, d_momentum, 2)
        d_streams = [torch.empty_like(stream) for stream in streams]
        d_reference = [torch.empty_like(tensor) for tensor in reference]
        tensors: list[Tensor | None] = [*(reference or states), *states, d_outputs.contiguous()]
        tensors += [tensor.contiguous() for tensor in d_last_reference] or [None] * depth
        tensors += [*d_states, *d_streams, *(d_reference or states)]
        # By token and unit of the first layer: two planes per layer.
        units = states[0].shape[-2]
        tensors.append(states[0].new_empty(*states[0].shape[:2], 2 * depth, _tile(call, streams[3]), units))
        _launch(_BACKWARD[depth], call, streams, tensors, states, None)
        return None, *d_streams, *_parts(d_states, call.n_chunks % 2), *d_reference


_FORWARD = {1: linear_forward, 2: mlp_forward}
_BACKWARD = {1: linear_backward, 2: mlp_backward}


def _slots(weights: Sequence[Tensor], momentum: Sequence[Tensor], n_slots: int) -> list[Tensor]:
    """Allocate `n_slots` states, ``(batch, heads, slots, 2, d_out, d_in)`` per layer; the first gets the values."""
    states = []
    for pair in zip(weights, momentum, strict=True):
        batch, heads, *matrix = pair[0].shape
        states.append(pair[0].new_empty(batch, heads, n_slots, 2, *matrix))
        torch.stack(pair, dim=2, out=states[-1][:, :, 0])
    return states


def _parts(states: Sequence[Tensor], slot: int) -> list[Tensor]:
    """Copy weights and momentum of a slot, layer by layer; views would keep all slots in memory."""
    return [layer[:, :, slot, part].clone() for part in range(2) for layer in states]


def _launch(
    kernel: Any,
    call: _Call,
    streams: Sequence[Tensor],
    tensors: Sequence[Tensor | None],
    states: Sequence[Tensor],
    n_slots: int | None,
) -> None:
    """Run one program for each head of each item."""
    batch, heads, n_tokens = streams[3].shape
    counts = [n_tokens, call.position, call.chunk_size, call.n_chunks] + ([] if n_slots is None else [n_slots])
    # The streams' device need not be the current one; on a CPU, in the interpreter, there is none.
    with torch.cuda.device_of(streams[0]):  # type: ignore[no-untyped-call]
        kernel[batch * heads,](*streams, *tensors, *counts, **_constants(call, streams, states), **_OPTIONS)


# Compiled for an H200, eight warps spill least: four have half the registers, sixteen share the same ones. No software
# pipelining: it could load a tile of the state before the barrier after its store. Fusion is set to silence a warning.
_OPTIONS = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}


def _constants(call: _Call, streams: Sequence[Tensor], states: Sequence[Tensor]) -> dict[str, Any]:
    """Return the constants that a kernel is compiled for."""
    queries, keys, values, *gates = streams
    key_dim, value_dim, dtype = keys.shape[-1], values.shape[-1], states[0].dtype
    constants = {
        "KEY": key_dim,
        "VALUE": value_dim,
        "C": _tile(call, gates[0]),
        "K": _power(key_dim),
        "V": _power(value_dim) if call.depth == 2 else min(_power(value_dim), 32),
        "IS_OPEN": call.position > 0,
        "MAX_NORM": call.max_delta_norm,
        "PRODUCT": _TYPES[_product_type(queries.dtype, keys.dtype, values.dtype, dtype)],
        "STATE": _TYPES[dtype],
    }
    if call.depth == 2:
        hidden = states[0].shape[-2]
        constants.update(HIDDEN=hidden, H=min(_power(hidden), 32))
    return constants


def _tile(call: _Call, gate: Tensor) -> int:
    """Rows of a tile of tokens: no more than a short call, such as a single token, needs."""
    return _power(min(call.chunk_size, gate.shape[-1]))


def _power(size: int) -> int:
    """Smallest size of a tile of at least `size`: a power of 2, at least 16 as matrix products require."""
    return max(16, 1 << (size - 1).bit_length())


def _product_type(queries: torch.dtype, keys: torch.dtype, values: torch.dtype, state: torch.dtype) -> torch.dtype:
    """Type of the products' operands: that of the streams if it is one half precision, otherwise the state's."""
    is_half = queries == keys == values and queries.itemsize == 2
    return queries if is_half and state == torch.float32 else state
