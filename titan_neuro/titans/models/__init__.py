"""Models of streams: the Titans variants LMM, MAC, MAG and MAL, two networks to compare with, and a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.titans.models.backbone import Backbone, BackboneState
    from titan_neuro.titans.models.config import (
        AnyBackboneConfig,
        GRUConfig,
        LMMConfig,
        MACConfig,
        MAGConfig,
        MALConfig,
        TitansLMConfig,
        TransformerConfig,
    )
    from titan_neuro.titans.models.gru import GRU
    from titan_neuro.titans.models.lmm import LMM
    from titan_neuro.titans.models.mac import MAC
    from titan_neuro.titans.models.mag import MAG
    from titan_neuro.titans.models.mal import MAL
    from titan_neuro.titans.models.titans_lm import TitansLM
    from titan_neuro.titans.models.transformer import Transformer

_HOMES = {
    "AnyBackboneConfig": "config",
    "Backbone": "backbone",
    "BackboneState": "backbone",
    "GRU": "gru",
    "GRUConfig": "config",
    "LMM": "lmm",
    "LMMConfig": "config",
    "MAC": "mac",
    "MACConfig": "config",
    "MAG": "mag",
    "MAGConfig": "config",
    "MAL": "mal",
    "MALConfig": "config",
    "TitansLM": "titans_lm",
    "TitansLMConfig": "config",
    "Transformer": "transformer",
    "TransformerConfig": "config",
}

__all__ = [
    "GRU",
    "LMM",
    "MAC",
    "MAG",
    "MAL",
    "AnyBackboneConfig",
    "Backbone",
    "BackboneState",
    "GRUConfig",
    "LMMConfig",
    "MACConfig",
    "MAGConfig",
    "MALConfig",
    "TitansLM",
    "TitansLMConfig",
    "Transformer",
    "TransformerConfig",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
