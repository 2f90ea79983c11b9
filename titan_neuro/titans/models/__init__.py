"""Models of streams: the Titans variants LMM, MAC, MAG and MAL, two networks to compare with, and a language model."""

from titan_neuro.titans.models.backbone import Backbone, BackboneState
from titan_neuro.titans.models.gru import GRU, GRUConfig
from titan_neuro.titans.models.lmm import LMM, LMMConfig
from titan_neuro.titans.models.mac import MAC, MACConfig
from titan_neuro.titans.models.mag import MAG, MAGConfig
from titan_neuro.titans.models.mal import MAL, MALConfig
from titan_neuro.titans.models.titans_lm import TitansLM, TitansLMConfig
from titan_neuro.titans.models.transformer import Transformer, TransformerConfig
from titan_neuro.titans.models.variants import AnyBackboneConfig

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
