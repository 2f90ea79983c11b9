"""The dual form for a CPU, compiled: the same as `block.py`, without a call of torch for each product.

The source is `cpp/scan.cpp`. Installing the package compiles it where a compiler is found.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from titan_neuro.errors import TitanNeuroError
from titan_neuro.titans.memory.tokens import Tokens

_LIBRARY = "titan_neuro.titans.memory._native"
IS_COMPILED = importlib.util.find_spec(_LIBRARY) is not None
"""Whether the code was compiled when the package was installed."""


class _Streams(ctypes.Structure):
    """A tensor ``(items, heads, tokens, ...)``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("item_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("token_stride", ctypes.c_int64),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> _Streams:
        return cls(tensor.data_ptr(), *tensor.stride()[:3])


@functools.cache
def _array_type(of: type[Any], size: int) -> type[ctypes.Array[Any]]:
    array_type: type[ctypes.Array[Any]] = of * size
    return array_type


_TOKENS = ("queries", "keys", "values", "alpha", "eta", "theta")
_MEMORIES = ("memory", "reference", "memory_after")


class _Call(ctypes.Structure):
    """The arguments of a scan; `Call` in scan.cpp has the same fields."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("items", "heads", "n_chunks", "length", "depth", "n_threads")),
        *((name, ctypes.c_int64) for name in ("is_double", "instruction_set")),
        ("max_delta_norm", ctypes.c_double),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        *((name, _Streams) for name in (*_TOKENS, "output")),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in _MEMORIES),
        ("trace", ctypes.c_void_p),
        *((f"d_{name}", _Streams) for name in (*_TOKENS, "output")),
        *((f"d_{name}", ctypes.POINTER(ctypes.c_void_p)) for name in _MEMORIES),
    )

    @classmethod
    def of(
        cls,
        queries: Tensor,
        memory: Sequence[torch.Size],
        dtype: torch.dtype,
        length: int,
        max_delta_norm: float | None,
    ) -> _Call:
        """Return a call without its tensors, for a memory of layers ``(groups, 2, d_out, d_in)``."""
        widths = [memory[0][3], *(shape[2] for shape in memory)]
        return cls(
            *queries.shape[:2],
            queries.shape[2] // length,
            length,
            len(memory),
            torch.get_num_threads(),
            dtype == torch.float64,
            fastest_instruction_set(),
            max_delta_norm or 0.0,
            _array_type(ctypes.c_int64, len(widths))(*widths),
        )

    def set_tensors(self, **tensors: Tensor | Sequence[Tensor]) -> None:
        """Store pointers to tensors, which must outlive the call."""
        for name, value in tensors.items():
            if isinstance(value, Tensor):
                setattr(self, name, value.data_ptr() if name == "trace" else _Streams.of(value))
            elif value:
                setattr(self, name, _array_type(ctypes.c_void_p, len(value))(*(part.data_ptr() for part in value)))


@functools.cache
def library() -> ctypes.CDLL:
    """Load the compiled code.

    Raises
    ------
    TitanNeuroError
        It was not compiled, or from another version of its source.
    """
    spec = importlib.util.find_spec(_LIBRARY)
    if spec is None or spec.origin is None:
        raise TitanNeuroError(f"{_LIBRARY} was not compiled when the package was installed.", "Install a C++ compiler.")
    compiled = ctypes.CDLL(spec.origin)
    for name in ("call_bytes", "count_instruction_sets", "trace_size"):
        getattr(compiled, f"titan_neuro_{name}").restype = ctypes.c_int64
    if (size := compiled.titan_neuro_call_bytes()) != ctypes.sizeof(_Call):
        raise TitanNeuroError(
            f"{spec.origin}: expected calls of {ctypes.sizeof(_Call)} bytes, found {size}: it was compiled from "
            "another version of its source.",
            "Install the package again: `pip install -e .`, in a checkout `make install`.",
        )
    return compiled


@functools.cache
def fastest_instruction_set() -> int:
    """Index of the fastest instruction set that this processor supports, among those of the compiled code."""
    return int(library().titan_neuro_count_instruction_sets()) - 1


def trace_shape(
    queries: Tensor, memory: Sequence[torch.Size], dtype: torch.dtype, length: int, max_delta_norm: float | None
) -> tuple[int, ...]:
    """Shape of the trace that `scan` saves for `scan_backward`: ``(groups, chunks, size)``."""
    return _trace_shape(_Call.of(queries, memory, dtype, length, max_delta_norm))


def _trace_shape(call: _Call) -> tuple[int, ...]:
    return (call.items * call.heads, call.n_chunks, library().titan_neuro_trace_size(ctypes.byref(call)))


def scan(
    tokens: Tokens,
    memory: list[Tensor],
    reference: list[Tensor],
    length: int,
    max_delta_norm: float | None,
    saves_trace: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Scan equally long chunks; return the output, the memory after them and, with `saves_trace`, the trace."""
    dtype = memory[0].dtype
    call = _Call.of(tokens.queries, [part.shape for part in memory], dtype, length, max_delta_norm)
    output = torch.empty_like(tokens.values, dtype=tokens.queries.dtype)
    written = _writable(output, dtype)
    after = [part.new_empty(part.shape) for part in memory]
    traces = [memory[0].new_empty(_trace_shape(call))] if saves_trace else []
    streams, memory, reference = _streams(tokens, dtype), *(_contiguous(parts) for parts in (memory, reference))
    call.set_tensors(**streams, output=written, memory=memory, reference=reference, memory_after=after)
    if traces:
        call.set_tensors(trace=traces[0])
    _run(library().titan_neuro_scan, call)
    return _copied(written, output), after, traces


def scan_backward(
    d_output: Tensor,
    d_memory: list[Tensor],
    tokens: Tokens,
    reference: list[Tensor],
    trace: Tensor,
    length: int,
    max_delta_norm: float | None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the gradients by the tokens, by the memory before the scan, and by the reference."""
    dtype = d_memory[0].dtype
    call = _Call.of(tokens.queries, [part.shape for part in d_memory], dtype, length, max_delta_norm)
    d_tokens = [torch.empty_like(part) for part in tokens]
    written = [_writable(part, dtype) for part in d_tokens]
    d_before, d_reference = ([part.new_empty(part.shape) for part in parts] for parts in (d_memory, reference))
    streams, d_memory, reference = _streams(tokens, dtype), *(_contiguous(parts) for parts in (d_memory, reference))
    d_output = _stream(d_output, dtype)
    call.set_tensors(**streams, reference=reference, trace=trace, d_output=d_output, d_memory_after=d_memory)
    call.set_tensors(**{f"d_{name}": part for name, part in zip(_TOKENS, written, strict=True)})
    call.set_tensors(d_memory=d_before, d_reference=d_reference)
    _run(library().titan_neuro_scan_backward, call)
    return [_copied(*pair) for pair in zip(written, d_tokens, strict=True)], d_before, d_reference


def _run(function: Callable[[object], int], call: _Call) -> None:
    if function(ctypes.byref(call)):
        raise MemoryError(f"Not enough memory for a scan of {call.n_chunks} chunks of {call.length} tokens.")


def _streams(tokens: Tokens, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: _stream(part, dtype) for name, part in zip(_TOKENS, tokens, strict=True)}


def _stream(part: Tensor, dtype: torch.dtype) -> Tensor:
    part = part.to(dtype)
    return part if _has_rows(part) else part.contiguous()


def _contiguous(parts: list[Tensor]) -> list[Tensor]:
    return [part.contiguous() for part in parts]


def _has_rows(part: Tensor) -> bool:
    return part.ndim < 4 or part.stride(3) == 1


def _writable(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `part` itself where the compiled code can write into it, else a new tensor of its shape."""
    return part if part.dtype == dtype and _has_rows(part) else part.new_empty(part.shape, dtype=dtype)


def _copied(written: Tensor, part: Tensor) -> Tensor:
    return part if written is part else part.copy_(written)
