"""From volumes to standard deviations: high-pass, confound fit, z-score; causal, or over the whole run where asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_neuro.data.prepare.confounds import ConfoundModel
from titan_neuro.data.prepare.normalize import CausalZScore
from titan_neuro.data.prepare.scratch import Scratch
from titan_neuro.data.prepare.sources import Source
from titan_neuro.data.prepare.temporal import CausalHighPass, CausalRegression, check_cutoff, is_band_passed
from titan_neuro.errors import ImageError

# A volume is read as it is stored and in double precision; what is kept of it is held a few times over.
_READ_BYTES_A_VALUE = 8 * 2
_BYTES_A_VALUE = 8 * 6
_DEFAULT_MEMORY_BYTES = 128 * 2**20
# Enough of a run to see what was filtered out of it.
_INSPECTED_TIME_POINTS, _INSPECTED_FEATURES = 256, 1000
# nilearn's filter continues a run by 18 volumes at both ends, which it must have.
_FILTERED_TIME_POINTS = 19


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is taken out of a run.

    Attributes
    ----------
    confounds : ConfoundModel
        Regressed out; may have no column.
    high_pass_hz : float or None
    repetition_time : float
        Seconds.
    """

    confounds: ConfoundModel
    high_pass_hz: float | None
    repetition_time: float


