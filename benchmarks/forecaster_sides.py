"""The two sides that forecaster_speed.py compares: our forecaster, and a 4D window model as SwiFT is one.

The peer stands for SwiFT (Kim et al. 2023): Swin features of every volume, attention over space and time of a window,
all of which it has to see at once. It is given every advantage that a comparison of speed allows:

- the same tokens a time point, decoder and linear skip as ours, so that what differs is the way from the tokens of many
  time points to those that forecast;
- as many parameters (its hidden layers are widened until the two agree);
- full attention in torch's fused kernel, which keeps no matrix of ``T^2`` weights. A time point sees itself and earlier
  ones, so that one pass over a window forecasts from each of its time points, as ours does.

Its Swin transformer is MONAI's as MONAI runs it: all volumes of a call at once. Ours skips what is the same in every
volume (titan_neuro/forecaster/tokenizers/swin_maps.py); with ``is_stock=False`` the peer does the same, and what is
compared is what comes after the tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from common import BenchmarkError
from swin import MonaiTokenizer
from torch import Tensor, nn

from titan_neuro.forecaster import Forecaster, ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig, LowRankDecoder
from titan_neuro.forecaster.fit import ClosedFormFit
from titan_neuro.forecaster.linear_skip import LinearSkip
from titan_neuro.forecaster.recall import RecallFit
from titan_neuro.forecaster.recall.component_autoregression import ComponentAutoregressionFit
from titan_neuro.forecaster.recall.delayed_responses import DelayedResponsesFit
from titan_neuro.forecaster.recall.own_past import OwnPastFit
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemoryFit
from titan_neuro.forecaster.titan import LookaheadMemoryFit
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemoryFit
from titan_neuro.forecaster.titan.own_past_memory import OwnPastMemoryFit
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.study.config import cpu_small, debug, gpu_base

PEER_LAYERS, PEER_HEADS = 3, 4
PRESETS = {"tiny": debug, "small": cpu_small, "large": gpu_base}
# The peer has a Swin. That of the smallest preset is its own; the others, which have none, get one of their size.
_SWINS = {
    # 24 voxels are 12, 6 and 3 patches a side: windows of 3 fit them without padding.
    "small": SwinTokenizerConfig(window_size=3),
    "large": SwinTokenizerConfig(embed_dim=24, depths=(2, 2, 2, 2), token_grid=(3, 3, 3)),
}
SIDES = {"tiny": 8, "small": 24, "large": 48}
"""Voxels along each axis."""
STIMULUS_POSITIONS = 3_052
"""Those of ds003017, all five parts."""
# Queries that meet all keys at a time; a mask is made for so many.
_QUERY_TIME_POINTS = 64


def config_of(size: str) -> ForecasterConfig:
    """Settings of both sides: those of `PRESETS`, with a Swin, `gpu-base` at half its widths."""
    model = PRESETS[size]().model
    tokenizer = _SWINS.get(size, model.tokenizer)
    backbone = dataclasses.replace(model.backbone, tokens_per_time_point=tokenizer.n_tokens)
    if size != "large":
        return dataclasses.replace(model, tokenizer=tokenizer, backbone=backbone)
    backbone = dataclasses.replace(backbone, dim=96, n_layers=2)
    return dataclasses.replace(model, tokenizer=tokenizer, backbone=backbone, decoder=LowRankConfig(rank=32))


def n_streams_of(size: str) -> int:
    """Streams side by side in training: those of the preset."""
    return PRESETS[size]().training.n_streams


def brain(size: str) -> Tensor:
    """Return a ball for a mask, bool ``(x, y, z)``: about a third of the grid, as a brain is."""
    axis = torch.linspace(-1, 1, SIDES[size])
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x**2 + y**2 + z**2 < 0.75


def ours(size: str) -> Forecaster:
    """Our forecaster."""
    mask = brain(size)
    model = config_of(size).build(n_features=int(mask.sum()), mask=mask)
    _fill(model)
    if model.recall is not None:
        model.load_closed_form(noise_fit(model.config, model.n_features, STIMULUS_POSITIONS))
    return model


class WindowForecaster(nn.Module):
    """The peer: MONAI's Swin per time point, then full attention over the tokens of all time points.

    Parameters
    ----------
    size : str
        One of `SIDES`.
    hidden : int
        Width of the hidden layer of each feed-forward part.
    is_stock : bool
        Whether MONAI's transformer runs as it comes.
    """

    def __init__(self, size: str, hidden: int, *, is_stock: bool) -> None:
        super().__init__()
        config, mask = config_of(size), brain(size)
        dim, n_tokens, n_features = config.backbone.dim, config.tokenizer.n_tokens, int(mask.sum())
        self.n_features = n_features
        self.tokenizer = (MonaiTokenizer if is_stock else SwinTokenizer)(config.tokenizer, mask, dim)
        self.blocks = nn.ModuleList(_AttentionBlock(dim, hidden, n_tokens) for _ in range(PEER_LAYERS))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        n_horizons = len(config.horizons)
        self.decoder = LowRankDecoder(
            LowRankConfig(rank=getattr(config.decoder, "rank", 16)),
            dim=dim,
            n_tokens=n_tokens,
            n_horizons=n_horizons,
            n_features=n_features,
        )
        self.linear_skip = LinearSkip(horizons=config.horizons, n_features=n_features)

    def mix(self, tokens: Tensor) -> Tensor:
        """Attention over all time points: ``(batch, time, tokens, dim)`` to the same."""
        x = (tokens + _statistics(tokens)).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        mixed: Tensor = self.norm(x).view_as(tokens)
        return mixed

    def forward(self, series: Tensor) -> tuple[Tensor, None]:
        """``(batch, time, features)`` to forecasts from every time point; there is no state to hand on."""
        return self._linear(series) + self.decoder(self.mix(self.tokenizer(series))), None

    def forecast_last(self, series: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Forecast from the last time point of a window, all of which is seen; its tokens may have been kept."""
        tokens = self.tokenizer(series) if tokens is None else tokens
        recent = series[:, -self.linear_skip.coefficients.shape[1] :]
        return self._linear(recent)[:, -1] + self.decoder(self.mix(tokens)[:, -1:])[:, 0]

    def _linear(self, series: Tensor) -> Tensor:
        forecasts: Tensor = self.linear_skip(series, self.linear_skip.init_state(len(series)))[0]
        return forecasts


