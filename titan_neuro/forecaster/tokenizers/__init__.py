"""Tokenizers: from a time point to tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.forecaster.tokenizers.config import LinearTokenizerConfig, SwinTokenizerConfig
    from titan_neuro.forecaster.tokenizers.linear import LinearTokenizer
    from titan_neuro.forecaster.tokenizers.swin import SwinTokenizer

_HOMES = {
    "LinearTokenizer": "linear",
    "LinearTokenizerConfig": "config",
    "SwinTokenizer": "swin",
    "SwinTokenizerConfig": "config",
}

__all__ = ["LinearTokenizer", "LinearTokenizerConfig", "SwinTokenizer", "SwinTokenizerConfig"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