class Inspection:
    """Looks at volumes as they pass: refuses what was band-passed or holds nothing, counts what is constant, averages.

    Parameters
    ----------
    name : str
        Of the run, for messages.
    n_features : int
    repetition_time : float
        Seconds.
    """

    def __init__(self, name: str, n_features: int, repetition_time: float) -> None:
        self._name, self._repetition_time = name, repetition_time
        self._step = -(-n_features // _INSPECTED_FEATURES)
        self._seen: list[np.ndarray] = []
        self._n_seen = 0
        self._first: np.ndarray | None = None
        self._constant = np.ones(n_features, dtype=bool)
        self._sum, self._n_time_points = np.zeros(n_features), 0

    @property
    def mean(self) -> np.ndarray:
        """Mean of the volumes so far, before anything was done along time: float64 ``(features,)``."""
        return self._sum / max(self._n_time_points, 1)

    @property
    def n_constant(self) -> int:
        """Features that have not changed so far."""
        return int(self._constant.sum())

    def look(self, block: np.ndarray) -> None:
        """Look at the next volumes, ``(time, features)``."""
        if self._first is None:
            self._first = np.array(block[0])
        self._constant &= (block == self._first).all(axis=0)
        self._sum += block.sum(axis=0, dtype=np.float64)
        self._n_time_points += len(block)
        if self._n_seen < _INSPECTED_TIME_POINTS:
            self._seen.append(np.array(block[: _INSPECTED_TIME_POINTS - self._n_seen, :: self._step]))
            self._n_seen += len(self._seen[-1])
            if self._n_seen == _INSPECTED_TIME_POINTS:
                self._check_spectrum()

    def finish(self) -> None:
        """Draw the conclusions at the end of the run.

        Raises
        ------
        ImageError
            Every voxel is constant, or the run was band-passed.
        """
        if self._constant.all():
            raise ImageError(
                f"{self._name}: expected values that change over time, found every one of {len(self._constant)} voxels "
                "or parcels constant.",
                "Is the mask on the brain? Is the file an image of one moment?",
            )
        if self._n_seen < _INSPECTED_TIME_POINTS:
            self._check_spectrum()

    def _check_spectrum(self) -> None:
        if is_band_passed(np.concatenate(self._seen), self._repetition_time):
            raise ImageError(
                f"{self._name}: expected volumes as they were recorded, found them low-passed or band-passed: from such "
                "volumes any later one can be told (white noise gives an r2 of 0.99), which is no forecast.",
                "Prepare the data without a temporal filter; a high-pass is fine (--set prepare.high_pass_hz=0.008).",
            )


def source_blocks(source: Source, inspection: Inspection, memory_bytes: int | None) -> Iterator[np.ndarray]:
    """Read a source to its end, in blocks that fit the memory, and have them looked at."""
    memory_bytes = memory_bytes or _DEFAULT_MEMORY_BYTES
    volumes = max(1, memory_bytes // (source.width * _READ_BYTES_A_VALUE + source.space.n_features * _BYTES_A_VALUE))
    for start in range(0, source.n_time_points, volumes):
        block = source.block(start, min(start + volumes, source.n_time_points))
        inspection.look(block)
        yield block
    inspection.finish()


def causal_blocks(blocks: Iterator[np.ndarray], n_features: int, cleaning: Cleaning) -> Iterator[np.ndarray]:
    """Clean and scale volume after volume, each from what came before it.

    Parameters
    ----------
    blocks : iterator of numpy.ndarray
        ``(time, features)``, in order of time.
    n_features : int
    cleaning : Cleaning

    Yields
    ------
    numpy.ndarray
        float32 ``(time, features)``, in standard deviations.
    """
    values = cleaning.confounds.values
    high_pass = regression = None
    if cleaning.high_pass_hz is not None:
        high_pass = CausalHighPass(n_features, cleaning.high_pass_hz, cleaning.repetition_time)
        # A confound is filtered as the data are: else it would bring back what the filter took out.
        values = CausalHighPass(values.shape[1], cleaning.high_pass_hz, cleaning.repetition_time)(values)
    if values.shape[1]:
        regression = CausalRegression(n_features, values.shape[1])
    scale = CausalZScore(n_features)
    start = 0
    for block in blocks:
        confounds = values[start : start + len(block)]
        start += len(block)
        if high_pass is not None:
            block = high_pass(block)
        if regression is not None:
            block = regression(block, confounds)
        yield scale(block)


def whole_run_blocks(
    blocks: Iterator[np.ndarray], n_features: int, cleaning: Cleaning, scratch_file: Path
) -> Iterator[np.ndarray]:
    """Clean and scale with the whole run at hand, as most of the literature does (`nilearn.signal.clean`).

    Its high-pass is nilearn's: a Butterworth filter of fifth order, forward and backward, of data and confounds.

    Parameters
    ----------
    blocks, n_features, cleaning
        As for :func:`causal_blocks`.
    scratch_file : Path
        Where the run lies between the two passes.

    Raises
    ------
    ConfigError
        The high-pass filter's cut-off is not below the Nyquist frequency.
    ImageError
        The run is too short for that filter, or has no more volumes than confounds, which would explain anything.
    """
    if cleaning.high_pass_hz is not None:
        check_cutoff(cleaning.high_pass_hz, cleaning.repetition_time)
    with Scratch(scratch_file) as scratch:
        length = 1
        for block in blocks:
            scratch.append(block)
            length = max(length, len(block))
        _check_length(scratch.n_time_points, cleaning)
        # As much at a time as the blocks held.
        width = max(1, length * n_features // scratch.n_time_points)
        for first in range(0, n_features, width):
            columns = scratch.columns(first, min(first + width, n_features))
            scratch.replace_columns(first, _clean_whole(columns, cleaning))
        for start in range(0, scratch.n_time_points, length):
            yield scratch.volumes(start, min(start + length, scratch.n_time_points))


def _check_length(n_time_points: int, cleaning: Cleaning) -> None:
    needed = max(
        cleaning.confounds.values.shape[1] + 2, _FILTERED_TIME_POINTS if cleaning.high_pass_hz is not None else 2
    )
    if n_time_points < needed:
        raise ImageError(
            f"Over the whole run, this high-pass and {cleaning.confounds.values.shape[1]} confounds need at least "
            f"{needed} volumes, found {n_time_points}.",
            "Leave the run out, or choose fewer confounds.",
        )


def _clean_whole(series: np.ndarray, cleaning: Cleaning) -> np.ndarray:
    from nilearn.signal import clean

    confounds = cleaning.confounds.values
    # Counted from the first volume, what never changes is 0 without any rounding, and stays 0.
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
    # Where the confounds explain all, rounding is what they leave.
    constant = deviation <= 1e-9 * series.std(axis=0)
    return np.where(constant, 0.0, centered / np.where(constant, 1.0, deviation))
