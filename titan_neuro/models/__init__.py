"""Models of streams: the Titans backbones, and the forecaster and the language model that are built on one."""

from titan_neuro.models.backbone import Backbone, BackboneState
from titan_neuro.models.forecaster import Forecaster, ForecasterConfig, ForecasterState
from titan_neuro.models.lmm import LMM, LMMConfig
from titan_neuro.models.mac import MAC, MACConfig
from titan_neuro.models.mag import MAG, MAGConfig
from titan_neuro.models.mal import MAL, MALConfig
from titan_neuro.models.titans_lm import TitansLM, TitansLMConfig
from titan_neuro.models.variants import AnyBackboneConfig

__all__ = [
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
    "LMMConfig",
    "MACConfig",
    "MAGConfig",
    "MALConfig",
    "TitansLM",
    "TitansLMConfig",
]
