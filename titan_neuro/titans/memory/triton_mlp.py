"""The memory of two layers as two kernels: a program scans all chunks of one head of one item, in tiles of its units.

The state is too large for a multiprocessor's registers and shared memory. It is kept in global memory, small enough for
the L2 cache, and processed in tiles: hidden unit ``h`` is row ``h`` of the first layer and column ``h`` of the second,
and what depends on all units (the outputs for the keys, the norms of the first layer's deltas, the scores of the second
layer) is a sum over tiles. README.md defines the symbols, with `in` and `out` for the two layers; ``d_x`` is the loss's
gradient by ``x``. A barrier separates a pass over the tiles from an earlier one whose results it loads.
"""

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
    silu,
    silu_curvature,
    silu_slope,
    start_backward,
    store,
    store_transposed,
    streams_of,
    write_backward,
)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def mlp_forward(
    queries, keys, values, alpha, eta, theta, reference_in, reference_out, states_in, states_out, outputs,
    n_tokens, position, chunk_size, n_chunks, n_slots,
    KEY: tl.constexpr, VALUE: tl.constexpr, HIDDEN: tl.constexpr,
    C: tl.constexpr, K: tl.constexpr, V: tl.constexpr, H: tl.constexpr,
    IS_OPEN: tl.constexpr, MAX_NORM: tl.constexpr, PRODUCT: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Scan one group's tokens from the state in slot 0 of `states_in`, ``(groups, slots, 2, HIDDEN, KEY)``, and
    `states_out`, ``(groups, slots, 2, VALUE, HIDDEN)``.

    Chunk ``i`` reads slot ``i % n_slots`` and writes the next one; two slots are enough. C, K, V, H: sizes of tiles.
    IS_OPEN: the first chunk has the reference weights `reference_in`, `reference_out`.
    """
    group = tl.program_id(0).to(tl.int64)
    SIZE_IN: tl.constexpr = HIDDEN * KEY
    SIZE_OUT: tl.constexpr = VALUE * HIDDEN
    queries, keys, values, alpha, eta, theta = streams_of(
        group, n_tokens, queries, keys, values, alpha, eta, theta, KEY, VALUE
    )
    outputs += group * n_tokens * VALUE
    states_in += group * n_slots * 2 * SIZE_IN
    states_out += group * n_slots * 2 * SIZE_OUT
    rows = tl.arange(0, C)
    wide = tl.arange(0, K)
    long = tl.arange(0, V)

    for i in range(n_chunks):
        first, length = chunk_bounds(i, n_tokens, position, chunk_size)
        q, k, spread, step, b, m, _from_start, write_w, write_s, end_b, end_m, end_e = load_chunk(
            queries + first * KEY, keys + first * KEY, alpha + first, eta + first, theta + first, length,
            KEY, C, K, STATE,
        )  # fmt: skip
        c = spread * step[None, :]
        scores = -dot(q, tl.trans(k), PRODUCT) * c
        slot = tl.cast(i % n_slots, tl.int64) * 2
        next_slot = tl.cast((i + 1) % n_slots, tl.int64) * 2
        w_in = states_in + slot * SIZE_IN
        w_out = states_out + slot * SIZE_OUT
        new_in = states_in + next_slot * SIZE_IN
        new_out = states_out + next_slot * SIZE_OUT
        start_in = w_in
        start_out = w_out
        if IS_OPEN and i == 0:
            start_in = reference_in + group * SIZE_IN
            start_out = reference_out + group * SIZE_OUT

        z_out = tl.zeros([C, V], STATE)
        for h in range(0, HIDDEN, H):
            units = h + tl.arange(0, H)
            z_in = dot(k, load_transposed(start_in, wide, units, KEY, HIDDEN), PRODUCT)
            z_out += dot(silu(z_in), tl.trans(load(start_out, long, units, VALUE, HIDDEN)), PRODUCT)
        delta_out = 2.0 * (z_out - load(values + first * VALUE, rows, long, length, VALUE).to(STATE))
        written_out = delta_out
        scale_in = tl.zeros([C], STATE)
        if MAX_NORM is not None:
            for h in range(0, HIDDEN, H):
                units = h + tl.arange(0, H)
                z_in = dot(k, load_transposed(start_in, wide, units, KEY, HIDDEN), PRODUCT)
                delta = dot(delta_out, load(start_out, long, units, VALUE, HIDDEN), PRODUCT) * silu_slope(z_in)
                scale_in += tl.sum(delta * delta, axis=1)
            scale_in = clamp_scale(scale_in, MAX_NORM)
            written_out = delta_out * clamp_scale(tl.sum(delta_out * delta_out, axis=1), MAX_NORM)[:, None]

        y = tl.zeros([C, V], STATE)
        similar_out = tl.zeros([C, C], STATE)
        for h in range(0, HIDDEN, H):
            units = h + tl.arange(0, H)
            z_in = dot(k, load_transposed(start_in, wide, units, KEY, HIDDEN), PRODUCT)
            a = silu(z_in)
            delta = dot(delta_out, load(start_out, long, units, VALUE, HIDDEN), PRODUCT) * silu_slope(z_in)
            if MAX_NORM is not None:
                delta *= scale_in[:, None]
            tile_w = load_transposed(w_in, wide, units, KEY, HIDDEN)
            tile_s = load_transposed(w_in + SIZE_IN, wide, units, KEY, HIDDEN)
            u = b[:, None] * dot(q, tile_w, PRODUCT) + m[:, None] * dot(q, tile_s, PRODUCT)
            u += dot(scores, delta, PRODUCT)
            x = silu(u)
            tile_w = end_b * tile_w + end_m * tile_s
            tile_w += dot(tl.trans(k), -delta * write_w[:, None], PRODUCT)
            tile_s = end_e * tile_s
            tile_s += dot(tl.trans(k), -delta * write_s[:, None], PRODUCT)
            store_transposed(new_in, tile_w, wide, units, KEY, HIDDEN)
            store_transposed(new_in + SIZE_IN, tile_s, wide, units, KEY, HIDDEN)
            tile_w = load(w_out, long, units, VALUE, HIDDEN)
            tile_s = load(w_out + SIZE_OUT, long, units, VALUE, HIDDEN)
            y += b[:, None] * dot(x, tl.trans(tile_w), PRODUCT) + m[:, None] * dot(x, tl.trans(tile_s), PRODUCT)
            similar_out += dot(x, tl.trans(a), PRODUCT)
            tile_w = end_b * tile_w + end_m * tile_s
            tile_w += dot(tl.trans(-written_out * write_w[:, None]), a, PRODUCT)
            tile_s = end_e * tile_s
            tile_s += dot(tl.trans(-written_out * write_s[:, None]), a, PRODUCT)
            store(new_out, tile_w, long, units, VALUE, HIDDEN)
            store(new_out + SIZE_OUT, tile_s, long, units, VALUE, HIDDEN)
        y += dot(-similar_out * c, written_out, PRODUCT)
        store(outputs + first * VALUE, y, rows, long, length, VALUE)
        tl.debug_barrier()


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def mlp_backward(
    queries, keys, values, alpha, eta, theta, reference_in, reference_out, states_in, states_out,
    d_outputs, d_last_reference_in, d_last_reference_out, d_states_in, d_states_out,
    d_queries, d_keys, d_values, d_alpha, d_eta, d_theta, d_reference_in, d_reference_out, scratch,
    n_tokens, position, chunk_size, n_chunks,
    KEY: tl.constexpr, VALUE: tl.constexpr, HIDDEN: tl.constexpr,
    C: tl.constexpr, K: tl.constexpr, V: tl.constexpr, H: tl.constexpr,
    IS_OPEN: tl.constexpr, MAX_NORM: tl.constexpr, PRODUCT: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Propagate the gradient in slot 0 of `d_states_in` and `d_states_out`, two slots each, back through the chunks.

    Writes the gradient by the initial state to slot ``n_chunks % 2``. `d_last_reference_in`, `d_last_reference_out`:
    gradient by the start of the last chunk, where the call returned that as the reference, or None. `states_in`,
    `states_out`: the starts of all chunks. `scratch`: ``(groups, 4, C, HIDDEN)``.
    """
    group = tl.program_id(0).to(tl.int64)
    SIZE_IN: tl.constexpr = HIDDEN * KEY
    SIZE_OUT: tl.constexpr = VALUE * HIDDEN
    queries, keys, values, alpha, eta, theta = streams_of(
        group, n_tokens, queries, keys, values, alpha, eta, theta, KEY, VALUE
    )
    d_queries, d_keys, d_values, d_alpha, d_eta, d_theta = streams_of(
        group, n_tokens, d_queries, d_keys, d_values, d_alpha, d_eta, d_theta, KEY, VALUE
    )
    d_outputs += group * n_tokens * VALUE
    states_in += group * (n_chunks + 1) * 2 * SIZE_IN
    states_out += group * (n_chunks + 1) * 2 * SIZE_OUT
    d_states_in += group * 4 * SIZE_IN
    d_states_out += group * 4 * SIZE_OUT
    # By token and hidden unit: the first layer's outputs for the keys, the error propagated back to their activations,
    # and the gradients by the first layer's written deltas and by its activations.
    z_plane = scratch + group * 4 * C * HIDDEN
    propagated_plane = z_plane + C * HIDDEN
    d_delta_plane = propagated_plane + C * HIDDEN
    d_a_plane = d_delta_plane + C * HIDDEN
    rows = tl.arange(0, C)
    wide = tl.arange(0, K)
    long = tl.arange(0, V)

    for back in range(n_chunks):
        i = n_chunks - 1 - back
        first, length = chunk_bounds(i, n_tokens, position, chunk_size)
        q, k, spread, step, b, m, from_start, write_w, write_s, end_b, end_m, end_e = load_chunk(
            queries + first * KEY, keys + first * KEY, alpha + first, eta + first, theta + first, length,
            KEY, C, K, STATE,
        )  # fmt: skip
        c = spread * step[None, :]
        d_y = load(d_outputs + first * VALUE, rows, long, length, VALUE)
        w_in = states_in + tl.cast(i, tl.int64) * 2 * SIZE_IN
        w_out = states_out + tl.cast(i, tl.int64) * 2 * SIZE_OUT
        start_in = w_in
        start_out = w_out
        if IS_OPEN and i == 0:
            start_in = reference_in + group * SIZE_IN
            start_out = reference_out + group * SIZE_OUT
        old_in = d_states_in + back % 2 * 2 * SIZE_IN
        old_out = d_states_out + back % 2 * 2 * SIZE_OUT
        new_in = d_states_in + (back + 1) % 2 * 2 * SIZE_IN
        new_out = d_states_out + (back + 1) % 2 * 2 * SIZE_OUT

        z_out = tl.zeros([C, V], STATE)
        for h in range(0, HIDDEN, H):
            units = h + tl.arange(0, H)
            z_in = dot(k, load_transposed(start_in, wide, units, KEY, HIDDEN), PRODUCT)
            store(z_plane, z_in, rows, units, C, HIDDEN)
            z_out += dot(silu(z_in), tl.trans(load(start_out, long, units, VALUE, HIDDEN)), PRODUCT)
        delta_out = 2.0 * (z_out - load(values + first * VALUE, rows, long, length, VALUE).to(STATE))
        square_out = tl.sum(delta_out * delta_out, axis=1)
        tl.debug_barrier()

        square_in = tl.zeros([C], STATE)
        for h in range(0, HIDDEN, H):
            units = h + tl.arange(0, H)
            propagated = dot(delta_out, load(start_out, long, units, VALUE, HIDDEN), PRODUCT)
            store(propagated_plane, propagated, rows, units, C, HIDDEN)
            delta = propagated * silu_slope(load(z_plane, rows, units, C, HIDDEN))
            square_in += tl.sum(delta * delta, axis=1)
        scale_in = square_in
        scale_out = square_out
        written_out = delta_out
        if MAX_NORM is not None:
            scale_in = clamp_scale(square_in, MAX_NORM)
            scale_out = clamp_scale(square_out, MAX_NORM)
            written_out = delta_out * scale_out[:, None]
        tl.debug_barrier()

        similar_in = dot(q, tl.trans(k), PRODUCT)
        scores_in = -similar_in * c
        d_scores_out = -dot(d_y, tl.trans(written_out), PRODUCT)
        d_similar_out = d_scores_out * c
        similar_out = tl.zeros([C, C], STATE)
        d_scores_in = tl.zeros([C, C], STATE)
        d_q = tl.zeros([C, K], STATE)
        d_k = tl.zeros([C, K], STATE)
        d_written_out = tl.zeros([C, V], STATE)
        d_b = tl.zeros([C], STATE)
        d_m = tl.zeros([C], STATE)
        d_write_w = tl.zeros([C], STATE)
        d_write_s = tl.zeros([C], STATE)
        along_in = tl.zeros([C], STATE)
        d_end_b = tl.sum(along_in, axis=0)
        d_end_m = d_end_b
        d_end_e = d_end_b
        for h in range(0, HIDDEN, H):
            units = h + tl.arange(0, H)
            z_in = load(z_plane, rows, units, C, HIDDEN)
            a = silu(z_in)
            delta = load(propagated_plane, rows, units, C, HIDDEN) * silu_slope(z_in)
            written = delta
            if MAX_NORM is not None:
                written = delta * scale_in[:, None]
            tile_w = load_transposed(w_in, wide, units, KEY, HIDDEN)
            tile_s = load_transposed(w_in + SIZE_IN, wide, units, KEY, HIDDEN)
            by_w = dot(q, tile_w, PRODUCT)
            by_s = dot(q, tile_s, PRODUCT)
            u = b[:, None] * by_w + m[:, None] * by_s
            u += dot(scores_in, written, PRODUCT)
            x = silu(u)
            similar_out += dot(x, tl.trans(a), PRODUCT)

            # The read of the second layer.
            out_w = load(w_out, long, units, VALUE, HIDDEN)
            out_s = load(w_out + SIZE_OUT, long, units, VALUE, HIDDEN)
            d_by_w = dot(d_y, out_w, PRODUCT)
            d_by_s = dot(d_y, out_s, PRODUCT)
            d_b += tl.sum(x * d_by_w, axis=1)
            d_m += tl.sum(x * d_by_s, axis=1)
            d_x = b[:, None] * d_by_w + m[:, None] * d_by_s
            d_x += dot(d_similar_out, a, PRODUCT)
            # Its write: the last weights and momentum contain what token i wrote.
            d_w = load(old_out, long, units, VALUE, HIDDEN)
            d_s = load(old_out + SIZE_OUT, long, units, VALUE, HIDDEN)
            d_end_b += tl.sum(d_w * out_w)
            d_end_m += tl.sum(d_w * out_s)
            d_end_e += tl.sum(d_s * out_s)
            d_written_out += dot(-write_w[:, None] * a, tl.trans(d_w), PRODUCT)
            d_written_out += dot(-write_s[:, None] * a, tl.trans(d_s), PRODUCT)
            along_w = dot(written_out, d_w, PRODUCT)
            along_s = dot(written_out, d_s, PRODUCT)
            d_write_w -= tl.sum(along_w * a, axis=1)
            d_write_s -= tl.sum(along_s * a, axis=1)
            d_a = -write_w[:, None] * along_w - write_s[:, None] * along_s
            d_a += dot(tl.trans(d_similar_out), x, PRODUCT)
            store(d_a_plane, d_a, rows, units, C, HIDDEN)
            d_s = end_m * d_w + end_e * d_s
            d_s += dot(tl.trans(m[:, None] * d_y), x, PRODUCT)
            d_w = end_b * d_w
            d_w += dot(tl.trans(b[:, None] * d_y), x, PRODUCT)
            store(new_out, d_w, long, units, VALUE, HIDDEN)
            store(new_out + SIZE_OUT, d_s, long, units, VALUE, HIDDEN)

            # The read of the first layer.
            d_u = d_x * silu_slope(u)
            d_b += tl.sum(d_u * by_w, axis=1)
            d_m += tl.sum(d_u * by_s, axis=1)
            d_q += dot(b[:, None] * d_u, tl.trans(tile_w), PRODUCT)
            d_q += dot(m[:, None] * d_u, tl.trans(tile_s), PRODUCT)
            d_scores_in += dot(d_u, tl.trans(-written), PRODUCT)
            # Its write.
            d_w = load_transposed(old_in, wide, units, KEY, HIDDEN)
            d_s = load_transposed(old_in + SIZE_IN, wide, units, KEY, HIDDEN)
            d_end_b += tl.sum(d_w * tile_w)
            d_end_m += tl.sum(d_w * tile_s)
            d_end_e += tl.sum(d_s * tile_s)
            d_k, d_write_w, d_write_s, d_written = write_backward(
                k, written, write_w, write_s, d_w, d_s, d_k, d_write_w, d_write_s, PRODUCT
            )
            d_written += dot(tl.trans(scores_in), d_u, PRODUCT)
            along_in += tl.sum(d_written * delta, axis=1)
            store(d_delta_plane, d_written, rows, units, C, HIDDEN)
            d_w, d_s = start_backward(q, d_u, b, m, end_b, end_m, end_e, d_w, d_s, PRODUCT)
            store_transposed(new_in, d_w, wide, units, KEY, HIDDEN)
            store_transposed(new_in + SIZE_IN, d_s, wide, units, KEY, HIDDEN)
        d_written_out += dot(tl.trans(-similar_out * c), d_y, PRODUCT)
        along_out = tl.sum(d_written_out * delta_out, axis=1)
        d_z_out = clamp_backward(d_written_out, delta_out, scale_out, square_out, along_out, MAX_NORM)
        tl.debug_barrier()

        # Back through the propagation from the second layer's deltas to the first's.
        for h in range(0, HIDDEN, H):
            units = h + tl.arange(0, H)
            slope = silu_slope(load(z_plane, rows, units, C, HIDDEN))
            delta = load(propagated_plane, rows, units, C, HIDDEN) * slope
            d_delta = load(d_delta_plane, rows, units, C, HIDDEN)
            d_delta = clamp_backward(d_delta, delta, scale_in, square_in, along_in, MAX_NORM)
            d_z_out += dot(d_delta * slope, tl.trans(load(start_out, long, units, VALUE, HIDDEN)), PRODUCT)
        d_z_out *= 2.0
        store(d_values + first * VALUE, -d_z_out, rows, long, length, VALUE)

        # Back through the memory's outputs for the keys, to the reference weights.
        for h in range(0, HIDDEN, H):
            units = h + tl.arange(0, H)
            z_in = load(z_plane, rows, units, C, HIDDEN)
            slope = silu_slope(z_in)
            propagated = load(propagated_plane, rows, units, C, HIDDEN)
            d_delta = load(d_delta_plane, rows, units, C, HIDDEN)
            d_delta = clamp_backward(d_delta, propagated * slope, scale_in, square_in, along_in, MAX_NORM)
            tile = load(start_out, long, units, VALUE, HIDDEN)
            d_a = load(d_a_plane, rows, units, C, HIDDEN)
            d_a += dot(d_z_out, tile, PRODUCT)
            d_z_in = d_a * slope + d_delta * propagated * silu_curvature(z_in)
            d_out = dot(tl.trans(d_z_out), silu(z_in), PRODUCT)
            d_out += dot(tl.trans(delta_out), d_delta * slope, PRODUCT)
            d_in = dot(tl.trans(k), d_z_in, PRODUCT)
            d_k += dot(d_z_in, load(start_in, units, wide, HIDDEN, KEY), PRODUCT)
            if IS_OPEN and i == 0:
                store_transposed(d_reference_in + group * SIZE_IN, d_in, wide, units, KEY, HIDDEN)
                store(d_reference_out + group * SIZE_OUT, d_out, long, units, VALUE, HIDDEN)
            else:
                d_in += load_transposed(new_in, wide, units, KEY, HIDDEN)
                d_out += load(new_out, long, units, VALUE, HIDDEN)
                if d_last_reference_in is not None and back == 0:
                    d_in += load_transposed(d_last_reference_in + group * SIZE_IN, wide, units, KEY, HIDDEN)
                    d_out += load(d_last_reference_out + group * SIZE_OUT, long, units, VALUE, HIDDEN)
                store_transposed(new_in, d_in, wide, units, KEY, HIDDEN)
                store(new_out, d_out, long, units, VALUE, HIDDEN)

        d_similar_in = d_scores_in * c
        d_q += dot(d_similar_in, k, PRODUCT)
        d_k += dot(tl.trans(d_similar_in), q, PRODUCT)
        store(d_queries + first * KEY, d_q, rows, wide, length, KEY)
        store(d_keys + first * KEY, d_k, rows, wide, length, KEY)
        coefficients_backward(
            alpha + first, eta + first, d_alpha + first, d_eta + first, d_theta + first, length,
            spread, step, b, m, from_start, d_scores_in * similar_in + d_scores_out * similar_out, d_b, d_m,
            d_write_w, d_write_s, d_end_b, d_end_m, d_end_e, C, STATE,
        )  # fmt: skip
        tl.debug_barrier()
