"""Tokenizers: from a time point to tokens."""

from titan_neuro.forecaster.tokenizers.parcels import ParcelTokenizer, ParcelTokenizerConfig
from titan_neuro.forecaster.tokenizers.swin import SwinTokenizer, SwinTokenizerConfig

__all__ = ["ParcelTokenizer", "ParcelTokenizerConfig", "SwinTokenizer", "SwinTokenizerConfig"]
