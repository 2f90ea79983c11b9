"""Simulate: a twin of OpenNeuro ds003017 whose truth is known."""

from titan_neuro.data.simulate.dataset import simulate
from titan_neuro.data.simulate.signal import SimulateConfig

__all__ = ["SimulateConfig", "simulate"]
