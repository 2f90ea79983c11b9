"""Tokenizers: from a time point to tokens."""

from titan_neuro.forecaster.tokenizers.linear import LinearTokenizer, LinearTokenizerConfig
from titan_neuro.forecaster.tokenizers.swin import SwinTokenizer, SwinTokenizerConfig

__all__ = ["LinearTokenizer", "LinearTokenizerConfig", "SwinTokenizer", "SwinTokenizerConfig"]
