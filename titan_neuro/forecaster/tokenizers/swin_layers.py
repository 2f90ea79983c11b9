"""Blocks and mergings of a Swin over tables of tokens: forward and backward, a few windows at a time.

Between two layers only the table is stored. The backward pass computes each chunk of windows again, and its gradient at
once, so that attention weights never exist for more than one chunk. Inside a chunk tokens are columns: sums over
channels then run over whole rows, and a head's queries, keys and values are slices.

Attention is ``V exp(K^T Q + bias)``: the maximum is not subtracted, the weights are not normalized. A row of ones below
the values yields their sums in the same product, by which the result is divided. Where sums leave the range in which
this is exact, the maximum is subtracted. Powers of two are cheaper than those of e: queries and biases are multiplied
by log2 e.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from titan_neuro.forecaster.tokenizers.swin_layout import Layout, WindowLayout

if TYPE_CHECKING:
    from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformerBlock

_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)
# What MONAI adds to the scores of pairs that don't attend to each other.
_MASKED = -100.0
# Sums of unnormalized weights within these limits lose nothing to overflow or underflow, in both passes.
_LEAST_SUM, _LARGEST_SUM = 2.0**-30, 2.0**30
# Numbers of a chunk's largest tensor: on a CPU what its caches hold, measured; elsewhere a bound of the memory.
_CHUNK_NUMBERS, _CHUNK_NUMBERS_ELSEWHERE = 300_000, 2**26


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Some of a layer's groups.

    `index` are the rows that are read, a column each (or the parts of a column, one below the other), `rows` those that
    are made. Of windows, `kept` are the columns that are no padding, or None for all. `places` are where the weights of
    heads are written, the same for all chunks of a pass: the system need not find new memory for each.
    """

    groups: slice
    index: Int[Tensor, "G K"]
    rows: slice
    kept: Int[Tensor, " S"] | None = None
    places: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def padding(self) -> Tensor | None:
        """Whether a column is padding."""
        return None if self.kept is None else self.index.flatten() == 0


class _Layer(abc.ABC):
    """Computes a table of `n_rows` rows with `n_channels` from the table before, chunk by chunk."""

    n_rows: int
    n_channels: int
    is_joined: bool

    @abc.abstractmethod
    def chunks(self) -> Iterator[_Chunk]:
        """Cut the groups into chunks."""

    @abc.abstractmethod
    def forward(self, x: Tensor, chunk: _Chunk, parameters: tuple[Tensor, ...]) -> Tensor:
        """Compute the columns that a chunk makes."""

    @abc.abstractmethod
    def backward(
        self, x: Tensor, chunk: _Chunk, parameters: tuple[Tensor, ...], gradient: Tensor, sums: tuple[Tensor, ...]
    ) -> Tensor:
        """Add the gradients of the parameters to `sums`, and return that of `x`."""

    def read(self, table: Tensor, chunk: _Chunk) -> Tensor:
        """Return what a chunk reads, a column for each token that is computed."""
        rows = table.index_select(0, chunk.index.flatten())
        return (rows.view(len(chunk.index), -1) if self.is_joined else rows).t().contiguous()


