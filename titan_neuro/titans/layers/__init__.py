"""The parts that the models are built of, one `torch.nn.Module` per file."""

from titan_neuro.titans.layers.attention import SegmentAttention, SegmentAttentionState
from titan_neuro.titans.layers.feed_forward import FeedForward
from titan_neuro.titans.layers.gate import NonlinearGate
from titan_neuro.titans.layers.neural_memory import NeuralMemory, NeuralMemoryConfig, NeuralMemoryState
from titan_neuro.titans.layers.projection import CausalProjection
from titan_neuro.titans.layers.whole_window import WholeWindowAttention
from titan_neuro.titans.layers.window_attention import WindowAttention, WindowAttentionState

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
