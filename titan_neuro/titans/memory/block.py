"""A block of chunks of the dual form, there and back. README.md derives every line of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from titan_neuro.titans.memory.gates import Coefficients, GateProducts
from titan_neuro.titans.memory.tokens import Tokens

# Weights over momentum, transposed, one ``(groups, 2, d_in, d_out)`` a layer; a group is one head of one item. So what
# is multiplied by both comes as one product.
Memory: TypeAlias = list[Tensor]


class Trace(NamedTuple):
    """What the way there leaves for the way back; a list has one tensor a layer.

    Attributes
    ----------
    starts : list of torch.Tensor
        The memory at each chunk's start, ``(rows, 2, d_in, d_out)``.
    errors : list of torch.Tensor
        The loss's gradient by what each layer gives out, for the keys at the reference weights, ``(rows, length,
        d_out)``.
    results : list of torch.Tensor
        What each layer but the last made of the keys, before the SiLU, at the reference weights.
    scores : list of torch.Tensor
        Products of what a layer was asked for with what was written into it, ``(rows, length, length)``.
    reads : list of torch.Tensor
        What each layer but the last made of the queries, before the SiLU.
    gates : list of torch.Tensor
        `GateProducts.kept_for_backward`.
    """

    starts: list[Tensor]
    errors: list[Tensor]
    results: list[Tensor]
    scores: list[Tensor]
    reads: list[Tensor]
    gates: list[Tensor]

    @staticmethod
    def shapes(memory: list[torch.Size], n_rows: int, length: int) -> list[tuple[int, ...]]:
        """Shapes of all tensors, for a memory of layers ``(groups, 2, d_in, d_out)``."""
        outs = [(n_rows, length, shape[3]) for shape in memory]
        square = (n_rows, length, length)
        gates = [(length, n_rows), (length, n_rows, length), (length, n_rows, length)]
        starts = [(n_rows, *shape[1:]) for shape in memory]
        return [*starts, *outs, *outs[:-1], *(square for _ in memory), *outs[:-1], *gates]

    @staticmethod
    def sort(tensors: list[Tensor], depth: int) -> Iterator[Trace]:
        """Make traces of the tensors of several, one after the other."""
        remaining = iter(tensors)
        for _ in range(len(tensors) // (5 * depth + 1)):
            counts = (depth, depth, depth - 1, depth, depth - 1, 3)
            yield Trace(*(list(itertools.islice(remaining, count)) for count in counts))


class Block:
    """Equally long chunks that follow each other, all groups side by side; a row is one chunk of one group.

    Parameters
    ----------
    tokens : Tokens
        The stretch of the streams, ``(batch, heads, tokens, ...)``.
    length : int
        Tokens of a chunk.
    dtype : torch.dtype
        The state's.
    max_delta_norm : float or None
        See `memory_scan`.
    kept_gates : list of torch.Tensor, optional
        Of the block's `Trace`, on the way back.
    """

    def __init__(
        self,
        tokens: Tokens,
        length: int,
        dtype: torch.dtype,
        max_delta_norm: float | None,
        kept_gates: list[Tensor] | None = None,
    ) -> None:
        self.n_chunks, self.n_groups = tokens.n_tokens // length, tokens.alpha.shape[0] * tokens.alpha.shape[1]
        self.length, self.dtype, self.max_delta_norm = length, dtype, max_delta_norm
        self.queries, self.keys, self.values = (self.rows(part) for part in tokens[:3])
        alpha, eta, theta = (self.rows(gate) for gate in tokens[3:])
        self.gates = GateProducts.of(alpha, eta, theta, kept_gates)
        self.coefficients = self.gates.coefficients()
        self.shares = self.coefficients.shares.unsqueeze(-1)
        self.write = self.coefficients.write.unsqueeze(-1)
        self.transition = self.chunks(self.coefficients.transition)

    def rows(self, stream: Tensor) -> Tensor:
        """``(batch, heads, tokens, ...)`` to ``(rows, length, ...)``, contiguous, in the state's type."""
        chunks = self._split(stream).to(self.dtype).contiguous()
        return chunks.view(-1, self.length, *stream.shape[3:])

    def put(self, rows: Tensor, stream: Tensor) -> None:
        """Copy ``(rows, length, ...)`` to their place in ``(batch, heads, tokens, ...)``."""
        chunks = self._split(stream)
        chunks.copy_(rows.reshape(chunks.shape))

    def _split(self, stream: Tensor) -> Tensor:
        batch, heads, _, *width = stream.shape
        return stream.view(batch, heads, self.n_chunks, self.length, *width).movedim(2, 0)

    def chunks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """``(rows, ...)`` chunk by chunk, ``(groups, ...)`` each."""
        return rows.view(self.n_chunks, self.n_groups, *rows.shape[1:]).unbind(0)

    def forward(self, memory: Memory, reference: list[Tensor]) -> tuple[Tensor, Memory, Trace]:
        """Write chunk by chunk, then read for all of them at once.

        Parameters
        ----------
        memory : list of torch.Tensor
            The memory before the block.
        reference : list of torch.Tensor
            The first chunk's reference weights, ``(groups, d_in, d_out)`` a layer; empty where they are its start.

        Returns
        -------
        outputs : torch.Tensor
            ``(rows, length, value_dim)``.
        memory : list of torch.Tensor
            The memory after the block.
        trace : Trace
        """
        buffers = [part.new_empty(self.n_chunks + 1, *part.shape) for part in memory]
        for buffer, part in zip(buffers, memory, strict=True):
            buffer[0] = part
        starts = [buffer.unbind(0) for buffer in buffers]
        shared_keys = self.chunks((self.keys.unsqueeze(2) * self.write).flatten(2))
        write, written = self.chunks(self.write), []
        for n, (keys, values) in enumerate(zip(self.chunks(self.keys), self.chunks(self.values), strict=True)):
            weights = [start[n][:, 0] for start in starts] if n or not reference else reference
            inputs, results, errors = _propagate(weights, keys, values)
            deltas = [_clamp(error, self.max_delta_norm) for error in errors]
            for layer, (start, delta) in enumerate(zip(starts, deltas, strict=True)):
                shared = (inputs[layer - 1].unsqueeze(2) * write[n]).flatten(2) if layer else shared_keys[n]
                torch.bmm(self.transition[n], start[n].flatten(2), out=start[n + 1].flatten(2))
                start[n + 1].flatten(1, 2).baddbmm_(shared.mT, delta, alpha=-1)
            written.append((inputs, results, errors, deltas))
        all_inputs, results, errors, deltas = (
            [torch.cat(parts) for parts in zip(*layers, strict=True)] for layers in zip(*written, strict=True)
        )
        flat_starts = [buffer[:-1].flatten(0, 1) for buffer in buffers]
        reads, scores = list[Tensor](), list[Tensor]()
        for layer, (flat_start, delta) in enumerate(zip(flat_starts, deltas, strict=True)):
            x, a = (F.silu(reads[-1]), all_inputs[layer - 1]) if layer else (self.queries, self.keys)
            result, score = self._read(x, flat_start, a, delta)
            reads.append(result)
            scores.append(score)
        trace = Trace(flat_starts, errors, results, scores, reads[:-1], self.gates.kept_for_backward())
        return reads[-1], [start[-1].clone() for start in starts], trace

    def _read(self, x: Tensor, start: Tensor, inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """``W_t x_t = b_t W_0 x_t + m_t S_0 x_t - sum_i c[t, i] (a_i . x_t) delta_i``, and ``a_i . x_t``."""
        result = torch.bmm((x.unsqueeze(2) * self.shares).flatten(2), start.flatten(1, 2))
        scores = torch.bmm(x, inputs.mT)
        return result.baddbmm_(scores * self.coefficients.token, delta, alpha=-1), scores

    def backward(
        self, by_output: Tensor, by_memory: Memory, trace: Trace, reference: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], Memory, list[Tensor]]:
        """Gradients of what `forward` was given.

        Parameters
        ----------
        by_output : torch.Tensor
            Gradient by the outputs, ``(batch, heads, tokens, value_dim)``.
        by_memory : list of torch.Tensor
            Gradient by the memory after the block.
        trace, reference
            As `forward` returned and was given.

        Returns
        -------
        by_tokens : tuple of torch.Tensor
            In the order of `Tokens`, ``(rows, length, ...)``.
        by_memory : list of torch.Tensor
            Gradient by the memory before the block.
        by_reference : list of torch.Tensor
            Gradient by the first chunk's reference; empty where it has none of its own.
        """
        inputs = [self.keys, *(F.silu(result) for result in trace.results)]
        deltas = [_clamp(error, self.max_delta_norm) for error in trace.errors]
        reading = _ReadGradient(self, self.rows(by_output), by_memory, trace, inputs, deltas)
        writing = _WriteGradient(self, reading, trace, inputs, deltas, reference)
        for n in reversed(range(self.n_chunks)):
            writing.step(n)
        by_write, by_transition = (
            torch.zeros_like(self.coefficients.write),
            torch.zeros_like(self.coefficients.transition),
        )
        for a, start, by_starts, shared in zip(inputs, trace.starts, reading.by_memory, writing.by_shared, strict=True):
            by_transition.baddbmm_(by_starts[1:].flatten(0, 1).flatten(2), start.flatten(2).mT)
            by_write -= (shared.view(*shared.shape[:2], 2, -1) * a.unsqueeze(2)).sum(-1)
        by_gates = self.gates.backward(Coefficients(reading.by_shares, reading.by_token, by_transition, by_write))
        by_keys, by_values = writing.tokens()
        return (
            (reading.by_queries, by_keys, by_values, *by_gates),
            [x[0] for x in reading.by_memory],
            writing.by_reference,
        )


