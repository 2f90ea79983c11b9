"""Persistence: nothing changes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from titan_neuro.typing import FrameRun


class Persistence:
    """Forecast the present frame; the reference of `skill`.

    Parameters
    ----------
    horizons : tuple of int
        Frames ahead, ascending.
    """

    name = "persistence"

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self.horizons = horizons

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """There is nothing to learn."""

    def start(self) -> None:
        """Nothing is carried from frame to frame."""

    def step(self, frames: Tensor, state: None) -> tuple[Tensor, None]:
        """Forecast each frame from itself: ``(time, horizons, features)``."""
        return frames[:, None].expand(-1, len(self.horizons), -1), None