class _AttentionBlock(nn.Module):
    def __init__(self, dim: int, hidden: int, tokens_per_time_point: int) -> None:
        super().__init__()
        self.tokens_per_time_point = tokens_per_time_point
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=1e-5) for _ in range(2))
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norms[0](x))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))

    def attend(self, x: Tensor) -> Tensor:
        batch, n_tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, n_tokens, 3, PEER_HEADS, -1).permute(2, 0, 3, 1, 4)
        time_point = torch.arange(n_tokens) // self.tokens_per_time_point
        parts, step = [], _QUERY_TIME_POINTS * self.tokens_per_time_point
        for start in range(0, n_tokens, step):
            stop = min(start + step, n_tokens)
            mask = time_point[start:stop, None] >= time_point[:stop]
            parts.append(F.scaled_dot_product_attention(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], mask))
        return self.out(torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, n_tokens, dim))


def _statistics(tokens: Tensor) -> Tensor:
    """Sines and cosines of the time point's place in the window, ``(time, 1, dim)``."""
    n_time_points, dim = tokens.shape[1], tokens.shape[-1]
    rates = 10_000 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(n_time_points)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None]


def peer(size: str, *, is_stock: bool = True) -> WindowForecaster:
    """Return the peer, its hidden layers so wide that it has as many parameters as ours."""
    wanted, narrow, wide = (
        n_parameters(model)
        for model in (ours(size), *(WindowForecaster(size, hidden, is_stock=is_stock) for hidden in (1, 2)))
    )
    hidden = 1 + max(0, round((wanted - narrow) / (wide - narrow)))
    model = WindowForecaster(size, hidden, is_stock=is_stock)
    _fill(model)
    return model