class _Chunked(torch.autograd.Function):
    """A layer whose backward pass computes every chunk again."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, layer: _Layer, *parameters: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(table, *parameters)
        result = table.new_empty(layer.n_rows, layer.n_channels)
        result[0] = 0
        for chunk in layer.chunks():
            result[chunk.rows] = layer.forward(layer.read(table, chunk), chunk, parameters).t()
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer: _Layer = ctx.layer
        table, *parameters = ctx.saved_tensors
        table_gradient, sums = torch.zeros_like(table), tuple(map(torch.zeros_like, parameters))
        with torch.autocast(table.device.type, enabled=False):
            for chunk in layer.chunks():
                columns = gradient[chunk.rows].t().contiguous()
                x = layer.backward(layer.read(table, chunk), chunk, tuple(parameters), columns, sums)
                table_gradient.index_add_(0, chunk.index.flatten(), x.t().reshape(chunk.index.numel(), -1))
        # Row 0 is padding, which is made by no layer.
        table_gradient[0] = 0
        return table_gradient, None, *sums


class _BlockParameters(NamedTuple):
    """Those of a block, `position_bias` gathered and masked: ``(heads, masks, keys, queries)``.

    ``qkv`` has queries multiplied by scale and log2 e, and a row of ones below the values of each head.
    """

    norm_1_weight: Tensor
    norm_1_bias: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    position_bias: Tensor
    projection_weight: Tensor
    projection_bias: Tensor
    norm_2_weight: Tensor
    norm_2_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor


def run_block(table: Float[Tensor, "R C"], block: SwinTransformerBlock, layout: WindowLayout, n_volumes: int) -> Tensor:
    """Compute a block of MONAI's Swin.

    Parameters
    ----------
    table : torch.Tensor
        ``(rows, channels)``, see `swin_layout`.
    block : monai.networks.nets.swin_unetr.SwinTransformerBlock
        Its parameters are used.
    layout : WindowLayout
        Of the same block.
    n_volumes : int
        Volumes in the table.

    Returns
    -------
    torch.Tensor
        The next table, ``(rows, channels)``.
    """
    attention, mlp, n = block.attn, block.mlp, layout.groups.shape[1]
    n_heads, width = attention.num_heads, table.shape[1]
    query, key, value = attention.qkv.weight.view(3, width, width)
    query_bias, key_bias, value_bias = attention.qkv.bias.view(3, width)
    scale, by_head = attention.scale * _LOG2_E, (n_heads, width // n_heads)
    values = F.pad(value.view(*by_head, width), (0, 0, 0, 1)).flatten(0, 1)
    value_biases = F.pad(value_bias.view(by_head), (0, 1), value=1.0).flatten()
    # MONAI's small windows use this corner of the table, too.
    bias = F.embedding(attention.relative_position_index[:n, :n].t(), attention.relative_position_bias_table)
    biases = (bias.permute(2, 0, 1)[:, None] + _MASKED * layout.masks) * _LOG2_E
    parameters = _BlockParameters(
        norm_1_weight=block.norm1.weight,
        norm_1_bias=block.norm1.bias,
        qkv_weight=torch.cat([query * scale, key, values]),
        qkv_bias=torch.cat([query_bias * scale, key_bias, value_biases]),
        position_bias=biases,
        projection_weight=attention.proj.weight,
        projection_bias=attention.proj.bias,
        norm_2_weight=block.norm2.weight,
        norm_2_bias=block.norm2.bias,
        up_weight=mlp.linear1.weight,
        up_bias=mlp.linear1.bias,
        down_weight=mlp.linear2.weight,
        down_bias=mlp.linear2.bias,
    )
    result: Tensor = _Chunked.apply(  # type: ignore[no-untyped-call]
        table, _Block(layout, n_volumes, n_heads, table, block.norm1.eps), *parameters
    )
    return result


def run_merging(table: Float[Tensor, "R C"], merging: PatchMerging, layout: Layout, n_volumes: int) -> Tensor:
    """Merge eight tokens to one of twice the width, as MONAI does.

    Parameters
    ----------
    table : torch.Tensor
        ``(rows, channels)``, see `swin_layout`.
    merging : monai.networks.nets.PatchMerging
        Its parameters are used.
    layout : Layout
        Of the same merging.
    n_volumes : int
        Volumes in the table.

    Returns
    -------
    torch.Tensor
        The next table, ``(rows, 2 channels)``.
    """
    layer = _Merging(layout, n_volumes, table, merging.norm.eps)
    result: Tensor = _Chunked.apply(  # type: ignore[no-untyped-call]
        table, layer, merging.norm.weight, merging.norm.bias, merging.reduction.weight
    )
    return result


class _Merging(_Layer):
    is_joined = True

    def __init__(self, layout: Layout, n_volumes: int, table: Tensor, eps: float) -> None:
        self._groups, self._eps = layout.groups_of(n_volumes), eps
        self.n_rows, self.n_channels = 1 + len(self._groups), 2 * table.shape[1]
        self._at_once = _groups_at_once(table, self._groups.shape[1] * table.shape[1])

    def chunks(self) -> Iterator[_Chunk]:
        for start in range(0, len(self._groups), self._at_once):
            groups = slice(start, start + self._at_once)
            index = self._groups[groups]
            yield _Chunk(groups, index, slice(1 + start, 1 + start + len(index)))

    def forward(self, x: Tensor, chunk: _Chunk, parameters: tuple[Tensor, ...]) -> Tensor:
        norm_weight, norm_bias, weight = parameters
        return weight @ _affine(_normalize(x, self._eps)[0], norm_weight, norm_bias)

    def backward(
        self, x: Tensor, chunk: _Chunk, parameters: tuple[Tensor, ...], gradient: Tensor, sums: tuple[Tensor, ...]
    ) -> Tensor:
        norm_weight, norm_bias, weight = parameters
        normalized, scale = _normalize(x, self._eps)
        sums[2].addmm_(gradient, _affine(normalized, norm_weight, norm_bias).t())
        return _norm_backward(weight.t() @ gradient, normalized, scale, norm_weight, sums[0], sums[1])


class _FirstHalf(NamedTuple):
    """A block up to its second norm: what the backward pass needs again, and the result `y` without padding."""

    normalized: Tensor
    scale: Tensor
    columns: Tensor
    qkv: Tensor
    attended: Tensor
    y: Tensor


class _Block(_Layer):
    is_joined = False

    def __init__(self, layout: WindowLayout, n_volumes: int, n_heads: int, table: Tensor, eps: float) -> None:
        self._groups, self._first_rows = layout.groups_of(n_volumes), layout.first_rows_of(n_volumes)
        self._mask_types, self._n_heads, self._eps = layout.mask_types_of(n_volumes), n_heads, eps
        self.n_rows, self.n_channels = self._first_rows[-1], table.shape[1]
        n = self._groups.shape[1]
        self._at_once = _groups_at_once(table, n * max(n, 4 * self.n_channels))

    def chunks(self) -> Iterator[_Chunk]:
        places: list[Tensor] = []
        for start in range(0, len(self._groups), self._at_once):
            groups = slice(start, start + self._at_once)
            index = self._groups[groups]
            first, last = self._first_rows[start], self._first_rows[start + len(index)]
            kept = None if last - first == index.numel() else index.flatten().nonzero().squeeze(1)
            yield _Chunk(groups, index, slice(first, last), kept, places)

    def forward(self, x: Tensor, chunk: _Chunk, parameters: tuple[Tensor, ...]) -> Tensor:
        p = _BlockParameters(*parameters)
        y = self._first_half(x, chunk, p).y
        columns = _affine(_normalize(y, self._eps)[0], p.norm_2_weight, p.norm_2_bias)
        activated = F.gelu(torch.addmm(p.up_bias[:, None], p.up_weight, columns))
        return y.add_(p.down_bias[:, None]).addmm_(p.down_weight, activated)

    def _first_half(
        self, x: Tensor, chunk: _Chunk, p: _BlockParameters, heads: list[tuple[Tensor, Tensor]] | None = None
    ) -> _FirstHalf:
        """Attend, and add the result to `x`, in place; append weights and weighted sums of each head to `heads`."""
        normalized, scale = _normalize(x, self._eps)
        columns = _affine(normalized, p.norm_1_weight, p.norm_1_bias)
        if chunk.padding is not None:
            # MONAI pads after the norm, and masks no padding.
            columns.masked_fill_(chunk.padding, 0)
        qkv = torch.addmm(p.qkv_bias[:, None], p.qkv_weight, columns)
        attended, types = torch.empty_like(x), self._mask_types[chunk.groups]
        for head in range(self._n_heads):
            weights = self._place(x, 0 if heads is None else head, chunk)
            result = _weigh(self._of_head(qkv, head, chunk), p.position_bias[head], types, out=weights)
            torch.div(result[:, :-1], result[:, -1:], out=self._of_head(attended, head, chunk)[0])
            if heads is not None:
                heads.append((weights, result))
        y = x.add_(p.projection_bias[:, None]).addmm_(p.projection_weight, attended)
        if chunk.kept is not None:
            y = y.index_select(1, chunk.kept)
        return _FirstHalf(normalized, scale, columns, qkv, attended, y)

    def _place(self, x: Tensor, head: int, chunk: _Chunk) -> Tensor:
        """Return where a head's weights are written."""
        n_windows, n = chunk.index.shape
        while len(chunk.places) <= head:
            # The first chunk is the largest.
            chunk.places.append(x.new_empty(n_windows, n, n))
        return chunk.places[head][:n_windows]

    def _of_head(self, values: Tensor, head: int, chunk: _Chunk) -> tuple[Tensor, ...]:
        """Return queries, keys and values of a head, the last with their row of ones, as far as `values` holds them.

        Each is a view, ``(windows, channels, tokens of a window)``.
        """
        width, (n_windows, n) = self.n_channels, chunk.index.shape
        size = width // self._n_heads
        starts = (head * size, width + head * size, 2 * width + head * (size + 1))
        return tuple(
            values[start : start + length].view(length, n_windows, n).transpose(0, 1)
            for start, length in zip(starts, (size, size, size + 1), strict=True)
            if start < len(values)
        )

    def backward(
        self, x: Tensor, chunk: _Chunk, parameters: tuple[Tensor, ...], gradient: Tensor, sums: tuple[Tensor, ...]
    ) -> Tensor:
        p, s = _BlockParameters(*parameters), _BlockParameters(*sums)
        heads: list[tuple[Tensor, Tensor]] = []
        first = self._first_half(x, chunk, p, heads)
        gradient = gradient + self._mlp_backward(first.y, p, gradient, s)
        if chunk.kept is not None:
            gradient = torch.zeros_like(x).index_copy_(1, chunk.kept, gradient)
        _add_linear(s.projection_weight, s.projection_bias, gradient, first.attended)
        qkv_gradient, types = torch.empty_like(first.qkv), self._mask_types[chunk.groups]
        result_gradient = p.projection_weight.t() @ gradient
        for head, (weights, result) in enumerate(heads):
            given, wanted = (self._of_head(values, head, chunk) for values in (first.qkv, qkv_gradient))
            d_result = self._of_head(result_gradient, head, chunk)[0]
            scores_gradient = _weigh_backward(given, weights, result, d_result, wanted)
            if len(set(types)) == 1:
                s.position_bias[head, types[0]].add_(scores_gradient.sum(dim=0), alpha=_LN_2)
            else:
                index = torch.tensor(types, device=x.device)
                s.position_bias[head].index_add_(0, index, scores_gradient, alpha=_LN_2)
        qkv_gradient[: 2 * self.n_channels] *= _LN_2
        _add_linear(s.qkv_weight, s.qkv_bias, qkv_gradient, first.columns)
        columns_gradient = p.qkv_weight.t() @ qkv_gradient
        if chunk.padding is not None:
            columns_gradient.masked_fill_(chunk.padding, 0)
        return gradient + _norm_backward(
            columns_gradient, first.normalized, first.scale, p.norm_1_weight, s.norm_1_weight, s.norm_1_bias
        )

    def _mlp_backward(self, y: Tensor, p: _BlockParameters, gradient: Tensor, s: _BlockParameters) -> Tensor:
        normalized, scale = _normalize(y, self._eps)
        columns = _affine(normalized, p.norm_2_weight, p.norm_2_bias)
        hidden = torch.addmm(p.up_bias[:, None], p.up_weight, columns)
        _add_linear(s.down_weight, s.down_bias, gradient, F.gelu(hidden))
        hidden_gradient = torch.ops.aten.gelu_backward(p.down_weight.t() @ gradient, hidden)
        _add_linear(s.up_weight, s.up_bias, hidden_gradient, columns)
        return _norm_backward(
            p.up_weight.t() @ hidden_gradient, normalized, scale, p.norm_2_weight, s.norm_2_weight, s.norm_2_bias
        )


