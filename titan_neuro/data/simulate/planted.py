"""What is planted in a synthetic dataset beside movie, spontaneous activity and drift, for models to find."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from titan_neuro.data.simulate.config import RunDesign, SimulateConfig
from titan_neuro.data.simulate.fine_patterns import FinePatterns
from titan_neuro.data.simulate.memory_content import MemoryContent
from titan_neuro.data.simulate.story import Story


class PlantedSignal(Protocol):
    """Patterns over voxels, each with a time course of its own in every run."""

    @property
    def patterns(self) -> np.ndarray:
        """``(patterns, voxels)``."""

    @property
    def variance_fraction(self) -> np.ndarray:
        """Fraction of each voxel's variance that is planted, ``(voxels,)``; it replaces thermal noise."""

    def time_courses(self, subject: int, run: RunDesign) -> np.ndarray:
        """Strength of each of `patterns` at each volume, ``(n_volumes, patterns)``."""


class Planted(NamedTuple):
    """All that is planted in a synthetic dataset; None for what has a fraction of 0."""

    memory_content: MemoryContent | None
    fine_patterns: FinePatterns | None
    story: Story | None

    @property
    def parts(self) -> list[PlantedSignal]:
        """Those that are there."""
        return [part for part in self if part is not None]


def plan_planted(config: SimulateConfig, regions: np.ndarray, coordinates_mm: np.ndarray) -> Planted:
    """Plan what a configuration plants.

    Parameters
    ----------
    config, regions, coordinates_mm
        As in :class:`MemoryContent`.
    """
    has_memory_content = config.association_fraction > 0 or config.delayed_response_fraction > 0
    space: dict[str, Any] = {"config": config, "regions": regions, "coordinates_mm": coordinates_mm}
    return Planted(
        MemoryContent(**space) if has_memory_content else None,
        FinePatterns(**space) if config.fine_pattern_fraction > 0 else None,
        Story(**space) if config.story_fraction > 0 else None,
    )
