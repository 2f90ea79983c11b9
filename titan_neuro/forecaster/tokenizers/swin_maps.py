"""The five maps of MONAI's Swin, pooled to a grid: what it makes of volumes that are 0 outside a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from titan_neuro.forecaster.tokenizers.config import SwinTokenizerConfig
from titan_neuro.forecaster.tokenizers.swin_layers import run_block, run_merging
from titan_neuro.forecaster.tokenizers.swin_layout import (
    Tokens,
    lay_out_block,
    lay_out_merging,
    lay_out_patches,
)

if TYPE_CHECKING:
    from monai.networks.nets.swin_unetr import BasicLayer, SwinTransformer

    from titan_neuro.forecaster.tokenizers.swin_layout import WindowLayout


class PooledMaps(nn.Module):
    """Compute the maps of a Swin for a mask, skipping all that is the same in every volume.

    It has no parameters, and its buffers are no part of a saved model: they follow from settings and mask.

    Parameters
    ----------
    config : SwinTokenizerConfig
    mask : torch.Tensor
        bool ``(x, y, z)``.

    Attributes
    ----------
    n_numbers : int
        Numbers that a volume stores for a gradient.
    n_largest : int
        Numbers of its largest table.
    """

    voxels: Tensor

    def __init__(self, config: SwinTokenizerConfig, mask: Bool[Tensor, "X Y Z"]) -> None:
        super().__init__()
        tokens, voxels = lay_out_patches(mask, config.patch_size)
        self.register_buffer("voxels", voxels.int(), persistent=False)
        self._n_constant, sizes = tokens.n_constant, []
        self.stages, self.poolings = nn.ModuleList(), nn.ModuleList([_Pooling(tokens, config.token_grid)])
        for depth, width in zip(config.depths, config.map_widths[:-1], strict=True):
            stage = _Stage(depth, config.window_size, tokens)
            sizes += [width * n_varying for n_varying in stage.n_varying]
            tokens = stage.tokens
            self.stages.append(stage)
            self.poolings.append(_Pooling(tokens, config.token_grid))
        self.n_numbers, self.n_largest = sum(sizes), max(sizes)

    def forward(self, series: Float[Tensor, "N V"], swin: SwinTransformer) -> Float[Tensor, "N P F"]:
        """Encode volumes, under ``torch.autocast`` too in the precision of the weights.

        Parameters
        ----------
        series : torch.Tensor
            Voxels in the mask, ``(volumes, voxels)``.
        swin : monai.networks.nets.swin_unetr.SwinTransformer
            Its parameters are used.

        Returns
        -------
        torch.Tensor
            ``(volumes, cells of the grid, channels of all maps)``.
        """
        convolution, n_volumes = swin.patch_embed.proj, len(series)
        layers = (swin.layers1, swin.layers2, swin.layers3, swin.layers4)
        # Weights that are not normalized leave the range of half precision.
        with torch.autocast(series.device.type, enabled=False):
            table = self._embed(series.to(convolution.weight.dtype), convolution)
            pooled = [self.poolings[0](table, n_volumes)]
            for stage, pooling, (layer,) in zip(self.stages, self.poolings[1:], layers, strict=True):
                table = stage(table, layer, n_volumes)
                pooled.append(pooling(table, n_volumes))
        return torch.cat(pooled, dim=-1)

    def _embed(self, series: Tensor, convolution: Any) -> Float[Tensor, "R C"]:
        """Return the table of patches; all those outside the mask are the convolution's bias."""
        padded = F.pad(series, (1, 0))
        patches = padded.index_select(1, self.voxels.flatten()).view(-1, self.voxels.shape[1])
        varying = F.linear(patches, convolution.weight.flatten(1), convolution.bias)
        constant = convolution.bias.expand(self._n_constant, -1)
        return torch.cat([varying.new_zeros(1, varying.shape[1]), constant, varying])


class _Stage(nn.Module):
    """Blocks and a merging. `tokens` are those that it makes, `n_varying` the numbers of those that its layers read."""

    def __init__(self, depth: int, window_size: int, tokens: Tokens) -> None:
        super().__init__()
        # Imported here: MONAI takes seconds, and parcels don't need it.
        from monai.networks.nets.swin_unetr import PatchMerging, get_window_size

        self.n_varying, layouts = [], []
        window = (window_size,) * 3
        for number in range(depth):
            self.n_varying.append(tokens.n_varying)
            shift = (window_size // 2 * (number % 2),) * 3
            layout, tokens = lay_out_block(tokens, *get_window_size(tokens.rows.shape, window, shift))
            layouts.append(layout)
        self.n_varying.append(tokens.n_varying)
        self.blocks = nn.ModuleList(layouts)
        # MONAI's own merging says which tokens are joined, and in which order.
        joining = PatchMerging(1, norm_layer=lambda _: nn.Identity())
        joining.reduction = nn.Identity()
        self.merging, self.tokens = lay_out_merging(tokens, joining)

    def forward(self, table: Float[Tensor, "R C"], layer: BasicLayer, n_volumes: int) -> Float[Tensor, "R2 C2"]:
        for layout, block in zip(self.blocks, layer.blocks, strict=True):
            table = run_block(table, block, cast("WindowLayout", layout), n_volumes)
        return run_merging(table, layer.downsample, self.merging, n_volumes)


class _Pooling(nn.Module):
    """Normalize the tokens of a map, and average them over each cell of a grid."""

    counts: Tensor

    def __init__(self, tokens: Tokens, grid: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("counts", tokens.count(grid), persistent=False)
        self._n_constant = tokens.n_constant

    def forward(self, table: Float[Tensor, "R C"], n_volumes: int) -> Float[Tensor, "N P C"]:
        normalized = F.layer_norm(table[1:], table.shape[1:])
        constant, varying = normalized[: self._n_constant], normalized[self._n_constant :]
        counts = self.counts[:, self._n_constant :].expand(n_volumes, -1, -1)
        sums = torch.bmm(counts, varying.view(n_volumes, -1, table.shape[1]))
        sums = sums + self.counts[:, : self._n_constant] @ constant
        return sums / self.counts.sum(dim=1, keepdim=True)