def _groups_at_once(table: Tensor, numbers_per_group: int) -> int:
    limit = _CHUNK_NUMBERS if table.device.type == "cpu" else _CHUNK_NUMBERS_ELSEWHERE
    return max(1, limit // numbers_per_group)


def _weigh(
    given: tuple[Tensor, ...], biases: Tensor, mask_types: list[int], *, out: Tensor, is_safe: bool = False
) -> Tensor:
    """Write weights ``(windows, keys, queries)``; return the values' weighted sums with, below, the sums of weights.

    Where `is_safe`, the maximum is subtracted.
    """
    query, key, value = given
    # A check of the sums would make a GPU wait.
    is_safe = is_safe or query.device.type != "cpu"
    if len(set(mask_types)) == 1:
        out.copy_(biases[mask_types[0]].expand_as(out))
    else:
        torch.index_select(biases, 0, torch.tensor(mask_types, device=out.device), out=out)
    out.baddbmm_(key.transpose(1, 2), query)
    if is_safe:
        out -= out.amax(dim=1, keepdim=True)
    result = torch.bmm(value, out.exp2_())
    if not is_safe:
        least, largest = map(float, result[:, -1].aminmax())
        if not (least > _LEAST_SUM and largest < _LARGEST_SUM):
            return _weigh(given, biases, mask_types, out=out, is_safe=True)
    return result


def _weigh_backward(
    given: tuple[Tensor, ...], weights: Tensor, result: Tensor, gradient: Tensor, wanted: tuple[Tensor, ...]
) -> Tensor:
    """Write the gradients of queries, keys and values; return that of the scores. All but values lack a factor ln 2."""
    query, key, value = given
    result_gradient = torch.empty_like(result)
    torch.div(gradient, result[:, -1:], out=result_gradient[:, :-1])
    result_gradient[:, -1] = (result_gradient[:, :-1] * result[:, :-1]).sum(dim=1).div_(result[:, -1]).neg_()
    wanted[2].copy_(torch.bmm(result_gradient, weights.transpose(1, 2)))
    scores_gradient = torch.bmm(value.transpose(1, 2), result_gradient).mul_(weights)
    wanted[0].copy_(torch.bmm(key, scores_gradient))
    wanted[1].copy_(torch.bmm(query, scores_gradient.transpose(1, 2)))
    return scores_gradient


def _normalize(x: Float[Tensor, "C S"], eps: float) -> tuple[Tensor, Tensor]:
    """Return columns of mean 0 and variance 1, and what they were multiplied by, ``(1, columns)``."""
    centered = x - x.mean(dim=0, keepdim=True)
    scale = centered.square().mean(dim=0, keepdim=True).add_(eps).rsqrt_()
    return centered.mul_(scale), scale


def _affine(normalized: Float[Tensor, "C S"], weight: Tensor, bias: Tensor) -> Float[Tensor, "C S"]:
    return torch.addcmul(bias[:, None], normalized, weight[:, None])


def _norm_backward(
    gradient: Tensor, normalized: Tensor, scale: Tensor, weight: Tensor, weight_sum: Tensor, bias_sum: Tensor
) -> Float[Tensor, "C S"]:
    """Add the gradients of weight and bias of a norm, and return that of its columns."""
    weight_sum += (gradient * normalized).sum(dim=1)
    bias_sum += gradient.sum(dim=1)
    gradient = gradient * weight[:, None]
    slope = (gradient * normalized).mean(dim=0, keepdim=True)
    gradient -= gradient.mean(dim=0, keepdim=True)
    return gradient.sub_(normalized * slope).mul_(scale)


def _add_linear(weight_sum: Tensor, bias_sum: Tensor, gradient: Tensor, columns: Tensor) -> None:
    """Add the gradients of weight and bias of a linear map of columns."""
    weight_sum.addmm_(gradient, columns.t())
    bias_sum += gradient.sum(dim=1)
