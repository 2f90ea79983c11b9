"""The parts that the models are built of, one `torch.nn.Module` per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.titans.layers.attention import SegmentAttention, SegmentAttentionState
    from titan_neuro.titans.layers.config import NeuralMemoryConfig
    from titan_neuro.titans.layers.feed_forward import FeedForward
    from titan_neuro.titans.layers.gate import NonlinearGate
    from titan_neuro.titans.layers.neural_memory import NeuralMemory, NeuralMemoryState
    from titan_neuro.titans.layers.projection import CausalProjection
    from titan_neuro.titans.layers.whole_window import WholeWindowAttention
    from titan_neuro.titans.layers.window_attention import WindowAttention, WindowAttentionState

_HOMES = {
    "CausalProjection": "projection",
    "FeedForward": "feed_forward",
    "NeuralMemory": "neural_memory",
    "NeuralMemoryConfig": "config",
    "NeuralMemoryState": "neural_memory",
    "NonlinearGate": "gate",
    "SegmentAttention": "attention",
    "SegmentAttentionState": "attention",
    "WholeWindowAttention": "whole_window",
    "WindowAttention": "window_attention",
    "WindowAttentionState": "window_attention",
}

__all__ = [
    "CausalProjection",
    "FeedForward",
    "NeuralMemory",
    "NeuralMemoryConfig",
    "NeuralMemoryState",
    "NonlinearGate",
    "SegmentAttention",
    "SegmentAttentionState",
    "WholeWindowAttention",
    "WindowAttention",
    "WindowAttentionState",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
