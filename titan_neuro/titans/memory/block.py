"""A block of chunks in the dual form, forward and backward. README.md derives every line.

``d_x`` is the gradient of the loss by ``x``, ``minus_d_x`` its negative.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from titan_neuro.titans.memory.gates import Coefficients, GateProducts
from titan_neuro.titans.memory.tokens import Tokens

# For each layer the transposed weights and momentum, ``(groups, 2, d_in, d_out)``; a group is one head of one item. A
# multiplication by both is then one product.
Memory: TypeAlias = list[Tensor]


class Trace(NamedTuple):
    """What the forward pass saves for the backward pass; a list has one tensor per layer.

    Attributes
    ----------
    starts : list of torch.Tensor
        The memory at each chunk's start, ``(rows, 2, d_in, d_out)``.
    errors : list of torch.Tensor
        The loss's gradient by each layer's output, for the keys at the reference weights, ``(rows, length, d_out)``.
    results : list of torch.Tensor
        Output of each layer but the last for the keys, before the SiLU, at the reference weights.
    scores : list of torch.Tensor
        Products of a layer's inputs for queries and for keys, ``(rows, length, length)``.
    reads : list of torch.Tensor
        Output of each layer but the last for the queries, before the SiLU.
    gates : list of torch.Tensor
        `GateProducts.saved_for_backward`.
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
    def group(tensors: list[Tensor], depth: int) -> Iterator[Trace]:
        """Divide the tensors of several traces, one after the other, into traces."""
        remaining = iter(tensors)
        for _ in range(len(tensors) // (5 * depth + 1)):
            counts = (depth, depth, depth - 1, depth, depth - 1, 3)
            yield Trace(*(list(itertools.islice(remaining, count)) for count in counts))


class Block:
    """Consecutive chunks of equal length, for all groups; a row is one chunk of one group.

    Parameters
    ----------
    tokens : Tokens
        A slice of the streams, ``(batch, heads, tokens, ...)``.
    length : int
        Tokens of a chunk.
    dtype : torch.dtype
        Type of the state.
    max_delta_norm : float or None
        See `memory_scan`.
    saved_gates : list of torch.Tensor, optional
        From the block's `Trace`, in the backward pass.
    """

    def __init__(
        self,
        tokens: Tokens,
        length: int,
        dtype: torch.dtype,
        max_delta_norm: float | None,
        saved_gates: list[Tensor] | None = None,
    ) -> None:
        self.n_chunks, self.n_groups = tokens.n_tokens // length, tokens.alpha.shape[0] * tokens.alpha.shape[1]
        self.length, self.dtype, self.max_delta_norm = length, dtype, max_delta_norm
        self.queries, self.keys, self.values = (self.rows(part) for part in tokens[:3])
        alpha, eta, theta = (self.rows(gate) for gate in tokens[3:])
        self.gates = GateProducts.of(alpha, eta, theta, saved_gates)
        self.coefficients = self.gates.coefficients()
        self.start = self.coefficients.start.unsqueeze(-1)
        self.write = self.coefficients.write.unsqueeze(-1)
        self.transition = self.chunks(self.coefficients.transition)

    def rows(self, stream: Tensor) -> Tensor:
        """``(batch, heads, tokens, ...)`` to ``(rows, length, ...)``, contiguous, in the state's type."""
        chunks = self._split(stream).to(self.dtype).contiguous()
        return chunks.view(-1, self.length, *stream.shape[3:])

    def scatter(self, rows: Tensor, stream: Tensor) -> None:
        """Copy ``(rows, length, ...)`` into ``(batch, heads, tokens, ...)``."""
        chunks = self._split(stream)
        chunks.copy_(rows.reshape(chunks.shape))

    def _split(self, stream: Tensor) -> Tensor:
        batch, heads, _, *width = stream.shape
        return stream.view(batch, heads, self.n_chunks, self.length, *width).movedim(2, 0)

    def chunks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """``(rows, ...)`` as one ``(groups, ...)`` per chunk."""
        return rows.view(self.n_chunks, self.n_groups, *rows.shape[1:]).unbind(0)

    def forward(self, memory: Memory, reference: list[Tensor]) -> tuple[Tensor, Memory, Trace]:
        """Write chunk by chunk, then read for all chunks at once.

        Parameters
        ----------
        memory : list of torch.Tensor
            The memory before the block.
        reference : list of torch.Tensor
            The first chunk's reference weights, ``(groups, d_in, d_out)`` per layer; empty where they are the weights
            at its start.

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
        weighted_keys = self.chunks((self.keys.unsqueeze(2) * self.write).flatten(2))
        write, written = self.chunks(self.write), []
        for n, (keys, values) in enumerate(zip(self.chunks(self.keys), self.chunks(self.values), strict=True)):
            weights = [start[n][:, 0] for start in starts] if n or not reference else reference
            inputs, results, errors = _propagate(weights, keys, values)
            deltas = [_clamp(error, self.max_delta_norm) for error in errors]
            for layer, (start, delta) in enumerate(zip(starts, deltas, strict=True)):
                weighted = (inputs[layer - 1].unsqueeze(2) * write[n]).flatten(2) if layer else weighted_keys[n]
                torch.bmm(self.transition[n], start[n].flatten(2), out=start[n + 1].flatten(2))
                start[n + 1].flatten(1, 2).baddbmm_(weighted.mT, delta, alpha=-1)
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
        trace = Trace(flat_starts, errors, results, scores, reads[:-1], self.gates.saved_for_backward())
        return reads[-1], [start[-1].clone() for start in starts], trace

    def _read(self, x: Tensor, start: Tensor, inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """``W_t x_t = b_t W_0 x_t + m_t S_0 x_t - sum_i c[t, i] (a_i . x_t) delta_i``, and ``a_i . x_t``."""
        result = torch.bmm((x.unsqueeze(2) * self.start).flatten(2), start.flatten(1, 2))
        scores = torch.bmm(x, inputs.mT)
        return result.baddbmm_(scores * self.coefficients.token, delta, alpha=-1), scores

    def backward(
        self, d_output: Tensor, d_memory: Memory, trace: Trace, reference: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], Memory, list[Tensor]]:
        """Return the gradients by the arguments of `forward` and by the tokens.

        Parameters
        ----------
        d_output : torch.Tensor
            Gradient by the outputs, ``(batch, heads, tokens, value_dim)``.
        d_memory : list of torch.Tensor
            Gradient by the memory after the block.
        trace, reference
            The result and the argument of `forward`.

        Returns
        -------
        d_tokens : tuple of torch.Tensor
            In the order of `Tokens`, ``(rows, length, ...)``.
        d_memory : list of torch.Tensor
            Gradient by the memory before the block.
        d_reference : list of torch.Tensor
            Gradient by the first chunk's reference; empty where `reference` is.
        """
        inputs = [self.keys, *(F.silu(result) for result in trace.results)]
        deltas = [_clamp(error, self.max_delta_norm) for error in trace.errors]
        reading = _ReadGradient(self, self.rows(d_output), d_memory, trace, inputs, deltas)
        writing = _WriteGradient(self, reading, trace, inputs, deltas, reference)
        for n in reversed(range(self.n_chunks)):
            writing.step(n)
        d_write = torch.zeros_like(self.coefficients.write)
        d_transition = torch.zeros_like(self.coefficients.transition)
        parts = (inputs, trace.starts, reading.d_memory, writing.d_weighted)
        for a, start, d_starts, d_weighted in zip(*parts, strict=True):
            d_transition.baddbmm_(d_starts[1:].flatten(0, 1).flatten(2), start.flatten(2).mT)
            d_write -= (d_weighted.view(*d_weighted.shape[:2], 2, -1) * a.unsqueeze(2)).sum(-1)
        d_gates = self.gates.backward(Coefficients(reading.d_start, reading.d_token, d_transition, d_write))
        d_keys, d_values = writing.tokens()
        return (
            (reading.d_queries, d_keys, d_values, *d_gates),
            [x[0] for x in reading.d_memory],
            writing.d_reference,
        )


class _ReadGradient:
    """The backward pass through the reads of all rows.

    Attributes
    ----------
    d_queries, d_start, d_token : torch.Tensor
        Gradients by the queries and by the coefficients.
    d_memory : list of torch.Tensor
        Gradient through the reads by the memory at each chunk's start, ``(chunks + 1, groups, 2, d_in, d_out)``; the
        last entry is the gradient by the memory after the block.
    minus_d_inputs, minus_d_deltas : list of torch.Tensor
        Negative gradients by what the tokens write, ``(rows, length, ...)``.
    """

    def __init__(
        self,
        block: Block,
        d_result: Tensor,
        d_memory: Memory,
        trace: Trace,
        inputs: list[Tensor],
        deltas: list[Tensor],
    ) -> None:
        token, shares = block.coefficients.token, block.start
        self.d_start, self.d_token = torch.zeros_like(block.coefficients.start), torch.zeros_like(token)
        self.d_memory, self.minus_d_inputs, self.minus_d_deltas = list[Tensor](), list[Tensor](), list[Tensor]()
        for layer in reversed(range(len(deltas))):
            x = F.silu(trace.reads[layer - 1]) if layer else block.queries
            scores = trace.scores[layer]
            minus_d_weighted = torch.bmm(d_result, deltas[layer].mT)
            self.d_token.addcmul_(minus_d_weighted, scores, value=-1)
            minus_d_scores = minus_d_weighted.mul_(token)
            self.minus_d_deltas.insert(0, torch.bmm((scores * token).mT, d_result))
            self.minus_d_inputs.insert(0, torch.bmm(minus_d_scores.mT, x))
            d_starts = d_memory[layer].new_empty(block.n_chunks + 1, *d_memory[layer].shape)
            torch.bmm((x.unsqueeze(2) * shares).flatten(2).mT, d_result, out=d_starts[:-1].flatten(0, 1).flatten(1, 2))
            d_starts[-1] = d_memory[layer]
            self.d_memory.insert(0, d_starts)
            d_weighted = torch.bmm(d_result, trace.starts[layer].flatten(1, 2).mT).view(*x.shape[:2], 2, -1)
            self.d_start += (d_weighted * x.unsqueeze(2)).sum(-1)
            d_x = d_weighted.mul_(shares).sum(2).baddbmm_(minus_d_scores, inputs[layer], alpha=-1)
            d_result = d_x.mul_(_silu_slope(trace.reads[layer - 1])) if layer else d_x
        self.d_queries = d_result


class _WriteGradient:
    """The backward pass through the writes, from the last chunk to the first; it continues from the reads' gradients.

    Attributes
    ----------
    d_weighted : list of torch.Tensor
        Products of a chunk's deltas with the gradient by the memory at its end, ``(rows, length, 2 * d_in)`` per layer.
    d_reference : list of torch.Tensor
        Gradient by the first chunk's reference, where it differs from the weights at its start.
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
        self.reference, self.d_reference = reference, list[Tensor]()
        self.depth, self.has_clamp = len(deltas), block.max_delta_norm is not None
        self.d_memory = [part.unbind(0) for part in reading.d_memory]
        self.weights = [[start[:, 0] for start in chunks(part)] for part in trace.starts]
        self.back = chunks(block.coefficients.transition.mT.contiguous())
        self.write = [write.unbind(2) for write in chunks(block.write)]
        self.inputs, self.errors = [chunks(a) for a in inputs], [chunks(error) for error in trace.errors]
        self.deltas = [chunks(delta) for delta in deltas]
        self.weighted = [chunks((a.unsqueeze(2) * block.write).flatten(2)) for a in inputs]
        self._minus_d_keys, self._d_values = reading.minus_d_inputs[0], torch.empty_like(trace.errors[-1])
        self.minus_d_inputs = [chunks(part) for part in reading.minus_d_inputs]
        self.minus_d_deltas = [chunks(part) for part in reading.minus_d_deltas]
        self.d_values = chunks(self._d_values)
        if block.max_delta_norm is not None:
            scales_and_cuts = [_clamp_scale_and_cut(error, block.max_delta_norm) for error in trace.errors]
            self.scales, self.cuts = ([chunks(pair[which]) for pair in scales_and_cuts] for which in (0, 1))
        slopes_and_curvatures = [_silu_slope_and_curvature(result) for result in trace.results]
        self.slopes, self.curvatures = ([chunks(pair[which]) for pair in slopes_and_curvatures] for which in (0, 1))
        self.d_weighted = [a.new_empty(*a.shape[:2], 2 * a.shape[2]) for a in inputs]
        self._d_weighted = [chunks(part) for part in self.d_weighted]

    def step(self, n: int) -> None:
        """Propagate back through chunk `n`."""
        ends, before = [part[n + 1] for part in self.d_memory], [part[n] for part in self.d_memory]
        weights = [part[n] for part in self.weights] if n or not self.reference else self.reference
        if n == 0 and self.reference:
            self.d_reference = [torch.zeros_like(weight) for weight in weights]
        d_weights = self.d_reference or [part[:, 0] for part in before]
        minus_d_errors = []
        for layer, end in enumerate(ends):
            before[layer].flatten(2).baddbmm_(self.back[n], end.flatten(2))
            minus_d_delta = self.minus_d_deltas[layer][n].baddbmm_(self.weighted[layer][n], end.flatten(1, 2))
            minus_d_errors.append(self._clamp_backward(layer, n, minus_d_delta))
            d_weighted = self._d_weighted[layer][n]
            torch.bmm(self.deltas[layer][n], end.flatten(1, 2).mT, out=d_weighted)
            for part, write in zip(d_weighted.chunk(2, dim=-1), self.write[n], strict=True):
                self.minus_d_inputs[layer][n].addcmul_(part, write)
        # Back-propagation through the back-propagation: up the layers, through the errors; then down, through the
        # results.
        minus_d_error, minus_d_results = minus_d_errors[0], []
        for layer in range(1, self.depth):
            error, weight = self.errors[layer][n], weights[layer]
            passed = torch.bmm(error, weight.mT).mul_(self.curvatures[layer - 1][n])
            minus_d_results.append(passed.mul_(minus_d_error))
            minus_d_passed = minus_d_error.mul_(self.slopes[layer - 1][n])
            d_weights[layer].baddbmm_(minus_d_passed.mT, error, alpha=-1)
            minus_d_error = minus_d_errors[layer].baddbmm_(minus_d_passed, weight)
        minus_d_result = torch.mul(minus_d_error, 2.0, out=self.d_values[n])
        for layer in reversed(range(self.depth)):
            d_weights[layer].baddbmm_(self.inputs[layer][n].mT, minus_d_result, alpha=-1)
            minus_d_input = self.minus_d_inputs[layer][n].baddbmm_(minus_d_result, weights[layer].mT)
            if layer:
                minus_d_result = minus_d_results[layer - 1].addcmul_(minus_d_input, self.slopes[layer - 1][n])

    def _clamp_backward(self, layer: int, n: int, d_delta: Tensor) -> Tensor:
        """Gradient by the error from that by the clamped error: the part along it is removed, the rest is scaled."""
        if not self.has_clamp:
            return d_delta
        error = self.errors[layer][n]
        radial = (d_delta * error).sum(-1, keepdim=True).mul_(self.cuts[layer][n])
        return torch.addcmul(d_delta, error, radial, value=-1).mul_(self.scales[layer][n])

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Return the gradients by keys and values, after the last `step`."""
        return self._minus_d_keys.neg_(), self._d_values


def _propagate(weights: list[Tensor], keys: Tensor, values: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Back-propagate the loss of a chunk's tokens through the memory, by hand.

    Returns
    -------
    inputs : list of torch.Tensor
        Input of each layer but the first.
    results : list of torch.Tensor
        The same before the SiLU.
    errors : list of torch.Tensor
        The loss's gradient by each layer's output.
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
