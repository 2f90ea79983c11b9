"""The Titans memory: an MLP that learns at test time, one gradient step a token (README.md derives the fast form)."""

from titan_neuro.titans.memory.scan import Backend, memory_read, memory_scan
from titan_neuro.titans.memory.state import MemoryState, init_state
from titan_neuro.titans.memory.surprise import memory_surprise

__all__ = ["Backend", "MemoryState", "init_state", "memory_read", "memory_scan", "memory_surprise"]
