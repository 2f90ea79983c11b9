"""Shapes and the protocol that every forecaster keeps, ours and the baselines alike.

Dimension letters, used inside `ops` and `layers` alone: ``B`` batch, ``T`` time (time points or tokens), ``P`` tokens
of a time point, ``D`` width of a memory head or of a token, ``H`` heads, ``C`` chunk length, ``V`` features (voxels
inside the mask, or parcels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

# Framewise displacement, in mm, above which a time point is scored apart (Power et al. 2012).
HIGH_MOTION_MM = 0.5


@runtime_checkable
class RunData(Protocol):
    """What a forecaster may know of one recording: its time points and which of them count.

    Attributes
    ----------
    key : str
        BIDS name of the run, such as ``sub-01_task-movie_run-02``; unique within a dataset.
    subject : str
        Label of the subject, without ``sub-``.
    stimulus : str
        What was shown: runs of one stimulus saw the same at the same time point, counted from `stimulus_start`.
    stimulus_start : int
        Time point at which the stimulus begins, fed or not, scored or not; 0 where that is not known.
    n_time_points, n_features : int
        Length in volumes; number of voxels inside the mask, or of parcels.
    scored : numpy.ndarray
        bool, ``(n_time_points,)``: the time points that a loss or a score may use as a target.
    moving : numpy.ndarray
        bool, ``(n_time_points,)``: the head moved more than `HIGH_MOTION_MM` since the time point before. Such time
        points are fed to every model and scored apart. False throughout where head motion is not known.
    """

    key: str
    subject: str
    stimulus: str
    stimulus_start: int
    n_time_points: int
    n_features: int
    scored: np.ndarray
    high_motion: np.ndarray

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Time points ``start <= t < stop``: float32 ``(stop - start, n_features)``, z-scored per feature."""
        ...


class Stretch(NamedTuple):
    """Time points ``start <= t < stop`` of a run, and the fold of cross-validation that they belong to, if any."""

    run: RunData
    start: int
    stop: int
    fold: int = 0


class ForecastModel(Protocol):
    """A forecaster that reads a run as a stream: the same three steps for a Titans model and for every baseline.

    Attributes
    ----------
    name : str
        Row of the table.
    horizons : tuple of int
        How many time points ahead each forecast looks; ascending, each at least 1.
    """

    name: str
    horizons: tuple[int, ...]

    def fit(self, runs: Sequence[RunData]) -> None:
        """Learn from the training runs."""
        ...

    def init_state(self) -> Any:
        """State before the first time point of a run."""
        ...

    def step(self, series: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Read `series`, ``(time, features)``, and forecast from each of them.

        Returns the forecasts, ``(time, horizons, features)``: entry ``[t, k]`` is what time point ``t + horizons[k]``
        is expected to be, given the time points up to and including ``t``, on the device of `series`; and the state
        after the last time point.
        """
        ...
