"""Building blocks of the Triton kernels: loads and stores, products, gates, clamp, SiLU, and their derivatives.

Every function is inlined into the kernels. A chunk's streams are tiles with a row for each token, padded with tokens
that write nothing. README.md defines the symbols.
"""

# Triton needs the `else` to infer one return type, and `PRODUCT` is not a constant in Python's sense.
# ruff: noqa: RET505, SIM300

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

# Kernels are not specialized for these: one compilation serves calls of every length.
COUNTS = ("n_tokens", "position", "chunk_size", "n_chunks", "n_slots")

# The interpreter multiplies the bit patterns of bfloat16 operands (triton-lang/triton#11584), so there they are rounded
# and converted to float32.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# `no_type_check` keeps jaxtyping's import hook and mypy away from functions that Triton compiles from their source.


@triton.jit
@no_type_check
def load(pointer, rows, columns, n_rows, n_columns):
    """Load a tile of a row-major matrix in its stored type; 0 outside the matrix."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    return tl.load(pointer + rows[:, None] * n_columns + columns[None, :], mask=inside, other=0.0)


@triton.jit
@no_type_check
def store(pointer, tile, rows, columns, n_rows, n_columns):
    """Store the part of a tile that lies inside a row-major matrix."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    tile = tile.to(pointer.dtype.element_ty)
    tl.store(pointer + rows[:, None] * n_columns + columns[None, :], tile, mask=inside)


