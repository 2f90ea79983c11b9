"""The comparison models of a study's model: the same forecaster with another backbone, and as many parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from titan_neuro.errors import ConfigError
from titan_neuro.forecaster.config import ForecasterConfig
from titan_neuro.titans.models.config import GRUConfig, TransformerConfig

# How far a comparison model's number of parameters may be from the model's, as a share of it.
TOLERANCE = 0.05
# What SwiFT's window allows.
_WINDOW_TIME_POINTS = 20
_DEFAULT_EXPANSION = 2


def match_comparison_models(
    config: ForecasterConfig, *, n_features: int, mask: Bool[Tensor, "x y z"] | None = None
) -> tuple[ForecasterConfig, ...]:
    """Give the forecasters that a study's model is compared with: ``gru`` and ``transformer-20``.

    Tokenizer, linear skip, head, horizons and number of layers are the model's own; the backbone differs, and there is
    no recall: persistent memory and memory are the model's. What is matched is the number of trainable parameters of
    the whole model, since tokenizer and head grow with the width of the tokens, too. `dim` is the widest whose
    parameters are no more than the model's, with a feed-forward part as wide in units of `dim`; the feed-forward part
    takes up the rest.

    Parameters
    ----------
    config : ForecasterConfig
        The study's model.
    n_features : int
        Voxels inside the mask, or parcels.
    mask : torch.Tensor, optional
        bool ``(x, y, z)`` with `n_features` voxels set; for the Swin tokenizer.

    Returns
    -------
    tuple of ForecasterConfig
        Without the one that is the model itself, if it is one of them.

    Raises
    ------
    ConfigError
        No comparison model comes within 5 % of the model's number of parameters.
    """

    def count(candidate: ForecasterConfig) -> int:
        return count_parameters(candidate, n_features=n_features, mask=mask)

    own = config.backbone
    n_heads = getattr(own, "n_heads", 4)
    gru = GRUConfig(dim=1, n_layers=own.n_layers, tokens_per_time_point=own.tokens_per_time_point)
    transformer = TransformerConfig(
        dim=2 * n_heads,
        n_layers=own.n_layers,
        tokens_per_time_point=own.tokens_per_time_point,
        n_heads=n_heads,
        n_persistent=getattr(own, "n_persistent", 4),
        window_time_points=_WINDOW_TIME_POINTS,
    )
    comparison_models = (_matched(config, gru, 1, count), _matched(config, transformer, 2 * n_heads, count))
    return tuple(
        comparison_model for comparison_model in comparison_models if comparison_model.backbone.name != own.name
    )


def count_parameters(config: ForecasterConfig, *, n_features: int, mask: Bool[Tensor, "x y z"] | None = None) -> int:
    """Number of trainable parameters of a forecaster; counting draws nothing from torch's random numbers."""
    with torch.random.fork_rng(devices=[]):
        model = config.build(n_features=n_features, mask=mask)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _matched(
    model: ForecasterConfig,
    backbone: GRUConfig | TransformerConfig,
    step: int,
    count: Callable[[ForecasterConfig], int],
) -> ForecasterConfig:
    """`model` with a backbone like `backbone`, whose width is a multiple of `step`, and as many parameters."""
    target, expansion = count(model), getattr(model.backbone, "ff_expansion", _DEFAULT_EXPANSION)

    def sized(dim: int, ff_width: int) -> ForecasterConfig:
        return dataclasses.replace(
            model, recall=None, backbone=dataclasses.replace(backbone, dim=dim, ff_width=ff_width)
        )

    # Every weight is as long as one or two widths: three counts give the parabola through all of them.
    first, second, third = (count(sized(n * step, expansion * n * step)) for n in (1, 2, 3))
    slope, bend = second - first, third - 2 * second + first
    n_steps = 1
    while first + n_steps * slope + n_steps * (n_steps - 1) // 2 * bend <= target:
        n_steps += 1
    dim = n_steps * step
    least = count(sized(dim, 1))
    per_unit = count(sized(dim, 2)) - least
    comparison_model = sized(dim, max(1, 1 + round((target - least) / per_unit)))
    found = count(comparison_model)
    if abs(found - target) > TOLERANCE * target:
        raise ConfigError(
            f"Comparison models: expected {target} parameters, as the model has, found {found} in the nearest "
            f"{comparison_model.backbone.name}: more than {TOLERANCE:.0%} apart.",
            "Change model.backbone.dim, or go without the comparison models: --set comparison_models=false.",
        )
    return comparison_model