class _ReadGradient:
    """The way back through the reads of all rows.

    Attributes
    ----------
    by_queries, by_shares, by_token : torch.Tensor
        Gradients by the queries and by the coefficients.
    by_memory : list of torch.Tensor
        Gradient by the memory at each chunk's start, as far as the reads go, ``(chunks + 1, groups, 2, d_in, d_out)``;
        last comes the one by the memory after the block.
    minus_by_inputs, minus_by_deltas : list of torch.Tensor
        Gradients by what the tokens write, with the sign turned, ``(rows, length, ...)``.
    """

    def __init__(
        self,
        block: Block,
        by_result: Tensor,
        by_memory: Memory,
        trace: Trace,
        inputs: list[Tensor],
        deltas: list[Tensor],
    ) -> None:
        token, shares = block.coefficients.token, block.shares
        self.by_shares, self.by_token = torch.zeros_like(block.coefficients.shares), torch.zeros_like(token)
        self.by_memory, self.minus_by_inputs, self.minus_by_deltas = list[Tensor](), list[Tensor](), list[Tensor]()
        for layer in reversed(range(len(deltas))):
            x = F.silu(trace.reads[layer - 1]) if layer else block.queries
            scores = trace.scores[layer]
            minus_by_weighted = torch.bmm(by_result, deltas[layer].mT)
            self.by_token.addcmul_(minus_by_weighted, scores, value=-1)
            minus_by_scores = minus_by_weighted.mul_(token)
            self.minus_by_deltas.insert(0, torch.bmm((scores * token).mT, by_result))
            self.minus_by_inputs.insert(0, torch.bmm(minus_by_scores.mT, x))
            by_starts = by_memory[layer].new_empty(block.n_chunks + 1, *by_memory[layer].shape)
            torch.bmm(
                (x.unsqueeze(2) * shares).flatten(2).mT, by_result, out=by_starts[:-1].flatten(0, 1).flatten(1, 2)
            )
            by_starts[-1] = by_memory[layer]
            self.by_memory.insert(0, by_starts)
            by_shared = torch.bmm(by_result, trace.starts[layer].flatten(1, 2).mT).view(*x.shape[:2], 2, -1)
            self.by_shares += (by_shared * x.unsqueeze(2)).sum(-1)
            by_x = by_shared.mul_(shares).sum(2).baddbmm_(minus_by_scores, inputs[layer], alpha=-1)
            by_result = by_x.mul_(_silu_slope(trace.reads[layer - 1])) if layer else by_x
        self.by_queries = by_result


