"""Forecasts as maps, upsampled from the grid of the tokens to the voxels."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titan_neuro.forecaster.decoders.config import UpsamplingConfig
from titan_neuro.forecaster.shapes import require_tokens

# Memory for the maps of the time points that are decoded at a time, with all that their gradient needs.
_CHUNK_BYTES = 256 * 2**20

Size = tuple[int, int, int]


class UpsamplingDecoder(nn.Module):
    """Upsample the grid of the tokens, coarse to fine, to the grid of the patches, and from there to voxels.

    One linear layer mixes the tokens of all grid positions, so that each position receives what distant tokens hold.
    Each stage doubles the grid (trilinear) and adds a convolution over 3 x 3 x 3 neighbors. On the grid of the patches
    each map is multiplied by a learned gain for each patch, initialized at random: convolutions alone are the same
    everywhere in the brain. A linear map then turns a patch's values into those of its voxels, one for each horizon. It
    starts at 0, so that a new decoder adds nothing to the linear skip. Time points are decoded independently.

    Time points are decoded a few at a time. Where a gradient is needed the maps are computed again for it instead of
    being stored: in addition to its output, the decoder needs a few hundred MB, whatever the number of time points.

    Parameters
    ----------
    config : UpsamplingConfig
    mask : torch.Tensor
        bool ``(x, y, z)``: the voxels that are forecast.
    token_grid : tuple of 3 int
        Grid of the tokens.
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
        self.token_grid, self.dim, self.n_horizons = token_grid, dim, n_horizons
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
        # Derived from the mask, which the tokenizer saves.
        self.register_buffer("patches", patches, persistent=False)
        self.register_buffer("voxels", voxels, persistent=False)
        self.zero_output()
        # Input and output of each stage at its full size, and the voxels of all patches inside the mask.
        n_maps = sum(3 * width * math.prod(size) for size in self.sizes)
        n_values = n_maps + 2 * self.to_voxels.out_features * len(patches)
        self._time_points_at_once = max(1, _CHUNK_BYTES // (4 * n_values))

    def forward(self, tokens: Tensor) -> Float[Tensor, "B T K V"]:
        """Forecast from each time point's tokens.

        Parameters
        ----------
        tokens : torch.Tensor
            ``(batch, time, tokens, dim)``, tokens in the order of the flattened `token_grid`.

        Returns
        -------
        torch.Tensor
            ``(batch, time, horizons, voxels in mask)``.

        Raises
        ------
        MismatchError
            Tokens of another shape or dtype.
        """
        require_tokens(tokens, math.prod(self.token_grid), self.dim, caller="UpsamplingDecoder.forward")
        chunks = torch.split(tokens.flatten(0, 1), self._time_points_at_once)
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

    def zero_output(self) -> None:
        """Set the last map to 0: the decoder then forecasts 0."""
        nn.init.zeros_(self.to_voxels.weight)
        nn.init.zeros_(self.to_voxels.bias)

    def is_zero(self) -> bool:
        """Whether the decoder forecasts 0 from any tokens, as before the first gradient step."""
        return not (self.to_voxels.weight.any() or self.to_voxels.bias.any())


def _sizes(first: Size, last: Size) -> list[Size]:
    """Grids after `first`, up to and including `last`, each about twice as fine as the one before."""
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
