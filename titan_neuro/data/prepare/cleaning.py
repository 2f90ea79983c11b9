"""Temporal cleaning: high-pass, confound regression, normalization; causal, or over the whole run where asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_neuro.data.prepare.confound_presets import ConfoundModel
from titan_neuro.data.prepare.confound_regression import CausalRegression
from titan_neuro.data.prepare.high_pass import CausalHighPass, check_cutoff
from titan_neuro.data.prepare.inspection import Inspection
from titan_neuro.data.prepare.normalization import CausalZScore
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.time_series import TimeSeries
from titan_neuro.errors import ImageError

# A block is in memory as it is stored and in double precision; what lies inside the mask, many times more: the z-score
# holds sums, means and deviations of every time point.
BYTES_PER_VALUE_READ = 8 * 2
BYTES_PER_FEATURE = 8 * 14
_DEFAULT_MEMORY_BYTES = 192 * 2**20
# nilearn's filter extends a run by 18 time points at both ends, and needs more than that.
_MIN_FILTERED_TIME_POINTS = 19


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """The temporal cleaning of a run.

    Attributes
    ----------
    confounds : ConfoundModel
        Regressed out; may be without columns.
    high_pass_hz : float or None
        Cut-off of the high-pass filter; None for no filter.
    repetition_time : float
        Seconds.
    """

    confounds: ConfoundModel
    high_pass_hz: float | None
    repetition_time: float


def read_in_blocks(
    series: TimeSeries, inspection: Inspection, memory_bytes: int | None, first: int = 0
) -> Iterator[np.ndarray]:
    """Read a time series to its end, in blocks that fit into memory, and inspect each of them.

    Parameters
    ----------
    series : TimeSeries
    inspection : Inspection
    memory_bytes : int or None
        Bound on what reading and cleaning a block takes, 192 MiB by default; a block has at least one time point.
    first : int
        The time point to begin at: the first of the steady state.

    Yields
    ------
    numpy.ndarray
        ``(time, features)``, in the units of the recording.

    Raises
    ------
    ImageError
        The run is constant, or was low-passed.
    """
    block_length = max(1, (memory_bytes or _DEFAULT_MEMORY_BYTES) // bytes_per_time_point(series))
    for start in range(first, series.n_time_points, block_length):
        block = series.read(start, min(start + block_length, series.n_time_points))
        inspection.inspect(block)
        yield block
    inspection.finish()


def bytes_per_time_point(series: TimeSeries) -> int:
    """Return how many bytes a time point takes while it is read and cleaned, at most."""
    return series.n_values_read * BYTES_PER_VALUE_READ + series.space.n_features * BYTES_PER_FEATURE


def clean_causally(blocks: Iterator[np.ndarray], n_features: int, cleaning: Cleaning) -> Iterator[np.ndarray]:
    """Clean and normalize each time point from the time points before it and itself.

    Parameters
    ----------
    blocks : iterator of numpy.ndarray
        ``(time, features)``, in the order of time.
    n_features : int
    cleaning : Cleaning

    Yields
    ------
    numpy.ndarray
        float32 ``(time, features)``, in standard deviations.
    """
    confounds = cleaning.confounds.values
    high_pass = regression = None
    if cleaning.high_pass_hz is not None:
        high_pass = CausalHighPass(n_features, cleaning.high_pass_hz, cleaning.repetition_time)
        # Confounds are filtered like the data: otherwise the regression would bring slow drifts back.
        confounds = CausalHighPass(confounds.shape[1], cleaning.high_pass_hz, cleaning.repetition_time)(confounds)
    if confounds.shape[1]:
        regression = CausalRegression(n_features, confounds.shape[1])
    z_score = CausalZScore(n_features)
    start = 0
    for block in blocks:
        stop = start + len(block)
        cleaned = block if high_pass is None else high_pass(block)
        if regression is not None:
            cleaned = regression(cleaned, confounds[start:stop])
        yield z_score(cleaned)
        start = stop


def clean_whole_run(
    blocks: Iterator[np.ndarray], n_features: int, cleaning: Cleaning, scratch_file: Path
) -> Iterator[np.ndarray]:
    """Clean and normalize with the whole run at hand, as most of the literature does (`nilearn.signal.clean`).

    The high-pass is nilearn's: a Butterworth filter of fifth order, forward and backward, of data and confounds.

    Parameters
    ----------
    blocks, n_features, cleaning
        As for :func:`clean_causally`.
    scratch_file : Path
        Holds the run between the two passes.

    Yields
    ------
    numpy.ndarray
        float32 ``(time, features)``, in standard deviations.

    Raises
    ------
    ConfigError
        The high-pass filter's cut-off is not below the Nyquist frequency.
    ImageError
        The run is too short for that filter, or has no more time points than confounds, which would explain it
        perfectly.
    """
    if cleaning.high_pass_hz is not None:
        check_cutoff(cleaning.high_pass_hz, cleaning.repetition_time)
    with ScratchSeries(scratch_file) as scratch:
        block_length = 1
        for block in blocks:
            scratch.append(block)
            block_length = max(block_length, len(block))
        _check_length(scratch.n_time_points, cleaning)
        # As many values at a time as in a block.
        width = max(1, block_length * n_features // scratch.n_time_points)
        for first in range(0, n_features, width):
            columns = scratch.read_columns(first, min(first + width, n_features))
            scratch.replace_columns(first, _clean_columns(columns, cleaning))
        for start in range(0, scratch.n_time_points, block_length):
            yield scratch.read(start, min(start + block_length, scratch.n_time_points))


def _check_length(n_time_points: int, cleaning: Cleaning) -> None:
    n_confounds = cleaning.confounds.values.shape[1]
    needed = max(n_confounds + 2, _MIN_FILTERED_TIME_POINTS if cleaning.high_pass_hz is not None else 2)
    if n_time_points < needed:
        raise ImageError(
            f"Over the whole run, this high-pass and {n_confounds} confounds need at least {needed} time points, found "
            f"{n_time_points}.",
            "Leave the run out with --exclude"
            + (", or choose fewer confounds with --confounds." if n_confounds else "."),
        )


def _clean_columns(series: np.ndarray, cleaning: Cleaning) -> np.ndarray:
    """Clean and z-score some features of a whole run, ``(time, features)``."""
    from nilearn.signal import clean

    confounds = cleaning.confounds.values
    # Relative to the first time point a constant feature is exactly 0, and stays 0.
    series = series - series[0].astype(np.float64)
    cleaned = clean(
        series,
        confounds=confounds if confounds.shape[1] else None,
        high_pass=cleaning.high_pass_hz,
        t_r=cleaning.repetition_time,
        detrend=False,
        standardize=None,
        standardize_confounds=True,
    )
    centered = cleaned - cleaned.mean(axis=0)
    deviation = centered.std(axis=0)
    # Where the confounds explain everything, the residual is rounding error.
    constant = deviation <= 1e-9 * series.std(axis=0)
    return np.asarray(np.where(constant, 0.0, centered / np.where(constant, 1.0, deviation)))