class _WriteGradient:
    """The way back through the writes, chunk by chunk from the last; goes on where the reads' gradient ends.

    Attributes
    ----------
    by_shared : list of torch.Tensor
        What a chunk's deltas meet in the gradient by the memory at its end, ``(rows, length, 2 * d_in)`` a layer.
    by_reference : list of torch.Tensor
        Gradient by the first chunk's reference, where it is not its start.
    """

    def __init__(
        self,
        block: Block,
        reading: _ReadGradient,
        trace: Trace,
        inputs: list[Tensor],
        deltas: list[Tensor],
        reference: list[Tensor],
    ) -> None:
        chunks = block.chunks
        self.reference, self.by_reference = reference, list[Tensor]()
        self.depth, self.has_clamp = len(deltas), block.max_delta_norm is not None
        self.by_memory = [part.unbind(0) for part in reading.by_memory]
        self.weights = [[start[:, 0] for start in chunks(part)] for part in trace.starts]
        self.back = chunks(block.coefficients.transition.mT.contiguous())
        self.write = [write.unbind(2) for write in chunks(block.write)]
        self.inputs, self.errors = [chunks(a) for a in inputs], [chunks(error) for error in trace.errors]
        self.deltas = [chunks(delta) for delta in deltas]
        self.shared = [chunks((a.unsqueeze(2) * block.write).flatten(2)) for a in inputs]
        self._minus_by_keys, self._by_values = reading.minus_by_inputs[0], torch.empty_like(trace.errors[-1])
        self.minus_by_inputs = [chunks(part) for part in reading.minus_by_inputs]
        self.minus_by_deltas = [chunks(part) for part in reading.minus_by_deltas]
        self.by_values = chunks(self._by_values)
        if block.max_delta_norm is not None:
            scales_and_cuts = [_clamp_scale_and_cut(error, block.max_delta_norm) for error in trace.errors]
            self.scales, self.cuts = ([chunks(pair[which]) for pair in scales_and_cuts] for which in (0, 1))
        slopes_and_curvatures = [_silu_slope_and_curvature(result) for result in trace.results]
        self.slopes, self.curvatures = ([chunks(pair[which]) for pair in slopes_and_curvatures] for which in (0, 1))
        self.by_shared = [a.new_empty(*a.shape[:2], 2 * a.shape[2]) for a in inputs]
        self._by_shared = [chunks(part) for part in self.by_shared]

    def step(self, n: int) -> None:
        """Go back through chunk `n`."""
        ends, before = [part[n + 1] for part in self.by_memory], [part[n] for part in self.by_memory]
        weights = [part[n] for part in self.weights] if n or not self.reference else self.reference
        if n == 0 and self.reference:
            self.by_reference = [torch.zeros_like(weight) for weight in weights]
        by_weights = self.by_reference or [part[:, 0] for part in before]
        minus_by_errors = []
        for layer, end in enumerate(ends):
            before[layer].flatten(2).baddbmm_(self.back[n], end.flatten(2))
            minus_by_delta = self.minus_by_deltas[layer][n].baddbmm_(self.shared[layer][n], end.flatten(1, 2))
            minus_by_errors.append(self._unclamp(layer, n, minus_by_delta))
            by_shared = self._by_shared[layer][n]
            torch.bmm(self.deltas[layer][n], end.flatten(1, 2).mT, out=by_shared)
            for part, write in zip(by_shared.chunk(2, dim=-1), self.write[n], strict=True):
                self.minus_by_inputs[layer][n].addcmul_(part, write)
        # Back-propagation of a back-propagation: up the layers, through the errors; then down, through the results.
        minus_by_error, minus_by_results = minus_by_errors[0], []
        for layer in range(1, self.depth):
            error, weight = self.errors[layer][n], weights[layer]
            passed = torch.bmm(error, weight.mT).mul_(self.curvatures[layer - 1][n])
            minus_by_results.append(passed.mul_(minus_by_error))
            minus_by_passed = minus_by_error.mul_(self.slopes[layer - 1][n])
            by_weights[layer].baddbmm_(minus_by_passed.mT, error, alpha=-1)
            minus_by_error = minus_by_errors[layer].baddbmm_(minus_by_passed, weight)
        minus_by_result = torch.mul(minus_by_error, 2.0, out=self.by_values[n])
        for layer in reversed(range(self.depth)):
            by_weights[layer].baddbmm_(self.inputs[layer][n].mT, minus_by_result, alpha=-1)
            minus_by_input = self.minus_by_inputs[layer][n].baddbmm_(minus_by_result, weights[layer].mT)
            if layer:
                minus_by_result = minus_by_results[layer - 1].addcmul_(minus_by_input, self.slopes[layer - 1][n])

    def _unclamp(self, layer: int, n: int, by_delta: Tensor) -> Tensor:
        """From the clamped to the errors: what lies along a clamped error is lost, the rest is scaled."""
        if not self.has_clamp:
            return by_delta
        error = self.errors[layer][n]
        lost = (by_delta * error).sum(-1, keepdim=True).mul_(self.cuts[layer][n])
        return torch.addcmul(by_delta, error, lost, value=-1).mul_(self.scales[layer][n])

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Gradients by keys and values, once all chunks are done."""
        return self._minus_by_keys.neg_(), self._by_values


def _propagate(weights: list[Tensor], keys: Tensor, values: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Back-propagate the loss of a chunk's tokens through the memory, by hand.

    Returns
    -------
    inputs : list of torch.Tensor
        What each layer but the first takes in.
    results : list of torch.Tensor
        The same before the SiLU.
    errors : list of torch.Tensor
        The loss's gradient by what each layer gives out.
    """
    inputs, results = list[Tensor](), list[Tensor]()
    for weight in weights[:-1]:
        results.append(torch.bmm(inputs[-1] if inputs else keys, weight))
        inputs.append(F.silu(results[-1]))
    errors = [torch.baddbmm(values, inputs[-1] if inputs else keys, weights[-1], beta=-2, alpha=2)]
    for weight, result in zip(reversed(weights), reversed(results), strict=False):
        errors.append(torch.bmm(errors[-1], weight.mT).mul_(_silu_slope(result)))
    return inputs, results, errors[::-1]


def _clamp(error: Tensor, max_norm: float | None) -> Tensor:
    if max_norm is None:
        return error
    norm: Tensor = torch.linalg.vector_norm(error, dim=-1, keepdim=True)
    return error * norm.clamp_(min=max_norm).reciprocal_().mul_(max_norm)


def _clamp_scale_and_cut(error: Tensor, max_norm: float) -> tuple[Tensor, Tensor]:
    norm: Tensor = torch.linalg.vector_norm(error, dim=-1, keepdim=True)
    at_least = norm.clamp(min=max_norm)
    return max_norm / at_least, (norm > max_norm) / at_least.square()


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return (1 - s).mul_(z).add_(1.0).mul_(s)


def _silu_slope_and_curvature(z: Tensor) -> tuple[Tensor, Tensor]:
    """``s'`` and ``s''``, as ``s'' = s' (1 - 2 sigmoid) + sigmoid``."""
    s = torch.sigmoid(z)
    slope = (1 - s).mul_(z).add_(1.0).mul_(s)
    return slope, torch.addcmul(s, slope, 1 - 2 * s)
