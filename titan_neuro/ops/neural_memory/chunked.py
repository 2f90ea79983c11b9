"""The memory in its dual form: chunk by chunk, without ever storing a weight matrix per token. README.md derives it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from titan_neuro.ops.neural_memory.state import MemoryState
from titan_neuro.ops.neural_memory.tokens import Tokens


def chunked_scan(
    tokens: Tokens, state: MemoryState, chunk_size: int, max_delta_norm: float | None
) -> tuple[Float[Tensor, "batch heads tokens value_dim"], MemoryState]:
    """Read and write the memory chunk by chunk; see `memory_scan` for the arguments."""
    batch_and_heads = tokens.alpha.shape[:2]
    groups = Tokens(*(tensor.flatten(0, 1) for tensor in tokens))
    memory = [torch.stack(pair, dim=2).flatten(0, 1) for pair in zip(state.weights, state.momentum, strict=True)]
    reference = [weight.flatten(0, 1) for weight in state.reference] if state.position else None
    position = state.position
    outputs = []
    pieces = _pieces(tokens.n_tokens, position, chunk_size)
    for piece, (n_chunks, length) in zip(groups.split([n * length for n, length in pieces]), pieces, strict=True):
        chunks = Tokens(*(tensor.reshape(-1, n_chunks, length, *tensor.shape[2:]) for tensor in piece))
        start = _weights(memory) if reference is None else reference
        output, memory = _scan_chunks(chunks, memory, start, max_delta_norm)
        outputs.append(output.flatten(1, 2))
        position = (position + n_chunks * length) % chunk_size
        # A chunk that stays open goes on with the weights it began with.
        reference = start if position else None

    def ungroup(tensor: Tensor) -> Tensor:
        return tensor.reshape(*batch_and_heads, *tensor.shape[1:])

    weights = tuple(ungroup(part[:, 0]) for part in memory)
    momentum = tuple(ungroup(part[:, 1]) for part in memory)
    open_reference = weights if reference is None else tuple(ungroup(part) for part in reference)
    return ungroup(torch.cat(outputs, dim=1)), MemoryState(weights, momentum, open_reference, position)


def _pieces(n_tokens: int, position: int, chunk_size: int) -> list[tuple[int, int]]:
    """Cut a call into (number of chunks, their length): what the open chunk lacks, whole chunks, and the rest."""
    head = min(n_tokens, chunk_size - position) if position else 0
    n_whole, rest = divmod(n_tokens - head, chunk_size)
    return [piece for piece in ((1, head), (n_whole, chunk_size), (1, rest)) if all(piece)]


def _weights(memory: list[Tensor]) -> list[Tensor]:
    return [part[:, 0] for part in memory]


def _scan_chunks(
    chunks: Tokens, memory: list[Tensor], reference: list[Tensor], max_delta_norm: float | None
) -> tuple[Tensor, list[Tensor]]:
    """Scan equally long chunks, ``(groups, chunks, length, ...)``; memory: ``(groups, 2, d_out, d_in)`` a layer.

    Only the writes depend on each other; the coefficients before them and the reads after them take all chunks at once.
    """
    coefficients = _coefficients(chunks)
    steps = zip(
        *(part.unbind(1) for part in (chunks.keys, chunks.values, coefficients.transition, coefficients.write)),
        strict=True,
    )
    starts, written = [], []
    for keys, values, transition, write in steps:
        starts.append(memory)
        writes = _chunk_writes(reference, keys, values, max_delta_norm)
        memory = [_advance(*pair, transition, write) for pair in zip(memory, writes, strict=True)]
        reference = _weights(memory)
        written.append(writes)
    x = chunks.queries
    for layer, start in enumerate(zip(*starts, strict=True)):
        inputs = torch.stack([writes[layer].inputs for writes in written], dim=1) if layer else chunks.keys
        deltas = torch.stack([writes[layer].deltas for writes in written], dim=1)
        x = _read_layer(F.silu(x) if layer else x, torch.stack(start, dim=1), inputs, deltas, coefficients)
    return x, memory


class _Write(NamedTuple):
    """What the tokens of a chunk write into one layer: token ``i`` writes ``deltas[i] inputs[i]^T``."""

    inputs: Tensor
    deltas: Tensor


def _chunk_writes(reference: list[Tensor], keys: Tensor, values: Tensor, max_delta_norm: float | None) -> list[_Write]:
    """Back-propagate the loss of a whole chunk's tokens through the memory, by hand, at the reference weights."""
    inputs: list[Tensor] = [keys]
    results: list[Tensor] = []
    for weight in reference:
        if results:
            inputs.append(F.silu(results[-1]))
        results.append(inputs[-1] @ weight.mT)
    delta = 2 * (results.pop() - values)
    deltas = [delta]
    for weight, result in zip(reversed(reference), reversed(results), strict=False):
        slope = torch.sigmoid(result)
        delta = (delta @ weight) * (slope * (1 + result * (1 - slope)))
        deltas.append(delta)
    return [_Write(a, _clamp(d, max_delta_norm)) for a, d in zip(inputs, reversed(deltas), strict=True)]


