"""Shapes and the protocol that every forecaster keeps, ours and the baselines alike.

Dimension letters, used inside `ops` and `layers` alone: ``B`` batch, ``T`` time (frames or tokens), ``P`` tokens of a
frame, ``D`` width of a memory head or of a token, ``H`` heads, ``C`` chunk length, ``V`` features (voxels inside the
mask, or parcels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

# Framewise displacement, in mm, above which a frame is scored apart (Power et al. 2012).
MOVING_MM = 0.5


@runtime_checkable
class FrameRun(Protocol):
    """What a forecaster may know of one recording: its frames and which of them count.

    Attributes
    ----------
    key : str
        BIDS name of the run, such as ``sub-01_task-movie_run-02``; unique within a dataset.
    subject : str
        Label of the subject, without ``sub-``.
    stimulus : str
        What was shown: runs of one stimulus saw the same at the same frame, counted from `film_start`.
    film_start : int
        Frame at which the stimulus begins, fed or not, scored or not; 0 where that is not known.
    n_frames, n_features : int
        Length in volumes; number of voxels inside the mask, or of parcels.
    scored : numpy.ndarray
        bool, ``(n_frames,)``: the frames that a loss or a score may use as a target.
    moving : numpy.ndarray
        bool, ``(n_frames,)``: the head moved more than `MOVING_MM` since the frame before. Such frames are fed to
        every model and scored apart. False throughout where head motion is not known.
    """

    key: str
    subject: str
    stimulus: str
    film_start: int
    n_frames: int
    n_features: int
    scored: np.ndarray
    moving: np.ndarray

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Frames ``start <= t < stop``: float32 ``(stop - start, n_features)``, z-scored per feature."""
        ...


class Stretch(NamedTuple):
    """Frames ``start <= t < stop`` of a run."""

    run: FrameRun
    start: int
    stop: int


class ForecastModel(Protocol):
    """A forecaster that reads a run as a stream: the same three steps for a Titans model and for every baseline.

    Attributes
    ----------
    name : str
        Row of the table.
    horizons : tuple of int
        How many frames ahead each forecast looks; ascending, each at least 1.
    """

    name: str
    horizons: tuple[int, ...]

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Learn from the training runs."""
        ...

    def start(self) -> Any:
        """State before the first frame of a run."""
        ...

    def step(self, frames: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Read `frames`, ``(time, features)``, and forecast from each of them.

        Returns the forecasts, ``(time, horizons, features)``: entry ``[t, k]`` is what frame ``t + horizons[k]`` is
        expected to be, given the frames up to and including ``t``, on the device of `frames`; and the state after the
        last frame.
        """
        ...
