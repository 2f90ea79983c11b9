"""The Titans memory: an MLP that learns at test time, one gradient step a token (README.md derives the fast form)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.titans.memory.backends import Backend
    from titan_neuro.titans.memory.scan import memory_read, memory_scan
    from titan_neuro.titans.memory.state import MemoryState, init_state
    from titan_neuro.titans.memory.surprise import memory_surprise

_HOMES = {
    "Backend": "backends",
    "MemoryState": "state",
    "init_state": "state",
    "memory_read": "scan",
    "memory_scan": "scan",
    "memory_surprise": "surprise",
}

__all__ = ["Backend", "MemoryState", "init_state", "memory_read", "memory_scan", "memory_surprise"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
