"""Settings of the memory as a layer; no torch is imported here, so that settings are checked at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from titan_neuro.settings import settings
from titan_neuro.titans.memory.backends import Backend

if TYPE_CHECKING:
    from titan_neuro.titans.layers.neural_memory import NeuralMemory


@settings
class NeuralMemoryConfig:
    """Size of the memory, and limits to its learning.

    Attributes
    ----------
    n_heads : int
        Number of memories, each for its part of the width.
    depth : int
        Layers of each memory's MLP.
    expansion : int
        Hidden width of the MLP, in units of a head's width.
    chunk_time_points : int
        Time points of a chunk: all gradients of a chunk are taken at the weights before the chunk (equation 16).
    kernel_time_points : int
        Time points that the convolution after queries, keys and values sees.
    max_step : float
        Bound of the step size: if all tokens of a chunk had the same key, they would remove at most this fraction of
        the error at that key. Above 2 a memory of one layer may diverge.
    max_momentum : float
        Bound of the momentum gate, below 1.
    max_delta_norm : float or None
        Largest error that a token may write; see `memory_scan`.
    backend : {"auto", "naive", "chunked", "native", "triton"}
        Implementation of the memory; see `memory_scan`.
    """

    n_heads: Annotated[int, Field(ge=1)] = 4
    depth: Annotated[int, Field(ge=1)] = 2
    expansion: Annotated[int, Field(ge=1)] = 2
    chunk_time_points: Annotated[int, Field(ge=1)] = 8
    kernel_time_points: Annotated[int, Field(ge=1)] = 4
    max_step: Annotated[float, Field(gt=0, le=2)] = 1.5
    max_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    max_delta_norm: Annotated[float, Field(gt=0)] | None = 10.0
    backend: Backend = "auto"

    def build(self, *, dim: int, tokens_per_time_point: int = 1) -> NeuralMemory:
        """Make the layer for tokens of width `dim`, `tokens_per_time_point` of which form a time point."""
        from titan_neuro.titans.layers.neural_memory import NeuralMemory

        return NeuralMemory(self, dim=dim, tokens_per_time_point=tokens_per_time_point)