def _clamp(delta: Tensor, max_norm: float | None) -> Tensor:
    if max_norm is None:
        return delta
    norm: Tensor = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    return delta * (max_norm / norm.clamp(min=max_norm))


def _advance(memory: Tensor, written: _Write, transition: Tensor, write: Tensor) -> Tensor:
    """Weights and momentum of one layer, ``(groups, 2, d_out, d_in)``, from a chunk's start to its end."""
    carried = torch.bmm(transition, memory.flatten(2)).view_as(memory)
    scaled = write.unsqueeze(-2) * written.deltas.mT.unsqueeze(1)
    return carried - torch.bmm(scaled.flatten(1, 2), written.inputs).view_as(memory)


def _read_layer(x: Tensor, start: Tensor, inputs: Tensor, deltas: Tensor, coefficients: _Coefficients) -> Tensor:
    """``W_t x_t = b_t (W_0 x_t) + m_t (S_0 x_t) - sum_i c[t, i] (a_i . x_t) delta_i`` for all tokens of all chunks."""
    by_weights, by_momentum = (x @ start.flatten(2, 3).mT).chunk(2, dim=-1)
    scores = (x @ inputs.mT) * coefficients.token
    return coefficients.weights * by_weights + coefficients.momentum * by_momentum - scores @ deltas


class _Coefficients(NamedTuple):
    """What the gates of a chunk make of its start and of its tokens; nothing here depends on the memory's content.

    `weights`, `momentum`: ``b_t`` and ``m_t``, ``(groups, chunks, length, 1)``. `token`: ``c[t, i]``, ``(..., length,
    length)``. `transition`, ``(..., 2, 2)``, and `write`, ``(..., 2, length)``: what start and tokens have become, in
    the weights and in the momentum, at the chunk's end.
    """

    weights: Tensor
    momentum: Tensor
    token: Tensor
    transition: Tensor
    write: Tensor


def _coefficients(chunks: Tokens) -> _Coefficients:
    kept, weights = _segment_products(1 - chunks.alpha)
    carried, carried_start = _segment_products(chunks.eta)
    theta = chunks.theta.unsqueeze(-2)
    # What enters the momentum at i is carried on to each j >= i, added to the weights there, and kept from then on.
    token = (kept @ carried) * theta
    momentum = kept @ carried_start
    end, end_momentum, end_carried = (part[..., -1, 0] for part in (weights, momentum, carried_start))
    transition = torch.stack([end, end_momentum, torch.zeros_like(end), end_carried], dim=-1).view(*end.shape, 2, 2)
    write = torch.cat([token[..., -1:, :], carried[..., -1:, :] * theta], dim=-2)
    return _Coefficients(weights, momentum, token, transition, write)


def _segment_products(factors: Float[Tensor, "*chunks length"]) -> tuple[Tensor, Tensor]:
    """All products of consecutive factors of a chunk.

    Differences of cumulative logs would give the same, but not where a factor is 0, and not its derivative there.

    Returns
    -------
    products : torch.Tensor
        ``(..., length, length)``: entry ``[t, j]`` is the product of ``factors[j + 1]`` to ``factors[t]``; lower
        triangular with ones on the diagonal.
    from_start : torch.Tensor
        ``(..., length, 1)``: the product of ``factors[0]`` to ``factors[t]``.
    """
    products, from_start = _SegmentProducts.apply(factors)  # type: ignore[no-untyped-call]
    return products, from_start


class _SegmentProducts(torch.autograd.Function):
    """Own backward, because autograd's for a cumulative product divides by the factors."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor) -> tuple[Tensor, Tensor]:
        length = factors.shape[-1]
        is_after = torch.ones(length, length, dtype=torch.bool, device=factors.device).tril(-1)
        products = torch.where(is_after, factors.unsqueeze(-1), 1.0).cumprod(dim=-2).tril()
        from_start = products[..., :1] * factors[..., :1, None]
        ctx.save_for_backward(products, from_start)
        return products, from_start

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        products, from_start = ctx.saved_tensors
        # Factor k stands in [t, j] for all j < k <= t, between the products [t, k] and [k - 1, j].
        later, later_from_start = (products.mT @ gradient for gradient in gradients)
        inside = torch.sum(later[..., 1:, :] * products[..., :-1, :], dim=-1)
        before = F.pad(from_start[..., :-1, 0], (1, 0), value=1.0)
        gradient: Tensor = later_from_start.squeeze(-1) * before + F.pad(inside, (1, 0))
        return gradient
