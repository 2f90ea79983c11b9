"""The fMRI forecaster: ``forecast = linear skip + recall + decoder``."""

from titan_neuro.forecaster.comparison_models import count_parameters, match_comparison_models
from titan_neuro.forecaster.forecaster import Forecaster, ForecasterConfig, ForecasterState
from titan_neuro.forecaster.recall.recall import RecallConfig

__all__ = [
    "Forecaster",
    "ForecasterConfig",
    "ForecasterState",
    "RecallConfig",
    "count_parameters",
    "match_comparison_models",
]
