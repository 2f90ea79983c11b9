"""Decoders: from the tokens of a time point to forecasts of later time points."""

from titan_neuro.forecaster.decoders.low_rank import LowRankConfig, LowRankDecoder
from titan_neuro.forecaster.decoders.upsampling import UpsamplingConfig, UpsamplingDecoder

__all__ = ["LowRankConfig", "LowRankDecoder", "UpsamplingConfig", "UpsamplingDecoder"]