def n_parameters(model: nn.Module) -> int:
    """Parameters that are learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_sides(size: str) -> dict[str, float]:
    """The gate: parameters match, tokens are the same, and each side gives the same however it is fed.

    Returns
    -------
    dict
        Parameters of both sides, and the greatest difference that was found.

    Raises
    ------
    BenchmarkError
        Parameters differ by more than 3 %, or numbers by more than 1e-4 of the largest.
    """
    torch.manual_seed(0)
    mine, theirs = ours(size).eval(), peer(size).eval()
    counts = {"ours": n_parameters(mine), "peer": n_parameters(theirs)}
    if abs(counts["peer"] / counts["ours"] - 1) > 0.03:
        raise BenchmarkError(f"{size}: parameters differ by more than 3 %: {counts}. Nothing is timed.")
    series = torch.randn(1, 40, mine.n_features)
    with torch.inference_mode():
        whole = mine(series)[0]
        state, parts = mine.init_state(), []
        for block in series[0].split(20):
            forecasts, state = mine.step(block, state)
            parts.append(forecasts)
        dense = theirs(series)[0]
        pairs = {
            "ours in pieces": (torch.cat(parts), whole[0]),
            "peer at the last time point": (theirs.forecast_last(series), dense[:, -1]),
            "peer of fewer time points": (theirs(series[:, :25])[0], dense[:, :25]),
        }
        theirs.tokenizer.load_state_dict(mine.tokenizer.state_dict())
        pairs["tokens"] = (mine.tokenizer(series), theirs.tokenizer(series))
    errors = {name: float((one - other).abs().max() / other.abs().max()) for name, (one, other) in pairs.items()}
    name, worst = max(errors.items(), key=lambda item: item[1])
    if not worst < 1e-4:
        raise BenchmarkError(f"{size}: {name} differ by {worst:.1e}, allowed are 1e-4. Nothing is timed.")
    return {**counts, "greatest difference": worst}


def _fill(model: Forecaster | WindowForecaster) -> None:
    """Linear weights and patterns that are not 0, as those of a trained model."""
    model.linear_skip.coefficients.normal_(std=0.1)
    nn.init.normal_(model.decoder.patterns, std=0.1)


def noise_fit(config: ForecasterConfig, n_features: int, n_positions: int, keys: Sequence[str] = ()) -> ClosedFormFit:
    """A fit of noise with the sizes of a real one, and a stimulus of `n_positions`.

    The runs with these `keys` are those of its training, one subject each, in four folds at most.
    """
    if config.recall is None:
        raise BenchmarkError("noise_fit: the model has no recall.")
    n_subjects, n_folds = len(keys), min(4, len(keys))
    recall = config.recall.build(horizons=config.horizons, n_features=n_features)
    memory = None if config.memory is None else config.memory.build(horizons=config.horizons, width=recall.width)

    def noise(*size: int) -> Tensor:
        return torch.randn(size) * 0.05

    def like(values: Tensor) -> Tensor:
        return noise(*values.shape)

    stimulus, autoregression, delayed = recall.stimulus, recall.autoregression, recall.delayed_responses
    own_past = recall.own_past
    keys_values = noise(n_positions, recall.width), noise(n_positions, recall.sizes.n_components)
    fit = RecallFit(
        innovation_directions=like(recall.innovation_directions),
        stimulus=StimulusMemoryFit(
            whitening=torch.eye(recall.width),
            keys=keys_values[0],
            values=keys_values[1],
            continues=torch.ones(n_positions).index_fill(0, torch.tensor(0), 0.0),
            decay=torch.tensor(0.98),
            sharpness=torch.tensor(1.0),
            weights=like(stimulus.weights),
            whitening_without=torch.eye(recall.width).repeat(n_subjects, 1, 1),
            keys_without=keys_values[0].repeat(n_subjects, 1, 1),
            values_without=keys_values[1].repeat(n_subjects, 1, 1),
            weights_without=noise(n_folds, *stimulus.weights.shape),
        ),
        autoregression=ComponentAutoregressionFit(
            like(autoregression.directions),
            like(autoregression.weights),
            noise(n_folds, *autoregression.weights.shape),
        ),
        delayed_responses=DelayedResponsesFit(delayed.lags, delayed.weights, delayed.weights_without),
        own_past=OwnPastFit(like(own_past.weights), noise(n_folds, *own_past.weights.shape)),
    )
    associations = None if memory is None else memory.associations
    return ClosedFormFit(
        basis=noise(recall.width, n_features),
        recall=fit,
        memory=None
        if memory is None or associations is None
        else LookaheadMemoryFit(
            like(memory.directions),
            OwnPastMemoryFit(
                torch.ones_like(memory.own_past.scale),
                torch.full_like(memory.own_past.penalties, 30.0),
                torch.ones_like(memory.own_past.reliability),
            ),
            ForecastMemoryFit(like(associations.key_map), torch.ones_like(associations.reliability)),
        ),
        runs={key: (place, place % n_folds) for place, key in enumerate(keys)},
    )
