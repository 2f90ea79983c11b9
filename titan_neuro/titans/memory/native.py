"""The dual form on a CPU, compiled: what `block.py` does, without a call of torch for every product.

The source is `cpp/scan.cpp`; the package's installation compiles it where there is a compiler.
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
"""Whether this installation has the compiled code."""


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
    """All that a scan is given; `Call` in scan.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("items", "heads", "n_chunks", "length", "depth", "n_threads")),
        *((name, ctypes.c_int64) for name in ("is_double", "instruction_set")),
        ("max_delta_norm", ctypes.c_double),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        *((name, _Streams) for name in (*_TOKENS, "output")),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in _MEMORIES),
        ("trace", ctypes.c_void_p),
        *((f"by_{name}", _Streams) for name in (*_TOKENS, "output")),
        *((f"by_{name}", ctypes.POINTER(ctypes.c_void_p)) for name in _MEMORIES),
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
        """A call without its tensors, for a memory of layers ``(groups, 2, d_out, d_in)``."""
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

    def put(self, **tensors: Tensor | Sequence[Tensor]) -> None:
        """Point at tensors, which must outlive the call."""
        for name, value in tensors.items():
            if isinstance(value, Tensor):
                setattr(self, name, value.data_ptr() if name == "trace" else _Streams.of(value))
            elif value:
                setattr(self, name, _array_type(ctypes.c_void_p, len(value))(*(part.data_ptr() for part in value)))


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled code, loaded.

    Raises
    ------
    TitanNeuroError
        There is none, or it was compiled from another version of its source.
    """
    found = importlib.util.find_spec(_LIBRARY)
    if found is None or found.origin is None:
        raise TitanNeuroError(f"{_LIBRARY} was not compiled when the package was installed.", "Install a C++ compiler.")
    compiled = ctypes.CDLL(found.origin)
    for name in ("call_bytes", "count_instruction_sets", "trace_size"):
        getattr(compiled, f"titan_neuro_{name}").restype = ctypes.c_int64
    if (size := compiled.titan_neuro_call_bytes()) != ctypes.sizeof(_Call):
        raise TitanNeuroError(
            f"{found.origin}: expected calls of {ctypes.sizeof(_Call)} bytes, found {size}: it was compiled from "
            "another version of its source.",
            "Install the package again: `pip install -e .`, in a checkout `make install`.",
        )
    return compiled


@functools.cache
def fastest_instruction_set() -> int:
    """Number of the last of those that the code was compiled for and this processor has."""
    return int(library().titan_neuro_count_instruction_sets()) - 1


def trace_shape(
    queries: Tensor, memory: Sequence[torch.Size], dtype: torch.dtype, length: int, max_delta_norm: float | None
) -> tuple[int, ...]:
    """Shape of what `scan` leaves for `scan_backward`, ``(groups, chunks, size)``."""
    return _trace_shape(_Call.of(queries, memory, dtype, length, max_delta_norm))


def _trace_shape(call: _Call) -> tuple[int, ...]:
    return (call.items * call.heads, call.n_chunks, library().titan_neuro_trace_size(ctypes.byref(call)))


def scan(
    tokens: Tokens,
    memory: list[Tensor],
    reference: list[Tensor],
    length: int,
    max_delta_norm: float | None,
    leaves_trace: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Scan equally long chunks: the output, the memory after it and, where asked for, one tensor for the way back."""
    dtype = memory[0].dtype
    call = _Call.of(tokens.queries, [part.shape for part in memory], dtype, length, max_delta_norm)
    output = torch.empty_like(tokens.values, dtype=tokens.queries.dtype)
    written = _writable(output, dtype)
    after = [part.new_empty(part.shape) for part in memory]
    traces = [memory[0].new_empty(_trace_shape(call))] if leaves_trace else []
    streams, memory, reference = _streams(tokens, dtype), *(_contiguous(parts) for parts in (memory, reference))
    call.put(**streams, output=written, memory=memory, reference=reference, memory_after=after)
    if traces:
        call.put(trace=traces[0])
    _run(library().titan_neuro_scan, call)
    return _copied(written, output), after, traces


def scan_backward(
    by_output: Tensor,
    by_memory: list[Tensor],
    tokens: Tokens,
    reference: list[Tensor],
    trace: Tensor,
    length: int,
    max_delta_norm: float | None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients by the tokens, by the memory before the scan, and by the reference."""
    dtype = by_memory[0].dtype
    call = _Call.of(tokens.queries, [part.shape for part in by_memory], dtype, length, max_delta_norm)
    by_tokens = [torch.empty_like(part) for part in tokens]
    written = [_writable(part, dtype) for part in by_tokens]
    by_before, by_reference = ([part.new_empty(part.shape) for part in parts] for parts in (by_memory, reference))
    streams, by_memory, reference = _streams(tokens, dtype), *(_contiguous(parts) for parts in (by_memory, reference))
    by_output = _stream(by_output, dtype)
    call.put(**streams, reference=reference, trace=trace, by_output=by_output, by_memory_after=by_memory)
    call.put(**{f"by_{name}": part for name, part in zip(_TOKENS, written, strict=True)})
    call.put(by_memory=by_before, by_reference=by_reference)
    _run(library().titan_neuro_scan_backward, call)
    return [_copied(*pair) for pair in zip(written, by_tokens, strict=True)], by_before, by_reference


def _run(function: Callable[[object], int], call: _Call) -> None:
    if function(ctypes.byref(call)):
        raise MemoryError(f"A scan of {call.n_chunks} chunks of {call.length} tokens found no memory to work in.")


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
    """`part` itself where the compiled code can write into it, else one like it."""
    return part if part.dtype == dtype and _has_rows(part) else part.new_empty(part.shape, dtype=dtype)


def _copied(written: Tensor, part: Tensor) -> Tensor:
    return part if written is part else part.copy_(written)
