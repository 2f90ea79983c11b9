"""The backbone of the forecaster: blocks of a Titans variant, and the memory that looks ahead."""

from titan_neuro.forecaster.titan.backbone import ForecasterBackbone, ForecasterBackboneState
from titan_neuro.forecaster.titan.lookahead_memory import LookaheadConfig, LookaheadMemory, LookaheadMemoryFit
from titan_neuro.forecaster.titan.titans_memory import TitansRuleConfig

__all__ = [
    "ForecasterBackbone",
    "ForecasterBackboneState",
    "LookaheadConfig",
    "LookaheadMemory",
    "LookaheadMemoryFit",
    "TitansRuleConfig",
]
