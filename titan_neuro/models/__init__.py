"""Models of streams: the Titans backbones, their rivals, and the forecaster and language model built on one of them."""

from titan_neuro.models.backbone import Backbone, BackboneState
from titan_neuro.models.forecaster import Forecaster, ForecasterConfig, ForecasterState
from titan_neuro.models.gru import GRU, GRUConfig
from titan_neuro.models.lmm import LMM, LMMConfig
from titan_neuro.models.mac import MAC, MACConfig
from titan_neuro.models.mag import MAG, MAGConfig
from titan_neuro.models.mal import MAL, MALConfig
from titan_neuro.models.recall import RecallConfig
from titan_neuro.models.rivals import count_parameters, match_rivals
from titan_neuro.models.titans_lm import TitansLM, TitansLMConfig
from titan_neuro.models.transformer import Transformer, TransformerConfig
from titan_neuro.models.variants import AnyBackboneConfig

__all__ = [
    "GRU",
    "LMM",
    "MAC",
    "MAG",
    "MAL",
    "AnyBackboneConfig",
    "Backbone",
    "BackboneState",
    "Forecaster",
    "ForecasterConfig",
    "ForecasterState",
    "GRUConfig",
    "LMMConfig",
    "MACConfig",
    "MAGConfig",
    "MALConfig",
    "RecallConfig",
    "TitansLM",
    "TitansLMConfig",
    "Transformer",
    "TransformerConfig",
    "count_parameters",
    "match_rivals",
]