@triton.jit
@no_type_check
def load_transposed(pointer, columns, rows, n_columns, n_rows):
    """As `load`; the tile is transposed."""
    inside = (columns[:, None] < n_columns) & (rows[None, :] < n_rows)
    return tl.load(pointer + columns[:, None] + rows[None, :] * n_columns, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store_transposed(pointer, tile, columns, rows, n_columns, n_rows):
    """As `store`; the tile is transposed."""
    inside = (columns[:, None] < n_columns) & (rows[None, :] < n_rows)
    tl.store(pointer + columns[:, None] + rows[None, :] * n_columns, tile, mask=inside)


@triton.jit
@no_type_check
def dot(left, right, PRODUCT: tl.constexpr):
    """Matrix product with its operands rounded to `PRODUCT`, accumulated in float32 or float64."""
    if PRODUCT == tl.float64:
        return tl.dot(left, right, out_dtype=tl.float64)
    elif PRODUCT == tl.float32:
        # Three products of TF32 parts are as precise as float32 (README.md), which tensor cores don't support.
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
    """Product of two C x C matrices of products of gates, in the state's type."""
    return tl.dot(left, right, input_precision="ieee", out_dtype=left.dtype)


@triton.jit
@no_type_check
def sigmoid(x):
    # The one of the two forms whose exponential can't overflow.
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
    """Factor that clamps vectors of the given squared norms to `MAX_NORM`."""
    # A bare number would be rounded to float32, by Triton before 3.9.
    longest = tl.full((), MAX_NORM, square.dtype)
    return longest / tl.sqrt(tl.maximum(square, longest * longest))


@triton.jit
@no_type_check
def clamp_backward(gradient, delta, scale, square, along, MAX_NORM: tl.constexpr):
    """Gradient by `delta` from that by the clamped `delta`; `along` is its product with `delta` over all tiles."""
    if MAX_NORM is not None:
        longest = tl.full((), MAX_NORM * MAX_NORM, square.dtype)
        # A clamped vector has no gradient along itself.
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
    """C x C matrix with row ``k - 1`` moved to row ``k``; zeros in the first row."""
    rows = tl.broadcast_to(tl.arange(0, C)[:, None], [C, C])
    return tl.where(rows > 0, tl.gather(matrix, tl.maximum(rows - 1, 0), axis=0), 0.0)


@triton.jit
@no_type_check
def vector_before(vector, first, C: tl.constexpr):
    """Vector with entry ``k - 1`` moved to ``k``; `first` in the first entry."""
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
    """Coefficients of a chunk's start and tokens: ``A E``, ``theta``, ``b``, ``m``, the products of ``eta`` from the
    start, and the coefficients of the tokens in the last weights and momentum.

    The padding after the chunk's end has ``alpha = eta = theta = 0`` (from `load_gate`): nothing is forgotten, and the
    momentum is 0, so that nothing is added.
    """
    rows = tl.arange(0, C)
    retained, b = segment_products(1.0 - load_gate(alpha, rows, length, STATE), C)
    carried, from_start = segment_products(load_gate(eta, rows, length, STATE), C)
    step = load_gate(theta, rows, length, STATE)
    spread = dot_gates(retained, carried)
    m = tl.sum(retained * from_start[None, :], axis=1)
    write_w = last_row(spread, length, C) * step
    write_s = last_row(carried, length, C) * step
    return spread, step, b, m, from_start, write_w, write_s


@triton.jit
@no_type_check
def streams_of(group, n_tokens, queries, keys, values, alpha, eta, theta, KEY: tl.constexpr, VALUE: tl.constexpr):
    """Pointers of a group's queries, keys, values and gates (or of the gradients by them), from those of all groups."""
    tokens = group * n_tokens
    return (
        queries + tokens * KEY, keys + tokens * KEY, values + tokens * VALUE,
        alpha + tokens, eta + tokens, theta + tokens,
    )  # fmt: skip


@triton.jit
@no_type_check
def load_chunk(
    queries, keys, alpha, eta, theta, length, KEY: tl.constexpr, C: tl.constexpr, K: tl.constexpr, STATE: tl.constexpr
):
    """A chunk's queries, keys and `coefficients`, and the last values of ``b``, ``m`` and the products of ``eta``.

    The pointers are those of the chunk's first token.
    """
    rows = tl.arange(0, C)
    wide = tl.arange(0, K)
    q = load(queries, rows, wide, length, KEY)
    k = load(keys, rows, wide, length, KEY)
    spread, step, b, m, from_start, write_w, write_s = coefficients(alpha, eta, theta, length, C, STATE)
    end_b = last(b, length, C)
    end_m = last(m, length, C)
    end_e = last(from_start, length, C)
    return q, k, spread, step, b, m, from_start, write_w, write_s, end_b, end_m, end_e


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
    """Store the gradient by a chunk's gates, given those by ``c``, ``b``, ``m`` and the values at the chunk's end.

    README.md's matrix product for the derivative by a factor is computed once for all factors ``1 - alpha``: factor
    ``k`` takes row ``k - 1`` of ``spread = A E``, of ``m`` and of ``b`` to row ``k``. Entries above the diagonal of the
    matrices of gradients are arbitrary; they are multiplied by zeros.
    """
    rows = tl.arange(0, C)
    at_end = rows == length - 1
    d_c += tl.where(at_end[:, None], d_write_w[None, :], 0.0)
    d_b += tl.where(at_end, d_end_b, 0.0)
    d_m += tl.where(at_end, d_end_m, 0.0)
    # Computing two cumulative products again costs less than keeping two C x C matrices.
    carried, _ = segment_products(load_gate(eta, rows, length, STATE), C)
    d_step = tl.sum(d_c * spread, axis=0) + d_write_s * last_row(carried, length, C)
    tl.store(d_theta + rows, d_step.to(d_theta.dtype.element_ty), mask=rows < length)

    retained, _ = segment_products(1.0 - load_gate(alpha, rows, length, STATE), C)
    d_carried = dot_gates(tl.trans(retained), d_c * step[None, :])
    d_keep = tl.sum(d_carried * matrix_before(spread, C), axis=1)
    d_from_start = tl.sum(retained * d_m[:, None], axis=0)
    later_b = tl.sum(retained * d_b[:, None], axis=0)
    d_keep += d_from_start * vector_before(m, 0.0, C) + later_b * vector_before(b, 1.0, C)
    tl.store(d_alpha + rows, (-d_keep).to(d_alpha.dtype.element_ty), mask=rows < length)

    d_carried += tl.where(at_end[:, None], (d_write_s * step)[None, :], 0.0)
    d_from_start += tl.where(at_end, d_end_e, 0.0)
    later = dot_gates(tl.trans(carried), d_carried)
    d_carry = tl.sum(later * matrix_before(carried, C), axis=1)
    d_carry += tl.sum(carried * d_from_start[:, None], axis=0) * vector_before(from_start, 1.0, C)
    tl.store(d_eta + rows, d_carry.to(d_eta.dtype.element_ty), mask=rows < length)


@triton.jit
@no_type_check
def write_backward(k, written, write_w, write_s, d_w, d_s, d_k, d_write_w, d_write_s, PRODUCT: tl.constexpr):
    """Back through what the tokens of a chunk wrote into transposed tiles of the last weights and momentum.

    Adds to the gradients by the keys and by the coefficients of the tokens; returns these and that by `written`.
    """
    by_w = dot(k, d_w, PRODUCT)
    by_s = dot(k, d_s, PRODUCT)
    d_write_w -= tl.sum(written * by_w, axis=1)
    d_write_s -= tl.sum(written * by_s, axis=1)
    d_k += dot(-written * write_w[:, None], tl.trans(d_w), PRODUCT)
    d_k += dot(-written * write_s[:, None], tl.trans(d_s), PRODUCT)
    d_written = -write_w[:, None] * by_w - write_s[:, None] * by_s
    return d_k, d_write_w, d_write_s, d_written


@triton.jit
@no_type_check
def start_backward(q, d_read, b, m, end_b, end_m, end_e, d_w, d_s, PRODUCT: tl.constexpr):
    """Gradients by transposed tiles of a chunk's first weights and momentum: from its last ones and from its reads."""
    d_s = end_m * d_w + end_e * d_s
    d_s += dot(tl.trans(q), m[:, None] * d_read, PRODUCT)
    d_w = end_b * d_w
    d_w += dot(tl.trans(q), b[:, None] * d_read, PRODUCT)
    return d_w, d_s
