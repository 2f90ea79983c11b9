"""The fMRI forecaster: ``forecast = linear skip + recall + backbone``."""

from titan_neuro.forecaster.comparison_models import count_parameters, match_comparison_models
from titan_neuro.forecaster.config import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig, UpsamplingConfig
from titan_neuro.forecaster.forecaster import Forecaster
from titan_neuro.forecaster.recall import RecallConfig
from titan_neuro.forecaster.state import ForecasterState, Observation
from titan_neuro.forecaster.titan import LookaheadConfig, TitansRuleConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig, SwinTokenizerConfig

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
