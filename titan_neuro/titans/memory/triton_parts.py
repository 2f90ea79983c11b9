"""What the programs of `triton.py` are made of: products, gates, clamp, SiLU, and their derivatives.

Every function is inlined into the kernels. A chunk's streams are tiles with a row for each token, filled up with tokens
that write nothing. Symbols are README.md's.
"""

# Triton needs the `else` to see that only one type is returned; and `PRODUCT` is no constant to compare with.
# ruff: noqa: RET505, SIM300

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

# A kernel compiled for one length of call serves all lengths.
COUNTS = ("n_tokens", "position", "chunk_size", "n_chunks", "n_slots")

# The interpreter multiplies the bit patterns of bfloat16 operands (triton-lang/triton#11584): there they are rounded
# and widened again.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# `no_type_check` keeps jaxtyping's import hook and mypy away from functions that Triton compiles from their source.


@triton.jit
@no_type_check
def load(pointer, rows, columns, n_rows, n_columns):
    """Tile of a row-major matrix as it is stored, 0 outside it."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    return tl.load(pointer + rows[:, None] * n_columns + columns[None, :], mask=inside, other=0.0)


@triton.jit
@no_type_check
def store(pointer, tile, rows, columns, n_rows, n_columns):
    """Write what of a tile lies inside a row-major matrix."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    tile = tile.to(pointer.dtype.element_ty)
    tl.store(pointer + rows[:, None] * n_columns + columns[None, :], tile, mask=inside)


@triton.jit
@no_type_check
def load_transposed(pointer, columns, rows, n_columns, n_rows):
    """As `load`, the tile turned."""
    inside = (columns[:, None] < n_columns) & (rows[None, :] < n_rows)
    return tl.load(pointer + columns[:, None] + rows[None, :] * n_columns, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store_transposed(pointer, tile, columns, rows, n_columns, n_rows):
    """As `store`, for a tile that is turned."""
    inside = (columns[:, None] < n_columns) & (rows[None, :] < n_rows)
    tl.store(pointer + columns[:, None] + rows[None, :] * n_columns, tile, mask=inside)


@triton.jit
@no_type_check
def dot(left, right, PRODUCT: tl.constexpr):
    """Matrix product with its operands rounded to `PRODUCT`, accumulated in float32 or float64."""
    if PRODUCT == tl.float64:
        return tl.dot(left, right, out_dtype=tl.float64)
    elif PRODUCT == tl.float32:
        # Three products of TF32 parts are as good as float32's own (README.md), which no tensor core knows.
        return tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="tf32x3")
    elif PRODUCT == tl.float16:
        # TF32 has float16's significant bits and float32's range: a gradient neither vanishes nor overflows.
        return tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="tf32")
    elif INTERPRETED:
        return tl.dot(left.to(PRODUCT).to(tl.float32), right.to(PRODUCT).to(tl.float32))
    else:
        return tl.dot(left.to(PRODUCT), right.to(PRODUCT))


@triton.jit
@no_type_check
def dot_gates(left, right):
    """Product of two C x C matrices of gates' products, in the state's type throughout."""
    return tl.dot(left, right, input_precision="ieee", out_dtype=left.dtype)


@triton.jit
@no_type_check
def sigmoid(x):
    # Of the two forms the one whose exponential can't overflow.
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
@no_type_check
def silu(x):
    return x * sigmoid(x)


@triton.jit
@no_type_check
def silu_slope(x):
    slope = sigmoid(x)
    return slope * (1.0 + x * (1.0 - slope))


@triton.jit
@no_type_check
def silu_curvature(x):
    slope = sigmoid(x)
    return slope * (1.0 - slope) * (2.0 + x * (1.0 - 2.0 * slope))


@triton.jit
@no_type_check
def clamp_scale(square, MAX_NORM: tl.constexpr):
    """What shortens vectors of the given squared lengths to `MAX_NORM`."""
    return MAX_NORM / tl.sqrt(tl.maximum(square, MAX_NORM * MAX_NORM))


@triton.jit
@no_type_check
def clamp_backward(gradient, delta, scale, square, along, MAX_NORM: tl.constexpr):
    """Gradient by `delta` from that by the clamped `delta`; `along`: its product with `delta`, over all tiles."""
    if MAX_NORM is not None:
        longest = MAX_NORM * MAX_NORM
        # A vector that is cut has no gradient along itself.
        radial = tl.where(square >= longest, along / tl.maximum(square, longest), 0.0)
        gradient = scale[:, None] * (gradient - radial[:, None] * delta)
    return gradient


@triton.jit
@no_type_check
def segment_products(factors, C: tl.constexpr):
    """All products of consecutive factors, lower triangular, and the products from the first factor on."""
    rows = tl.arange(0, C)[:, None]
    columns = tl.arange(0, C)[None, :]
    products = tl.cumprod(tl.where(rows > columns, factors[:, None], 1.0), axis=0)
    return tl.where(rows >= columns, products, 0.0), tl.cumprod(factors, axis=0)


