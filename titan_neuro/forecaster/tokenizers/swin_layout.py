"""Which tokens and windows of a Swin differ between volumes, for a given mask; all others are computed once.

Outside the mask every volume is 0, so most tokens there are functions of the weights alone. A token is *constant* where
no voxel of the mask reaches it. Constant tokens that are computed from the same tokens in the same way are one and the
same number: they are given one row. What is laid out here is index arithmetic, done once for a mask.

A **table** holds the tokens of some volumes at one depth of the network, a row each: row 0 is zeros (padding), then
come the constant tokens, then the varying tokens of the first volume, of the second, and so on. A **layer** computes
each row of its table from a group of rows of the table before: an attention window, or the eight tokens that are
merged to one. Its groups are numbered for one volume; `Layout.groups_of` numbers them for several.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of a volume at one depth, each with the number of its row.

    Attributes
    ----------
    rows : torch.Tensor
        ``(x, y, z)``; up to `n_constant` constant tokens, of which many have the same row, above varying ones.
    n_constant, n_varying : int
        Rows of the table, besides row 0.
    """

    rows: Int[Tensor, "X Y Z"]
    n_constant: int
    n_varying: int

    def count(self, grid: Sequence[int]) -> Float[Tensor, "P R"]:
        """Count the tokens of each row in the cells of a grid: those that ``adaptive_avg_pool3d`` averages.

        Parameters
        ----------
        grid : sequence of 3 int

        Returns
        -------
        torch.Tensor
            Float ``(cells, constant and varying rows)``.
        """
        axes = [
            [slice(cell * length // n_cells, -(-(cell + 1) * length // n_cells)) for cell in range(n_cells)]
            for length, n_cells in zip(self.rows.shape, grid, strict=True)
        ]
        n_rows = self.n_constant + self.n_varying
        inside = (self.rows[box].flatten() - 1 for box in itertools.product(*axes))
        return torch.stack([torch.bincount(rows, minlength=n_rows) for rows in inside]).float()


class Layout(nn.Module):
    """The groups of rows that a layer reads. Those of constant tokens come first.

    Parameters
    ----------
    groups : torch.Tensor
        Rows of the table before, ``(groups, rows of a group)``; 0 where there is padding.
    n_constant_groups : int
        Groups of constant tokens only.
    tokens : Tokens
        What the layer reads.
    """

    groups: Tensor

    def __init__(self, groups: Int[Tensor, "G K"], n_constant_groups: int, tokens: Tokens) -> None:
        super().__init__()
        self.register_buffer("groups", groups.int(), persistent=False)
        self.n_constant_groups, self.n_constant, self.n_varying = n_constant_groups, tokens.n_constant, tokens.n_varying

    def groups_of(self, n_volumes: int) -> Int[Tensor, "G K"]:
        """Return the groups for a table of several volumes, those of constant tokens once."""
        if n_volumes == 1:
            return self.groups
        constant, varying = self.groups[: self.n_constant_groups], self.groups[self.n_constant_groups :]
        first_rows = torch.arange(n_volumes, device=varying.device, dtype=varying.dtype) * self.n_varying
        moved = varying + (varying > self.n_constant) * first_rows[:, None, None]
        return torch.cat([constant, moved.flatten(0, 1)])


class WindowLayout(Layout):
    """The attention windows of a block.

    Parameters
    ----------
    groups, n_constant_groups, tokens
        As for :class:`Layout`.
    mask_types : torch.Tensor
        For each window which of `masks` it has, ``(windows,)``.
    masks : torch.Tensor
        bool ``(types, rows of a window, rows of a window)``: pairs that don't attend to each other, because a shifted
        window joins patches from opposite sides of the volume.
    """

    masks: Tensor

    def __init__(
        self,
        groups: Int[Tensor, "G K"],
        n_constant_groups: int,
        tokens: Tokens,
        mask_types: Int[Tensor, " G"],
        masks: Bool[Tensor, "M K K"],
    ) -> None:
        super().__init__(groups, n_constant_groups, tokens)
        self.register_buffer("masks", masks, persistent=False)
        self._mask_types: list[int] = mask_types.tolist()
        self._n_kept = (groups > 0).sum(dim=1)

    def mask_types_of(self, n_volumes: int) -> list[int]:
        """Return the type of each window's mask for a table of several volumes."""
        constant, varying = self._mask_types[: self.n_constant_groups], self._mask_types[self.n_constant_groups :]
        return constant + varying * n_volumes

    def first_rows_of(self, n_volumes: int) -> list[int]:
        """Return the row of the new table with which each window begins, and the number of rows."""
        constant, varying = self._n_kept[: self.n_constant_groups], self._n_kept[self.n_constant_groups :]
        counts = torch.cat([torch.ones(1, dtype=torch.long), constant, varying.repeat(n_volumes)])
        rows: list[int] = counts.cumsum(0).tolist()
        return rows


def lay_out_patches(mask: Bool[Tensor, "X Y Z"], patch_size: int) -> tuple[Tokens, Int[Tensor, "V K"]]:
    """Lay out the patches of a volume.

    Parameters
    ----------
    mask : torch.Tensor
        bool ``(x, y, z)``.
    patch_size : int

    Returns
    -------
    tokens : Tokens
        All patches outside the mask are one constant token.
    voxels : torch.Tensor
        The features that a varying patch holds, counted from 1, and 0 outside the mask:
        ``(varying patches, voxels of a patch)``.
    """
    features = torch.zeros(mask.shape, dtype=torch.long)
    features[mask] = torch.arange(1, int(mask.sum()) + 1)
    blocks = _blocks(_padded(features, (patch_size,) * 3), (patch_size,) * 3)
    shape, blocks = blocks.shape[:3], blocks.flatten(0, 2)
    rows, distinct, n_constant = _distinct(blocks, 0)
    return Tokens(rows.view(shape) + 1, n_constant, len(distinct) - n_constant), distinct[n_constant:]


def lay_out_block(tokens: Tokens, window: Sequence[int], shift: Sequence[int]) -> tuple[WindowLayout, Tokens]:
    """Lay out the attention windows of a block.

    Parameters
    ----------
    tokens : Tokens
        What the block reads.
    window, shift : sequence of 3 int
        Patches along each axis, as MONAI's ``get_window_size`` returns them.

    Returns
    -------
    layout : WindowLayout
    tokens : Tokens
        What it computes. Each token of a window has a row of its own, window by window.
    """
    volume = _padded(tokens.rows, window).roll([-length for length in shift], dims=(0, 1, 2))
    windows = _blocks(volume, window)
    n_windows = windows.shape[:3]
    # A window joins opposite sides of the volume along the axes on which it is the last one.
    joins = [[shift[axis] > 0 and i == n - 1 for i in range(n)] for axis, n in enumerate(n_windows)]
    types = torch.tensor([4 * x + 2 * y + z for x, y, z in itertools.product(*joins)])
    # Below 0, the type is no row.
    place, groups, n_constant = _distinct(torch.cat([windows.flatten(0, 2), -types[:, None]], dim=1), tokens.n_constant)
    groups, types = groups[:, :-1], -groups[:, -1]
    kept = groups > 0
    rows = kept.flatten().cumsum(0).view_as(groups) * kept
    volume = _joined(rows[place].view(*n_windows, -1), window).roll(list(shift), dims=(0, 1, 2))
    x, y, z = tokens.rows.shape
    n_rows, n_constant_rows = int(kept.sum()), int(kept[:n_constant].sum())
    used, types = torch.unique(types, return_inverse=True)
    masks = torch.stack([_mask(int(kind), window, shift) for kind in used])
    layout = WindowLayout(groups, n_constant, tokens, types, masks)
    return layout, Tokens(volume[:x, :y, :z], n_constant_rows, n_rows - n_constant_rows)


def lay_out_merging(tokens: Tokens, merging: nn.Module) -> tuple[Layout, Tokens]:
    """Lay out the merging of patches.

    Parameters
    ----------
    tokens : Tokens
        What is merged.
    merging : torch.nn.Module
        A merging of MONAI's with neither norm nor reduction: which tokens it joins, in which order.

    Returns
    -------
    layout : Layout
    tokens : Tokens
        What it computes.
    """
    joined = merging(tokens.rows[None, ..., None])[0]
    place, groups, n_constant = _distinct(joined.flatten(0, 2), tokens.n_constant)
    merged = Tokens(place.view(joined.shape[:3]) + 1, n_constant, len(groups) - n_constant)
    return Layout(groups, n_constant, tokens), merged


def _distinct(groups: Int[Tensor, "G K"], n_constant: int) -> tuple[Tensor, Tensor, int]:
    """Put the groups of constant tokens first, each once, then all others.

    Returns
    -------
    place : torch.Tensor
        Where each group is now, ``(groups,)``.
    distinct : torch.Tensor
        ``(different groups, rows of a group)``.
    n_constant_groups : int
    """
    varies = (groups > n_constant).any(dim=1)
    constant, inverse = torch.unique(groups[~varies], dim=0, return_inverse=True)
    place = torch.empty(len(groups), dtype=torch.long)
    place[~varies] = inverse
    place[varies] = len(constant) + torch.arange(int(varies.sum()))
    return place, torch.cat([constant, groups[varies]]), len(constant)


def _mask(joins: int, window: Sequence[int], shift: Sequence[int]) -> Bool[Tensor, "K K"]:
    """Pairs of a window from opposite sides of the volume, along the axes in the bits of `joins`."""
    sides = [
        torch.arange(length) >= (length - moved if joins & bit else length)
        for length, moved, bit in zip(window, shift, (4, 2, 1), strict=True)
    ]
    x, y, z = torch.meshgrid(*sides, indexing="ij")
    side = (4 * x.long() + 2 * y.long() + z.long()).flatten()
    return side[:, None] != side


def _padded(volume: Int[Tensor, "X Y Z"], block: Sequence[int]) -> Int[Tensor, "X2 Y2 Z2"]:
    """Append 0 until blocks fit."""
    x, y, z = (-length % size for length, size in zip(volume.shape, block, strict=True))
    return F.pad(volume, (0, z, 0, y, 0, x))


def _blocks(volume: Int[Tensor, "X Y Z"], block: Sequence[int]) -> Int[Tensor, "A B C K"]:
    (x, y, z), (a, b, c) = volume.shape, block
    cut = volume.view(x // a, a, y // b, b, z // c, c)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(x // a, y // b, z // c, math.prod(block))


def _joined(blocks: Int[Tensor, "A B C K"], block: Sequence[int]) -> Int[Tensor, "X Y Z"]:
    n_x, n_y, n_z, _ = blocks.shape
    a, b, c = block
    return blocks.view(n_x, n_y, n_z, a, b, c).permute(0, 3, 1, 4, 2, 5).reshape(n_x * a, n_y * b, n_z * c)
