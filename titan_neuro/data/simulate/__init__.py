"""Simulate: a synthetic dataset of OpenNeuro ds003017 whose ground truth is known."""

from titan_neuro.data.simulate.config import PRESETS, SimulateConfig, settings_of
from titan_neuro.data.simulate.dataset import simulate

__all__ = ["PRESETS", "SimulateConfig", "settings_of", "simulate"]
