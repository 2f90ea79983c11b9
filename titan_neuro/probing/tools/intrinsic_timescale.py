"""Intrinsic timescales: how long the recording itself stays alike, feature by feature, without any model."""

from __future__ import annotations

import numpy as np

from titan_neuro.runs import read_blocks
from titan_neuro.typing import RunData

_BLOCK_TIME_POINTS = 64


def autocorrelation(run: RunData, n_lags: int) -> np.ndarray:
    """Autocorrelation of each feature over a run's usable time points: those that are scored, with the head still.

    Parameters
    ----------
    run : RunData
        It is read twice, block by block.
    n_lags : int
        Lags are 0, 1, ... time points, at most half of the run.

    Returns
    -------
    numpy.ndarray
        ``(n_lags, features)``. NaN for a constant feature, and at lags that the run is too short for.
    """
    usable = np.asarray(run.scored & ~run.high_motion, dtype=float)
    total = sum(usable[block] @ series.double().cpu().numpy() for block, series in read_blocks(run, _BLOCK_TIME_POINTS))
    mean = total / max(usable.sum(), 1)
    sums, counts = np.zeros((n_lags, run.n_features)), np.zeros(n_lags)
    reached = min(n_lags, run.n_time_points // 2)
    for block, series in read_blocks(run, _BLOCK_TIME_POINTS, n_before=reached - 1):
        first = block.stop - len(series)
        centered = (series.double().cpu().numpy() - mean) * usable[first : block.stop, None]
        for lag in range(reached):
            # Time points of this block whose partner lies in the run.
            start = min(max(block.start, lag), block.stop) - first
            sums[lag] += (centered[start:] * centered[start - lag : len(centered) - lag]).sum(axis=0)
            counts[lag] += usable[first + start : block.stop] @ usable[first + start - lag : block.stop - lag]
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = sums / counts[:, None]
        correlation: np.ndarray = covariance / np.where(covariance[0] > 0, covariance[0], np.nan)
    return correlation


def intrinsic_timescale(autocorrelations: np.ndarray, repetition_time: float) -> np.ndarray:
    """Return the area under the autocorrelation up to its first zero (Watanabe, Rees and Masuda 2019).

    Unlike the lag at which it falls below 1/e it is no multiple of the repetition time, by which most features of
    fMRI would be equal; unlike the time constant of an exponential it needs no model of the decay.

    Parameters
    ----------
    autocorrelations : numpy.ndarray
        ``(lags, features)``, from lag 0 on.
    repetition_time : float
        Seconds.

    Returns
    -------
    numpy.ndarray
        In seconds, ``(features,)``: white noise has the repetition time. NaN where there is no autocorrelation.
    """
    with np.errstate(invalid="ignore"):
        is_before_zero = np.logical_and.accumulate(autocorrelations > 0, axis=0)
    timescale: np.ndarray = repetition_time * np.where(is_before_zero, autocorrelations, 0.0).sum(axis=0)
    return np.where(np.isfinite(autocorrelations[0]), timescale, np.nan)
