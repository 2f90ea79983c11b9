"""One `torch.nn.Module` a file: the parts of which the models are built."""

from titan_neuro.titans.layers.attention import AttentionCache, SegmentAttention
from titan_neuro.titans.layers.feed_forward import FeedForward
from titan_neuro.titans.layers.gate import NonlinearGate
from titan_neuro.titans.layers.neural_memory import NeuralMemory, NeuralMemoryConfig, NeuralMemoryState
from titan_neuro.titans.layers.projection import CausalProjection
from titan_neuro.titans.layers.whole_window import WholeWindowAttention
from titan_neuro.titans.layers.window_attention import WindowAttention, WindowCache

__all__ = [
    "AttentionCache",
    "CausalProjection",
    "FeedForward",
    "NeuralMemory",
    "NeuralMemoryConfig",
    "NeuralMemoryState",
    "NonlinearGate",
    "SegmentAttention",
    "WholeWindowAttention",
    "WindowAttention",
    "WindowCache",
]
