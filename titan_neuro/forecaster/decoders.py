"""From the tokens of a time point to forecasts of later time points: patterns of the whole brain, or maps that grow
finer.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# What the maps of the time points that are decoded at a time may take, with all that their gradient needs.
_CHUNK_BYTES = 256 * 2**20

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class LowRankConfig:
    """Forecasts as sums of spatial patterns, for volumes and parcels.

    Attributes
    ----------
    rank : int
        Patterns, shared by all horizons.
    """

    kind: Literal["low-rank"] = "low-rank"
    rank: Annotated[int, Field(ge=1)] = 16


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class UpsamplingConfig:
    """Forecasts as maps, upsampled from the grid of the tokens to the voxels; for volumes alone.

    Attributes
    ----------
    channels : int
        Maps at every stage.
    """

    kind: Literal["upsampling"] = "upsampling"
    channels: Annotated[int, Field(ge=1)] = 16


class LowRankDecoder(nn.Module):
    """Forecasts as a few spatial patterns: each horizon weighs `rank` patterns that all horizons share.

    ``forecast[h] = (W_h tokens) @ patterns`` with ``patterns`` of ``(rank, features)``. The patterns start at 0, so
    that a new model adds nothing to what stands beside it (the linear skip).

    Parameters
    ----------
    config : LowRankConfig
    n_tokens, dim : int
        Tokens of a time point, and their width.
    n_horizons, n_features : int
    """

    def __init__(self, config: LowRankConfig, *, n_tokens: int, dim: int, n_horizons: int, n_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_tokens * dim)
        self.weights = nn.Linear(n_tokens * dim, n_horizons * config.rank)
        self.patterns = nn.Parameter(torch.zeros(config.rank, n_features))
        self.n_horizons = n_horizons

    def forward(self, tokens: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T K V"]:
        """Forecast ``K`` horizons of all features from each time point's tokens."""
        weights: Tensor = self.weights(self.norm(tokens.flatten(2)))
        return weights.view(*weights.shape[:2], self.n_horizons, -1) @ self.patterns

    def silence(self) -> None:
        """Set the patterns back to 0: the decoder adds nothing."""
        nn.init.zeros_(self.patterns)


class UpsamplingDecoder(nn.Module):
    """Forecasts as maps: tokens in their places, upsampled coarse to fine to the patches, and from there to voxels.

    Tokens are mixed once over all places, so that a place may be told from what far tokens hold. Each stage doubles the
    grid (trilinear) and adds a convolution over 3 x 3 x 3 neighbors. At the patches each map is weighed by place (a
    learned gain, at random first: convolutions alone don't know where in the brain they are), and a linear map turns a
    patch's values into those of its voxels, one for each horizon. That last map starts at 0, so that a new model adds
    nothing to what stands beside it. A time point never meets another.

    Time points are decoded a few at a time, and where a gradient is wanted the maps are computed again for it instead
    of being kept: beside what it gives out, the decoder needs a few hundred MB, however many time points it gets.

    Parameters
    ----------
    config : UpsamplingConfig
    mask : torch.Tensor
        bool ``(x, y, z)``: the voxels that are forecast.
    token_grid : tuple of 3 int
        Where the tokens lie.
    patch_size : int
        Voxels of a patch along each axis.
    dim : int
        Width of a token.
    n_horizons : int
    """

    patches: Tensor
    voxels: Tensor

    def __init__(
        self,
        config: UpsamplingConfig,
        *,
        mask: Bool[Tensor, "x y z"],
        token_grid: Size,
        patch_size: int,
        dim: int,
        n_horizons: int,
    ) -> None:
        super().__init__()
        width = config.channels
        self.token_grid, self.n_horizons = token_grid, n_horizons
        x, y, z = (-(-length // patch_size) for length in mask.shape)
        self.sizes = _sizes(token_grid, (x, y, z))
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, width)
        n_mixed = math.prod(token_grid) * width
        self.mix = nn.Linear(n_mixed, n_mixed)
        self.convolutions = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in self.sizes)
        self.gain = nn.Parameter(1 + torch.randn(width, x * y * z))
        self.to_voxels = nn.Linear(width, n_horizons * patch_size**3)
        patches, voxels = _places(mask, patch_size)
        # They follow from the mask, which the tokenizer keeps.
        self.register_buffer("patches", patches, persistent=False)
        self.register_buffer("voxels", voxels, persistent=False)
        self.silence()
        # Input and output of each stage at its full size, and the voxels of all patches that hold any.
        n_maps = sum(3 * width * math.prod(size) for size in self.sizes)
        n_values = n_maps + 2 * self.to_voxels.out_features * len(patches)
        self._frames_at_once = max(1, _CHUNK_BYTES // (4 * n_values))

    def forward(self, tokens: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T K V"]:
        """Forecast ``K`` horizons of all voxels from each time point's tokens."""
        chunks = torch.split(tokens.flatten(0, 1), self._frames_at_once)
        if len(chunks) > 1 and torch.is_grad_enabled():
            parts = [checkpoint(self._decode, chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        else:
            parts = [self._decode(chunk) for chunk in chunks]
        forecasts: Tensor = torch.cat(parts)
        return forecasts.view(*tokens.shape[:2], self.n_horizons, -1)

    def _decode(self, tokens: Float[Tensor, "N P D"]) -> Float[Tensor, "N K V"]:
        seed: Tensor = self.project(self.norm(tokens)).transpose(1, 2).flatten(1)
        seed = seed + self.mix(seed)
        maps: Tensor = seed.view(len(tokens), -1, *self.token_grid)
        for size, convolution in zip(self.sizes, self.convolutions, strict=True):
            maps = nn.functional.interpolate(maps, size=size, mode="trilinear", align_corners=False)
            maps = maps + convolution(nn.functional.gelu(maps))
        values: Tensor = (maps.flatten(2) * self.gain)[:, :, self.patches]
        by_patch = self.to_voxels(values.transpose(1, 2)).unflatten(2, (self.n_horizons, -1))
        # (time points, patches, horizons, voxels of a patch): voxels are numbered patch by patch.
        forecasts: Tensor = by_patch.transpose(1, 2).flatten(2)[:, :, self.voxels]
        return forecasts

    def silence(self) -> None:
        """Set the last map back to 0: the decoder adds nothing."""
        nn.init.zeros_(self.to_voxels.weight)
        nn.init.zeros_(self.to_voxels.bias)


def _sizes(first: Size, last: Size) -> list[Size]:
    """Grids from the one after `first` to `last`, each about twice as fine as that before it; at least `last`."""
    ratio = max(end / start for start, end in zip(first, last, strict=True))
    n = max(1, math.ceil(math.log2(ratio)))
    halvings = range(n - 1, -1, -1)
    return [_between(first, last, 2**halving) for halving in halvings]


def _between(first: Size, last: Size, divisor: int) -> Size:
    x, y, z = (max(min(start, end), -(-end // divisor)) for start, end in zip(first, last, strict=True))
    return x, y, z


def _places(mask: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """Patches that hold a voxel of the mask, and each voxel's place in them: ``patch * patch_size^3 + voxel``."""
    _, ny, nz = (-(-length // patch_size) for length in mask.shape)
    x, y, z = mask.nonzero().unbind(1)
    patch = (x // patch_size * ny + y // patch_size) * nz + z // patch_size
    voxel = (x % patch_size * patch_size + y % patch_size) * patch_size + z % patch_size
    patches, position = torch.unique(patch, return_inverse=True)
    return patches, position * patch_size**3 + voxel
