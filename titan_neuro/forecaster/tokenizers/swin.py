"""Tokens of volumes: MONAI's Swin transformer, one volume at a time. The only place that imports MONAI."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titan_neuro.forecaster.shapes import require_series
from titan_neuro.forecaster.tokenizers.config import SwinTokenizerConfig
from titan_neuro.forecaster.tokenizers.swin_maps import PooledMaps

# Bytes of the largest table of the volumes that are encoded together on a CPU: more fall out of its caches, fewer leave
# most of the time to what a call costs.
_LARGEST_BYTES = 8 * 2**20
# Memory for the time points that are encoded at a time, with all that their gradient needs.
_CHUNK_BYTES = 2 * 2**30


class SwinTokenizer(nn.Module):
    """`SwinTransformer` of MONAI, its five maps pooled to one grid, projected and added.

    All maps are used, from the finest to the one whose receptive field is the whole brain, so that every parameter has
    a gradient. Volumes may have any size. Time points are encoded a few at a time; where there are more, what a
    gradient needs is computed again instead of being stored.

    Parameters
    ----------
    config : SwinTokenizerConfig
    mask : torch.Tensor
        bool ``(x, y, z)``: the voxels that are the features of a time point; outside, the volume is 0 (the mean).
    dim : int
        Width of a token.
    """

    mask: Tensor

    def __init__(self, config: SwinTokenizerConfig, mask: Tensor, dim: int) -> None:
        super().__init__()
        # Imported here: MONAI takes seconds, and parcels don't need it.
        from monai.networks.nets.swin_unetr import SwinTransformer

        self.token_grid = config.token_grid
        self.register_buffer("mask", mask)
        self.swin = SwinTransformer(
            in_chans=1,
            embed_dim=config.embed_dim,
            window_size=(config.window_size,) * 3,
            patch_size=(config.patch_size,) * 3,
            depths=config.depths,
            num_heads=config.num_heads,
            spatial_dims=3,
        )
        self.maps = PooledMaps(config, mask)
        self._volumes_at_once = max(1, _LARGEST_BYTES // max(1, 4 * self.maps.n_largest))
        self.swin.requires_grad_(not config.frozen)
        self.frozen, self.map_widths, self.n_features = config.frozen, config.map_widths, int(mask.sum())
        self.projections = nn.ModuleList(nn.Linear(width, dim, bias=False) for width in self.map_widths)
        self.position = nn.Parameter(torch.randn(config.n_tokens, dim) * 0.02)
        self._time_points_at_once = max(1, _CHUNK_BYTES // max(1, 4 * self.maps.n_numbers))

    def forward(self, series: Tensor) -> Float[Tensor, "B T P D"]:
        """Turn each time point into tokens.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, voxels in mask)``, z-scored.

        Returns
        -------
        torch.Tensor
            ``(batch, time, tokens, dim)``.

        Raises
        ------
        MismatchError
            Series of another rank, number of voxels or dtype.
        """
        return self.project(self.features(series))

    def features(self, series: Tensor) -> Float[Tensor, "B T P F"]:
        """Encode each time point: MONAI's maps, pooled to the grid of the tokens.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, voxels in mask)``, z-scored.

        Returns
        -------
        torch.Tensor
            ``(batch, time, tokens, channels of all maps)``.

        Raises
        ------
        MismatchError
            Series of another rank, number of voxels or dtype.
        """
        require_series(series, self.n_features, caller="SwinTokenizer.forward", dtype=self.position.dtype)
        learns = torch.is_grad_enabled() and not self.frozen
        chunks = torch.split(series.flatten(0, 1), self._time_points_at_once)
        with torch.set_grad_enabled(learns):
            if learns and len(chunks) > 1:
                parts = [
                    checkpoint(self._encode, chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks
                ]
            else:
                parts = [self._encode(chunk) for chunk in chunks]
        features: Tensor = torch.cat(parts)
        return features.view(*series.shape[:2], *features.shape[1:])

    def _encode(self, series: Float[Tensor, "N V"]) -> Float[Tensor, "N P F"]:
        at_once = self._volumes_at_once if series.device.type == "cpu" else len(series)
        return torch.cat([self.maps(volumes, self.swin) for volumes in torch.split(series, at_once)])

    def project(self, features: Float[Tensor, "B T P F"]) -> Float[Tensor, "B T P D"]:
        """Project the pooled maps to tokens.

        Parameters
        ----------
        features : torch.Tensor
            From :meth:`features`, ``(batch, time, tokens, channels of all maps)``.

        Returns
        -------
        torch.Tensor
            ``(batch, time, tokens, dim)``.
        """
        tokens: Tensor = self.position.expand(*features.shape[:2], -1, -1)
        for values, project in zip(torch.split(features, self.map_widths, dim=-1), self.projections, strict=True):
            tokens = tokens + project(values)
        return tokens

    def train(self, mode: bool = True) -> SwinTokenizer:
        """Switch to training or evaluation mode; a frozen Swin stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.swin.eval()
        return self
