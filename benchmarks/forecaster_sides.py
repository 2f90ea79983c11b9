"""The two sides that forecaster_speed.py compares: our forecaster, and a 4D window model as SwiFT is one.

The peer stands for SwiFT (Kim et al. 2023): Swin features of every volume, attention over space and time of a window, all
of which it has to see at once. It is given every advantage that costs no accuracy of the comparison:

- the same tokens a frame, the same head and the same linear skip as ours, so that what differs is the way from the
  tokens of many frames to those that forecast;
- as many parameters (its hidden layers are widened until the two agree);
- full attention in torch's fused kernel, which keeps no matrix of ``T^2`` weights; a frame sees itself and earlier ones,
  so that one pass over a window forecasts from each of its frames, as ours does.

Its Swin transformer is MONAI's, as MONAI runs it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titan_neuro.config.study import cpu_small, gpu_base
from titan_neuro.layers.head import HorizonHead
from titan_neuro.layers.tokenizer import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.models.forecaster import Forecaster, ForecasterConfig
from titan_neuro.ops.autoregression import ORDERS, autoregress

PEER_LAYERS, PEER_HEADS = 3, 4
# Queries that meet all keys at a time; a mask is made for so many.
_QUERY_FRAMES = 64


def config_of(size: str) -> ForecasterConfig:
    """Settings of our side by the name of a size: ``small`` (24 voxels a side) or ``large`` (48)."""
    if size == "small":
        return cpu_small().model
    large = gpu_base().model
    backbone = dataclasses.replace(large.backbone, dim=96, n_layers=2)
    return dataclasses.replace(large, backbone=backbone, head_rank=32)


def brain(side: int) -> Tensor:
    """Return a ball for a mask: bool ``(side, side, side)``, about a third of the grid, as a brain is."""
    axis = torch.linspace(-1, 1, side)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x**2 + y**2 + z**2 < 0.75


SIDES = {"small": 24, "large": 48}


def ours(size: str) -> Forecaster:
    """Our forecaster with a linear skip that is not 0."""
    mask = brain(SIDES[size])
    return _with_skip(config_of(size).build(n_features=int(mask.sum()), mask=mask))


class WindowForecaster(nn.Module):
    """The peer: MONAI's Swin per frame, then full attention over the tokens of all frames.

    Parameters
    ----------
    config : ForecasterConfig
        Of our side; tokenizer, head and skip are the same.
    mask : torch.Tensor
        bool ``(x, y, z)``.
    hidden : int
        Width of the hidden layer of each feed-forward part.
    """

    coefficients: Tensor
    intercept: Tensor

    def __init__(self, config: ForecasterConfig, mask: Tensor, hidden: int) -> None:
        super().__init__()
        assert isinstance(config.tokenizer, SwinTokenizerConfig)
        dim, n_features = config.backbone.dim, int(mask.sum())
        self.tokenizer = SwinTokenizer(config.tokenizer, mask, dim)
        self.blocks = nn.ModuleList(_AttentionBlock(dim, hidden, config.tokenizer.n_tokens) for _ in range(PEER_LAYERS))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.head = HorizonHead(
            token_width=config.tokenizer.n_tokens * dim,
            n_horizons=len(config.horizons),
            rank=config.head_rank,
            n_features=n_features,
        )
        self.register_buffer("coefficients", torch.zeros(len(config.horizons), max(ORDERS), n_features))
        self.register_buffer("intercept", torch.zeros(len(config.horizons), n_features))

    def mix(self, tokens: Tensor) -> Tensor:
        """Attention over all frames: ``(batch, time, tokens, dim)`` to the same."""
        x = (tokens + _moments(tokens)).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        mixed: Tensor = self.norm(x).view_as(tokens)
        return mixed

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        """``(batch, time, features)`` to forecasts from every frame; there is no state to hand on."""
        history = self.coefficients.new_zeros(len(frames), self.coefficients.shape[1] - 1, frames.shape[-1])
        linear, _ = autoregress(frames, history, self.coefficients, self.intercept)
        return linear + self.head(self.mix(self.tokenizer(frames))), None


class _AttentionBlock(nn.Module):
    def __init__(self, dim: int, hidden: int, tokens_per_frame: int) -> None:
        super().__init__()
        self.tokens_per_frame = tokens_per_frame
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=1e-5) for _ in range(2))
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norms[0](x))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))

    def attend(self, x: Tensor) -> Tensor:
        batch, n_tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, n_tokens, 3, PEER_HEADS, -1).permute(2, 0, 3, 1, 4)
        frame = torch.arange(n_tokens) // self.tokens_per_frame
        parts, step = [], _QUERY_FRAMES * self.tokens_per_frame
        for start in range(0, n_tokens, step):
            stop = min(start + step, n_tokens)
            mask = frame[start:stop, None] >= frame[:stop]
            parts.append(F.scaled_dot_product_attention(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], mask))
        return self.out(torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, n_tokens, dim))


def _moments(tokens: Tensor) -> Tensor:
    """Sines and cosines of the frame's place in the window, ``(time, 1, dim)``."""
    n_frames, dim = tokens.shape[1], tokens.shape[-1]
    rates = 10_000 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(n_frames)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None]


def peer(size: str) -> WindowForecaster:
    """Return the peer, its hidden layers so wide that it has as many parameters as ours."""
    config, mask = config_of(size), brain(SIDES[size])
    wanted, narrow, wide = (
        n_parameters(model) for model in (ours(size), *(WindowForecaster(config, mask, hidden) for hidden in (1, 2)))
    )
    hidden = 1 + max(0, round((wanted - narrow) / (wide - narrow)))
    return _with_skip(WindowForecaster(config, mask, hidden))


def n_parameters(model: nn.Module) -> int:
    """Parameters that are learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def _with_skip(model: Any) -> Any:
    model.coefficients.normal_(std=0.1)
    nn.init.normal_(model.head.patterns, std=0.1)
    return model
