"""The protocols of runs and of forecasters, which Titans models and baselines share.

Dimension letters, used in `titans` and `forecaster` only: ``B`` batch, ``T`` time (time points or tokens), ``P`` tokens
of a time point, ``D`` width of a memory head or of a token, ``H`` heads, ``C`` chunk length, ``V`` features (voxels
inside the mask, or parcels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

HIGH_MOTION_MM = 0.5
"""Framewise displacement, in mm, above which a time point is scored separately (Power et al. 2012)."""


@runtime_checkable
class RunData(Protocol):
    """One recording as a forecaster may see it: its time points, and which of them are scored.

    Attributes
    ----------
    key : str
        BIDS name of the run, such as ``sub-01_task-movie_run-02``; unique within a dataset.
    subject : str
        Label of the subject, without ``sub-``.
    stimulus : str
        Name of the stimulus. Runs of one stimulus were recorded while the same was presented, in time with it: they
        match time point by time point, counted from `stimulus_start`.
    stimulus_start : int
        Time point at which the stimulus begins; 0 where that is not known.
    n_time_points, n_features : int
        Length in time points; number of voxels inside the mask, or of parcels.
    scored : numpy.ndarray
        bool, ``(n_time_points,)``: the time points that may be the target of a loss or a score.
    high_motion : numpy.ndarray
        bool, ``(n_time_points,)``: framewise displacement above `HIGH_MOTION_MM`. Such time points are input to every
        model, and are scored separately. False throughout where head motion is not known.
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
        """Read the time points ``start <= t < stop``.

        Returns
        -------
        torch.Tensor
            float32, ``(stop - start, n_features)``, z-scored per feature; shorter where the run ends before `stop`.
        """
        ...


class Stretch(NamedTuple):
    """Time points ``start <= t < stop`` of a run, and the fold of cross-validation that they belong to, if any."""

    run: RunData
    start: int
    stop: int
    fold: int = 0


class ForecastModel(Protocol):
    """A forecaster that reads a run as a stream: the same interface for a Titans model and for every baseline.

    Attributes
    ----------
    name : str
        Name of the forecaster in tables.
    horizons : tuple of int
        Lead times in time points: ascending, each at least 1.
    """

    name: str
    horizons: tuple[int, ...]

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs."""
        ...

    def init_state(self) -> Any:
        """Return the state before the first time point of a run."""
        ...

    def step(self, series: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Read time points and make forecasts from each of them.

        Parameters
        ----------
        series : torch.Tensor
            ``(time, features)``: the time points that follow those of the call before.
        state : object
            From `init_state`, or from the call before.

        Returns
        -------
        forecasts : torch.Tensor
            ``(time, horizons, features)``, on the device of `series`. Entry ``[t, k]`` is the forecast of time point
            ``t + horizons[k]``, given the time points up to and including ``t``.
        state : object
            After the last time point.
        """
        ...