@triton.jit
@no_type_check
def matrix_before(matrix, C: tl.constexpr):
    """Row ``k - 1`` in row ``k`` of a C x C matrix, 0 in the first."""
    rows = tl.broadcast_to(tl.arange(0, C)[:, None], [C, C])
    return tl.where(rows > 0, tl.gather(matrix, tl.maximum(rows - 1, 0), axis=0), 0.0)


@triton.jit
@no_type_check
def vector_before(vector, first, C: tl.constexpr):
    """Entry ``k - 1`` in place ``k``, `first` in the first."""
    places = tl.arange(0, C)
    return tl.where(places > 0, tl.gather(vector, tl.maximum(places - 1, 0), axis=0), first)


@triton.jit
@no_type_check
def chunk_bounds(chunk, n_tokens, position, chunk_size):
    """First token and length of a chunk, counted from the chunk that was open when the call began."""
    begin = tl.cast(chunk, tl.int64) * chunk_size - position
    first = tl.maximum(begin, 0)
    return first, (tl.minimum(begin + chunk_size, n_tokens) - first).to(tl.int32)


@triton.jit
@no_type_check
def load_gate(pointer, rows, length, STATE: tl.constexpr):
    return tl.load(pointer + rows, mask=rows < length, other=0.0).to(STATE)


@triton.jit
@no_type_check
def coefficients(alpha, eta, theta, length, C: tl.constexpr, STATE: tl.constexpr):
    """What the gates of a chunk make of its start and of its tokens: ``A E``, ``theta``, ``b``, ``m``, the products of
    ``eta`` from the start, and what tokens have become in the end's weights and momentum.

    Behind the chunk's end nothing is forgotten, but the momentum ends, so that nothing is added either: ``alpha = eta =
    theta = 0``, what `load_gate` fills in.
    """
    rows = tl.arange(0, C)
    kept, b = segment_products(1.0 - load_gate(alpha, rows, length, STATE), C)
    carried, from_start = segment_products(load_gate(eta, rows, length, STATE), C)
    step = load_gate(theta, rows, length, STATE)
    spread = dot_gates(kept, carried)
    m = tl.sum(kept * from_start[None, :], axis=1)
    write_w = last_row(spread, length, C) * step
    write_s = last_row(carried, length, C) * step
    return spread, step, b, m, from_start, write_w, write_s


@triton.jit
@no_type_check
def last_row(matrix, length, C: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, C)[:, None] == length - 1, matrix, 0.0), axis=0)


@triton.jit
@no_type_check
def last(vector, length, C: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, C) == length - 1, vector, 0.0), axis=0)


@triton.jit
@no_type_check
def coefficients_backward(
    alpha, eta, d_alpha, d_eta, d_theta, length, spread, step, b, m, from_start,
    d_c, d_b, d_m, d_write_w, d_write_s, d_end_b, d_end_m, d_end_e, C: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Gradient by a chunk's gates, stored, from that by ``c``, ``b``, ``m`` and what stands at the chunk's end.

    README.md's matrix product for the derivative by a factor is done once for all that is kept: factor ``k`` takes row
    ``k - 1`` of ``spread = A E``, of ``m`` and of ``b`` to row ``k``. Above the diagonal of the matrices of gradients
    stands what no product depends on; it meets zeros.
    """
    rows = tl.arange(0, C)
    at_end = rows == length - 1
    d_c += tl.where(at_end[:, None], d_write_w[None, :], 0.0)
    d_b += tl.where(at_end, d_end_b, 0.0)
    d_m += tl.where(at_end, d_end_m, 0.0)
    # Two cumulative products anew cost less than two C x C matrices held since the chunk's beginning.
    carried, _ = segment_products(load_gate(eta, rows, length, STATE), C)
    d_step = tl.sum(d_c * spread, axis=0) + d_write_s * last_row(carried, length, C)
    tl.store(d_theta + rows, d_step.to(d_theta.dtype.element_ty), mask=rows < length)

    kept, _ = segment_products(1.0 - load_gate(alpha, rows, length, STATE), C)
    d_carried = dot_gates(tl.trans(kept), d_c * step[None, :])
    d_keep = tl.sum(d_carried * matrix_before(spread, C), axis=1)
    d_from_start = tl.sum(kept * d_m[:, None], axis=0)
    later_b = tl.sum(kept * d_b[:, None], axis=0)
    d_keep += d_from_start * vector_before(m, 0.0, C) + later_b * vector_before(b, 1.0, C)
    tl.store(d_alpha + rows, (-d_keep).to(d_alpha.dtype.element_ty), mask=rows < length)

    d_carried += tl.where(at_end[:, None], (d_write_s * step)[None, :], 0.0)
    d_from_start += tl.where(at_end, d_end_e, 0.0)
    later = dot_gates(tl.trans(carried), d_carried)
    d_carry = tl.sum(later * matrix_before(carried, C), axis=1)
    d_carry += tl.sum(carried * d_from_start[:, None], axis=0) * vector_before(from_start, 1.0, C)
    tl.store(d_eta + rows, d_carry.to(d_eta.dtype.element_ty), mask=rows < length)
