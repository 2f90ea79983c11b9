"""The fMRI forecaster: ``forecast = linear skip + recall + backbone``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.forecaster.comparison_models import count_parameters, match_comparison_models
    from titan_neuro.forecaster.config import ForecasterConfig
    from titan_neuro.forecaster.decoders import LowRankConfig, UpsamplingConfig
    from titan_neuro.forecaster.forecaster import Forecaster
    from titan_neuro.forecaster.recall import RecallConfig
    from titan_neuro.forecaster.state import ForecasterState, Observation
    from titan_neuro.forecaster.titan import LookaheadConfig, TitansRuleConfig
    from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig, SwinTokenizerConfig

_HOMES = {
    "Forecaster": "forecaster",
    "ForecasterConfig": "config",
    "ForecasterState": "state",
    "LinearTokenizerConfig": "tokenizers",
    "LookaheadConfig": "titan",
    "LowRankConfig": "decoders",
    "Observation": "state",
    "RecallConfig": "recall",
    "SwinTokenizerConfig": "tokenizers",
    "TitansRuleConfig": "titan",
    "UpsamplingConfig": "decoders",
    "count_parameters": "comparison_models",
    "match_comparison_models": "comparison_models",
}

__all__ = [
    "Forecaster",
    "ForecasterConfig",
    "ForecasterState",
    "LinearTokenizerConfig",
    "LookaheadConfig",
    "LowRankConfig",
    "Observation",
    "RecallConfig",
    "SwinTokenizerConfig",
    "TitansRuleConfig",
    "UpsamplingConfig",
    "count_parameters",
    "match_comparison_models",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
