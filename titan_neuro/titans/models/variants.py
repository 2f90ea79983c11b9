"""The variants to choose from, by the setting ``variant``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from titan_neuro.errors import ConfigError
from titan_neuro.titans.models.backbone import BackboneConfig
from titan_neuro.titans.models.gru import GRUConfig
from titan_neuro.titans.models.lmm import LMMConfig
from titan_neuro.titans.models.mac import MACConfig
from titan_neuro.titans.models.mag import MAGConfig
from titan_neuro.titans.models.mal import MALConfig
from titan_neuro.titans.models.transformer import TransformerConfig


def _mac_by_default(settings: Any) -> Any:
    return {"variant": "mac", **settings} if isinstance(settings, Mapping) else settings


AnyBackboneConfig = Annotated[
    Annotated[
        LMMConfig | MACConfig | MAGConfig | MALConfig | GRUConfig | TransformerConfig, Field(discriminator="variant")
    ],
    BeforeValidator(_mac_by_default),
]


def require_causal(config: BackboneConfig, owner: str) -> None:
    """Raise a `ConfigError` where a backbone that is not causal is given to `owner`, which needs a causal one."""
    if isinstance(config, MACConfig) and not config.causal:
        raise ConfigError(
            f"{owner}: backbone.causal is False, so that a time point would see later time points of its segment.",
            "Set backbone.causal to true. False is for encoding whole windows with MAC by itself.",
        )
