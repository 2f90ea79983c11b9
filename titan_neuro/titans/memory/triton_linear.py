"""The memory of one layer as two kernels: a program scans all chunks of one head of one item, its state in registers.

The state's rows are divided into tiles, stored as a tuple: a width such as 96 is three tiles of 32, where a single tile
would have to be 128. README.md defines the symbols; ``d_x`` is the loss's gradient by ``x``.
"""

# Triton does not support starred tuples.
# ruff: noqa: RUF005

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from titan_neuro.titans.memory.triton_parts import (
    COUNTS,
    chunk_bounds,
    clamp_backward,
    clamp_scale,
    coefficients_backward,
    dot,
    load,
    load_chunk,
    load_transposed,
    start_backward,
    store,
    store_transposed,
    streams_of,
    write_backward,
)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def linear_forward(
    queries, keys, values, alpha, eta, theta, reference, states, outputs,
    n_tokens, position, chunk_size, n_chunks, n_slots,
    KEY: tl.constexpr, VALUE: tl.constexpr, C: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    IS_OPEN: tl.constexpr, MAX_NORM: tl.constexpr, PRODUCT: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Scan one group's tokens from the state in slot 0 of `states`, ``(groups, slots, 2, VALUE, KEY)``.

    Writes the state after chunk ``i`` to slot ``(i + 1) % n_slots``: after all chunks where there are enough slots,
    otherwise after the last two. C, K, V: sizes of tiles. IS_OPEN: the first chunk has the reference weights
    `reference`.
    """
    group = tl.program_id(0).to(tl.int64)
    SIZE: tl.constexpr = VALUE * KEY
    TILES: tl.constexpr = (VALUE + V - 1) // V
    queries, keys, values, alpha, eta, theta = streams_of(
        group, n_tokens, queries, keys, values, alpha, eta, theta, KEY, VALUE
    )
    outputs += group * n_tokens * VALUE
    reference += group * SIZE
    states += group * n_slots * 2 * SIZE
    rows = tl.arange(0, C)
    wide = tl.arange(0, K)
    narrow = tl.arange(0, V)
    weights = ()
    momentum = ()
    for j in tl.static_range(TILES):
        weights = weights + (load_transposed(states, wide, j * V + narrow, KEY, VALUE),)
        momentum = momentum + (load_transposed(states + SIZE, wide, j * V + narrow, KEY, VALUE),)

    for i in range(n_chunks):
        first, length = chunk_bounds(i, n_tokens, position, chunk_size)
        q, k, spread, step, b, m, _from_start, write_w, write_s, end_b, end_m, end_e = load_chunk(
            queries + first * KEY, keys + first * KEY, alpha + first, eta + first, theta + first, length,
            KEY, C, K, STATE,
        )  # fmt: skip
        scores = -dot(q, tl.trans(k), PRODUCT) * spread * step[None, :]

        deltas = ()
        square = tl.zeros([C], STATE)
        for j in tl.static_range(TILES):
            tile = weights[j]
            if IS_OPEN and i == 0:
                tile = load_transposed(reference, wide, j * V + narrow, KEY, VALUE)
            v = load(values + first * VALUE, rows, j * V + narrow, length, VALUE).to(STATE)
            delta = 2.0 * (dot(k, tile, PRODUCT) - v)
            square += tl.sum(delta * delta, axis=1)
            deltas = deltas + (delta,)

        new_weights = ()
        new_momentum = ()
        for j in tl.static_range(TILES):
            delta = deltas[j]
            if MAX_NORM is not None:
                delta *= clamp_scale(square, MAX_NORM)[:, None]
            y = b[:, None] * dot(q, weights[j], PRODUCT)
            y += m[:, None] * dot(q, momentum[j], PRODUCT)
            y += dot(scores, delta, PRODUCT)
            store(outputs + first * VALUE, y, rows, j * V + narrow, length, VALUE)
            tile = end_b * weights[j] + end_m * momentum[j]
            tile += dot(tl.trans(k), -delta * write_w[:, None], PRODUCT)
            new_weights = new_weights + (tile,)
            tile = end_e * momentum[j]
            tile += dot(tl.trans(k), -delta * write_s[:, None], PRODUCT)
            new_momentum = new_momentum + (tile,)
        weights = new_weights
        momentum = new_momentum
        if i + 1 >= n_chunks - 1 or n_slots > n_chunks:
            slot = states + tl.cast((i + 1) % n_slots, tl.int64) * 2 * SIZE
            for j in tl.static_range(TILES):
                store_transposed(slot, weights[j], wide, j * V + narrow, KEY, VALUE)
                store_transposed(slot + SIZE, momentum[j], wide, j * V + narrow, KEY, VALUE)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def linear_backward(
    queries, keys, values, alpha, eta, theta, reference, states, d_outputs, d_last_reference, d_states,
    d_queries, d_keys, d_values, d_alpha, d_eta, d_theta, d_reference, scratch,
    n_tokens, position, chunk_size, n_chunks,
    KEY: tl.constexpr, VALUE: tl.constexpr, C: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    IS_OPEN: tl.constexpr, MAX_NORM: tl.constexpr, PRODUCT: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Propagate the gradient in slot 0 of `d_states`, ``(groups, 2, 2, VALUE, KEY)``, back through the chunks.

    Writes the gradient by the initial state to slot ``n_chunks % 2``. `d_last_reference`: gradient by the start of the
    last chunk, where the call returned that as the reference, or None. `states`: the starts of all chunks. `scratch`:
    ``(groups, 2, C, VALUE)``.
    """
    group = tl.program_id(0).to(tl.int64)
    SIZE: tl.constexpr = VALUE * KEY
    queries, keys, values, alpha, eta, theta = streams_of(
        group, n_tokens, queries, keys, values, alpha, eta, theta, KEY, VALUE
    )
    d_queries, d_keys, d_values, d_alpha, d_eta, d_theta = streams_of(
        group, n_tokens, d_queries, d_keys, d_values, d_alpha, d_eta, d_theta, KEY, VALUE
    )
    d_outputs += group * n_tokens * VALUE
    states += group * (n_chunks + 1) * 2 * SIZE
    d_states += group * 4 * SIZE
    delta_plane = scratch + group * 2 * C * VALUE
    d_delta_plane = delta_plane + C * VALUE
    rows = tl.arange(0, C)
    wide = tl.arange(0, K)

    for back in range(n_chunks):
        i = n_chunks - 1 - back
        first, length = chunk_bounds(i, n_tokens, position, chunk_size)
        q, k, spread, step, b, m, from_start, write_w, write_s, end_b, end_m, end_e = load_chunk(
            queries + first * KEY, keys + first * KEY, alpha + first, eta + first, theta + first, length,
            KEY, C, K, STATE,
        )  # fmt: skip
        slot = states + tl.cast(i, tl.int64) * 2 * SIZE
        start = slot
        if IS_OPEN and i == 0:
            start = reference + group * SIZE
        old = d_states + back % 2 * 2 * SIZE
        new = d_states + (back + 1) % 2 * 2 * SIZE

        square = tl.zeros([C], STATE)
        for j in range(0, VALUE, V):
            part = j + tl.arange(0, V)
            z = dot(k, load_transposed(start, wide, part, KEY, VALUE), PRODUCT)
            delta = 2.0 * (z - load(values + first * VALUE, rows, part, length, VALUE).to(STATE))
            square += tl.sum(delta * delta, axis=1)
            store(delta_plane, delta, rows, part, C, VALUE)
        scale = square
        if MAX_NORM is not None:
            scale = clamp_scale(square, MAX_NORM)
        tl.debug_barrier()

        c = spread * step[None, :]
        similar = dot(q, tl.trans(k), PRODUCT)
        scores = tl.trans(-similar * c)
        d_scores = tl.zeros([C, C], STATE)
        d_q = tl.zeros([C, K], STATE)
        d_k = tl.zeros([C, K], STATE)
        d_b = tl.zeros([C], STATE)
        d_m = tl.zeros([C], STATE)
        d_write_w = tl.zeros([C], STATE)
        d_write_s = tl.zeros([C], STATE)
        along = tl.zeros([C], STATE)
        d_end_b = tl.sum(along, axis=0)
        d_end_m = d_end_b
        d_end_e = d_end_b
        for j in range(0, VALUE, V):
            part = j + tl.arange(0, V)
            delta = load(delta_plane, rows, part, C, VALUE)
            written = delta
            if MAX_NORM is not None:
                written = delta * scale[:, None]
            # The read.
            d_y = load(d_outputs + first * VALUE, rows, part, length, VALUE)
            tile_w = load_transposed(slot, wide, part, KEY, VALUE)
            tile_s = load_transposed(slot + SIZE, wide, part, KEY, VALUE)
            d_scores += dot(d_y, tl.trans(-written), PRODUCT)
            d_by = dot(d_y, tl.trans(tile_w), PRODUCT)
            d_q += b[:, None] * d_by
            d_b += tl.sum(q * d_by, axis=1)
            d_by = dot(d_y, tl.trans(tile_s), PRODUCT)
            d_q += m[:, None] * d_by
            d_m += tl.sum(q * d_by, axis=1)
            # The write: the last weights and momentum contain what token i wrote.
            d_w = load_transposed(old, wide, part, KEY, VALUE)
            d_s = load_transposed(old + SIZE, wide, part, KEY, VALUE)
            d_end_b += tl.sum(d_w * tile_w)
            d_end_m += tl.sum(d_w * tile_s)
            d_end_e += tl.sum(d_s * tile_s)
            d_k, d_write_w, d_write_s, d_written = write_backward(
                k, written, write_w, write_s, d_w, d_s, d_k, d_write_w, d_write_s, PRODUCT
            )
            d_written += dot(scores, d_y, PRODUCT)
            along += tl.sum(d_written * delta, axis=1)
            store(d_delta_plane, d_written, rows, part, C, VALUE)
            d_w, d_s = start_backward(q, d_y, b, m, end_b, end_m, end_e, d_w, d_s, PRODUCT)
            store_transposed(new, d_w, wide, part, KEY, VALUE)
            store_transposed(new + SIZE, d_s, wide, part, KEY, VALUE)
        tl.debug_barrier()

        # Back through the memory's outputs for the keys, to the reference weights.
        for j in range(0, VALUE, V):
            part = j + tl.arange(0, V)
            delta = load(delta_plane, rows, part, C, VALUE)
            d_written = load(d_delta_plane, rows, part, C, VALUE)
            d_z = 2.0 * clamp_backward(d_written, delta, scale, square, along, MAX_NORM)
            store(d_values + first * VALUE, -d_z, rows, part, length, VALUE)
            d_k += dot(d_z, load(start, part, wide, VALUE, KEY), PRODUCT)
            d_start = dot(tl.trans(k), d_z, PRODUCT)
            if IS_OPEN and i == 0:
                store_transposed(d_reference + group * SIZE, d_start, wide, part, KEY, VALUE)
            else:
                d_start += load_transposed(new, wide, part, KEY, VALUE)
                if d_last_reference is not None and back == 0:
                    d_start += load_transposed(d_last_reference + group * SIZE, wide, part, KEY, VALUE)
                store_transposed(new, d_start, wide, part, KEY, VALUE)

        d_similar = d_scores * c
        d_q += dot(d_similar, k, PRODUCT)
        d_k += dot(tl.trans(d_similar), q, PRODUCT)
        store(d_queries + first * KEY, d_q, rows, wide, length, KEY)
        store(d_keys + first * KEY, d_k, rows, wide, length, KEY)
        coefficients_backward(
            alpha + first, eta + first, d_alpha + first, d_eta + first, d_theta + first, length,
            spread, step, b, m, from_start, d_scores * similar, d_b, d_m, d_write_w, d_write_s,
            d_end_b, d_end_m, d_end_e, C, STATE,
        )  # fmt: skip
        tl.debug_barrier()
