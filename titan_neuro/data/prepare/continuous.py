"""The continuous tables of a run (stimulus, ratings, physiology), resampled to its time points."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from titan_neuro.data.bids.continuous import read_continuous, resample
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.errors import MetadataError

logger = logging.getLogger(__name__)


def resample_tables(
    recording: Recording, n_time_points: int, repetition_time: float
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the continuous tables of a run and resample them to its time points.

    The images don't need them: a table that can't be used is left out with a warning, and the reason is recorded.

    Parameters
    ----------
    recording : Recording
    n_time_points : int
    repetition_time : float
        Seconds.

    Returns
    -------
    columns : dict of str to numpy.ndarray
        float32 ``(time,)``, by the names of table and column: ``stim loudness``.
    record : dict
        By table: sampling frequency, start, and the part of the time points that it covers; or why it was left out.
    """
    columns, record = dict[str, np.ndarray](), dict[str, Any]()
    times_s = np.arange(n_time_points) * repetition_time
    for file in recording.continuous:
        try:
            table = read_continuous(file)
        except MetadataError as error:
            logger.warning("%s: is left out, and can't be decoded: %s %s", file.path, error.message, error.hint)
            record[file.name] = {"left_out": error.message}
            continue
        values = resample(table, times_s, repetition_time).astype(np.float32)
        covered = np.isfinite(values).any(axis=1)
        record[file.name] = {
            "sampling_frequency_hz": table.sampling_frequency_hz,
            "start_s": table.start_s,
            "covered": float(covered.mean()),
        }
        if not covered.any() and table.columns:
            logger.warning(
                "%s: has no value during %s: its first row is at %g s and its last at %g s, the run takes %g s.",
                *(file.path, recording.key, table.start_s),
                table.start_s + (len(table.values) - 1) / table.sampling_frequency_hz,
                n_time_points * repetition_time,
            )
        columns |= {
            f"{file.name} {column}": series
            for column, series in zip(table.columns, values.T, strict=True)
            if np.isfinite(series).any()
        }
    return columns, record
