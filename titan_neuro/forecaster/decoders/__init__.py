"""Decoders: from the tokens of a time point to forecasts of later time points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.forecaster.decoders.config import LowRankConfig, UpsamplingConfig
    from titan_neuro.forecaster.decoders.low_rank import LowRankDecoder
    from titan_neuro.forecaster.decoders.upsampling import UpsamplingDecoder

_HOMES = {
    "LowRankConfig": "config",
    "LowRankDecoder": "low_rank",
    "UpsamplingConfig": "config",
    "UpsamplingDecoder": "upsampling",
}

__all__ = ["LowRankConfig", "LowRankDecoder", "UpsamplingConfig", "UpsamplingDecoder"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
