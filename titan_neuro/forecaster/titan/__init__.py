"""The backbone of the forecaster: blocks of a Titans variant, and the memory that looks ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.forecaster.titan.backbone import ForecasterBackbone, ForecasterBackboneState
    from titan_neuro.forecaster.titan.config import LookaheadConfig, TitansRuleConfig
    from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory, LookaheadMemoryFit

_HOMES = {
    "ForecasterBackbone": "backbone",
    "ForecasterBackboneState": "backbone",
    "LookaheadConfig": "config",
    "LookaheadMemory": "lookahead_memory",
    "LookaheadMemoryFit": "lookahead_memory",
    "TitansRuleConfig": "config",
}

__all__ = [
    "ForecasterBackbone",
    "ForecasterBackboneState",
    "LookaheadConfig",
    "LookaheadMemory",
    "LookaheadMemoryFit",
    "TitansRuleConfig",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
