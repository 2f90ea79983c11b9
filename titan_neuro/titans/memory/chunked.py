"""The memory in its dual form: chunk by chunk, without a weight matrix per token. README.md derives it.

The backward pass is written by hand. Chunks are processed in blocks that fit the processor's cache, so that time and
memory per token don't depend on the length of a call. For `torch.compile` a scan is one operator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from titan_neuro.titans.memory import native
from titan_neuro.titans.memory.block import Block, Trace
from titan_neuro.titans.memory.state import MemoryState
from titan_neuro.titans.memory.tokens import Tokens, cut_at_chunks

# Chunks, times items and heads, that are processed at once.
_BLOCK_ROWS = 32


def chunked_scan(
    tokens: Tokens, state: MemoryState, chunk_size: int, max_delta_norm: float | None, *, is_native: bool = False
) -> tuple[Float[Tensor, "batch heads tokens value_dim"], MemoryState]:
    """Read and write the memory chunk by chunk; see `memory_scan` for the arguments."""
    memory = [torch.stack(pair, dim=2).flatten(0, 1) for pair in zip(state.weights, state.momentum, strict=True)]
    reference = [weight.flatten(0, 1) for weight in state.reference] if state.position else []
    if not is_native:
        # `Block` takes (d_in, d_out); the compiled code transposes by itself.
        memory, reference = ([part.mT for part in parts] for parts in (memory, reference))
    position = state.position
    outputs = []
    pieces = cut_at_chunks(tokens.n_tokens, position, chunk_size)
    for piece, (n_chunks, length) in zip(tokens.split([n * length for n, length in pieces]), pieces, strict=True):
        start = reference or [part[:, 0] for part in memory]
        saves_trace = torch.is_grad_enabled() and any(t.requires_grad for t in (*piece, *memory, *reference))
        output, *rest = _scan(list(piece), memory, reference, length, max_delta_norm, saves_trace, is_native)
        outputs.append(output)
        memory = rest[: len(memory)]
        position = (position + n_chunks * length) % chunk_size
        # A chunk that stays open keeps the weights before its first token as its reference.
        reference = start if position else []
    if not is_native:
        memory, reference = ([part.mT.contiguous() for part in parts] for parts in (memory, reference))
    groups = state.weights[0].shape[:2]
    weights, momentum = zip(*(part.reshape(*groups, *part.shape[1:]).unbind(2) for part in memory), strict=True)
    open_reference = tuple(part.reshape(*groups, *part.shape[1:]) for part in reference) or weights
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output, MemoryState(weights, momentum, open_reference, position)


def _block_slices(queries: Tensor, length: int) -> Iterator[slice]:
    """Slices of a stream, of whole chunks, each of which makes up a block."""
    step = max(1, _BLOCK_ROWS // (queries.shape[0] * queries.shape[1])) * length
    return itertools.starmap(slice, itertools.pairwise([*range(0, queries.shape[2], step), queries.shape[2]]))


@torch.library.custom_op(
    "titan_neuro::chunked_scan",
    mutates_args=(),
    schema="(Tensor[] tokens, Tensor[] memory, Tensor[] reference, int length, float? max_delta_norm, "
    "bool saves_trace, bool is_native) -> Tensor[]",
)
def _scan(
    tokens: list[Tensor],
    memory: list[Tensor],
    reference: list[Tensor],
    length: int,
    max_delta_norm: float | None,
    saves_trace: bool,
    is_native: bool,
) -> list[Tensor]:
    """Scan equally long chunks; return the output, the memory after them and, with `saves_trace`, the trace."""
    streams = Tokens(*tokens)
    if is_native:
        output, memory, traces = native.scan(streams, memory, reference, length, max_delta_norm, saves_trace)
        return [output, *memory, *traces]
    output = torch.empty_like(streams.values, dtype=streams.queries.dtype)
    traces = []
    for part_slice in _block_slices(streams.queries, length):
        block = Block(streams.slice(part_slice), length, memory[0].dtype, max_delta_norm)
        rows, memory, trace = block.forward(memory, reference)
        block.scatter(rows, output[:, :, part_slice])
        reference = []
        if saves_trace:
            traces += itertools.chain(*trace)
    return [output, *memory, *traces]


@_scan.register_fake
def _(tokens: list[Tensor], memory: list[Tensor], reference: list[Tensor], *options: Any) -> list[Tensor]:
    length, max_delta_norm, saves_trace, is_native = options
    streams = Tokens(*tokens)
    output = torch.empty_like(streams.values, dtype=streams.queries.dtype)
    shapes, sizes = list[tuple[int, ...]](), [part.shape for part in memory]
    if saves_trace and is_native:
        shapes = [native.trace_shape(streams.queries, sizes, memory[0].dtype, length, max_delta_norm)]
    elif saves_trace:
        for part_slice in _block_slices(streams.queries, length):
            n_rows = len(memory[0]) * ((part_slice.stop - part_slice.start) // length)
            shapes += Trace.shapes(sizes, n_rows, length)
    traces = [memory[0].new_empty(shape) for shape in shapes]
    return [output, *(part.new_empty(part.shape) for part in memory), *traces]


@torch.library.custom_op(
    "titan_neuro::chunked_scan_backward",
    mutates_args=(),
    schema="(Tensor d_output, Tensor[] d_memory, Tensor[] tokens, Tensor[] reference, Tensor[] traces, int length, "
    "float? max_delta_norm, bool is_native) -> Tensor[]",
)
def _scan_backward(
    d_output: Tensor,
    d_memory: list[Tensor],
    tokens: list[Tensor],
    reference: list[Tensor],
    traces: list[Tensor],
    length: int,
    max_delta_norm: float | None,
    is_native: bool,
) -> list[Tensor]:
    """Return the gradients by the tokens, by the memory before the scan, and by the reference."""
    if is_native:
        parts = native.scan_backward(d_output, d_memory, Tokens(*tokens), reference, traces[0], length, max_delta_norm)
        return list(itertools.chain(*parts))
    streams, d_tokens = Tokens(*tokens), [torch.empty_like(part) for part in tokens]
    slices = _block_slices(streams.queries, length)
    d_reference: list[Tensor] = []
    with torch.autocast(d_output.device.type, enabled=False):
        for part_slice, trace in reversed(list(zip(slices, Trace.group(traces, len(d_memory)), strict=True))):
            block = Block(streams.slice(part_slice), length, d_memory[0].dtype, max_delta_norm, trace.gates)
            d_rows, d_memory, d_reference = block.backward(
                d_output[:, :, part_slice], d_memory, trace, [] if part_slice.start else reference
            )
            for rows, stream in zip(d_rows, d_tokens, strict=True):
                block.scatter(rows, stream[:, :, part_slice])
    return [*d_tokens, *d_memory, *d_reference]


@_scan_backward.register_fake
def _(
    d_output: Tensor, d_memory: list[Tensor], tokens: list[Tensor], reference: list[Tensor], *options: Any
) -> list[Tensor]:
    parts = (*d_memory, *reference)
    return [*(torch.empty_like(part) for part in tokens), *(part.new_empty(part.shape) for part in parts)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tokens, memory, reference, ctx.length, ctx.max_delta_norm, _, ctx.is_native = inputs
    ctx.counts = [len(tokens), len(reference)]
    ctx.memory_shapes = [part.shape for part in memory]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tokens, *reference, output[0], *output[1 + len(memory) :])


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    n_tokens, n_reference = ctx.counts
    # Read once: under activation checkpointing each access would compute the forward pass again.
    saved = ctx.saved_tensors
    tokens, rest = saved[:n_tokens], saved[n_tokens:]
    reference, output, traces = rest[:n_reference], rest[n_reference], rest[n_reference + 1 :]
    d_output, d_memory = gradients[0], gradients[1 : 1 + len(ctx.memory_shapes)]
    gradients = _scan_backward(
        torch.zeros_like(output) if d_output is None else d_output,
        [
            traces[0].new_zeros(shape) if part is None else part
            for part, shape in zip(d_memory, ctx.memory_shapes, strict=True)
        ],
        list(tokens),
        list(reference),
        list(traces),
        ctx.length,
        ctx.max_delta_norm,
        ctx.is_native,
    )
    n_memory = n_tokens + len(d_memory)
    return gradients[:n_tokens], gradients[n_tokens:n_memory], gradients[n_memory:], None, None, None, None


_scan.register_autograd(_differentiate, setup_context=_save)
