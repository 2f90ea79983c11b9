"""Event boundaries, and whether a measure is higher near them than chance predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from titan_neuro.probing.tools.event_hmm import fit_events
from titan_neuro.runs import read_blocks
from titan_neuro.seeds import named_generator
from titan_neuro.typing import RunData

Null = Literal["lengths", "shifts"]

_BLOCK_TIME_POINTS = 64
_PERMUTATIONS_AT_A_TIME = 1000
# Where there is no basis, more features than this are projected at random onto this many: cosines between time points
# are kept to within a few percent.
_MAX_FEATURES = 512
# Time points that an event must last on average for the HMM to separate it from its neighbors.
_MIN_TIME_POINTS_PER_EVENT = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class RunMeasures:
    """Measures of one run, and the event boundaries in it.

    Attributes
    ----------
    key, subject, stimulus : str
        As in :class:`titan_neuro.typing.RunData`.
    values : numpy.ndarray
        ``(time, measures)``; NaN where a measure has no value.
    usable : numpy.ndarray
        bool ``(time,)``: time points that enter the contrast.
    boundaries : dict of str to numpy.ndarray
        By kind of events: the first time point of each event except the first, ascending.
    """

    key: str
    subject: str
    stimulus: str
    values: np.ndarray
    usable: np.ndarray
    boundaries: Mapping[str, np.ndarray]

    @property
    def span(self) -> tuple[int, int]:
        """First usable time point, and the one after the last."""
        time_points = np.flatnonzero(self.usable)
        return int(time_points[0]), int(time_points[-1]) + 1

    def scaled(self) -> np.ndarray:
        """Return the measures z-scored over usable time points, ``(time, measures)``.

        0 at time points that are not usable or have no value; NaN throughout for a measure that is constant or has no
        value at all.
        """
        scaled = np.zeros_like(self.values)
        for index, values in enumerate(self.values.T):
            finite = self.usable & np.isfinite(values)
            spread = values[finite].std() if finite.any() else 0.0
            if spread > 1e-9 * max(np.abs(values[finite]).max(initial=0.0), 1e-300):
                scaled[finite, index] = (values[finite] - values[finite].mean()) / spread
            else:
                scaled[:, index] = np.nan
        return scaled


def average_subjects(runs: Sequence[RunData], basis: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Average the runs of several subjects at each time point of their stimulus; one block is in memory at a time.

    Parameters
    ----------
    runs : sequence of RunData
        Of one stimulus.
    basis : torch.Tensor, optional
        ``(width, features)``; by default the features themselves, or a random projection of many features.

    Returns
    -------
    average : numpy.ndarray
        ``(positions, width)``: the time points that are usable (scored, the head still) in at least half of the runs.
    positions : numpy.ndarray
        int ``(positions,)``: time points, counted from the beginning of the stimulus.
    """
    lead = max(run.stimulus_start for run in runs)
    length = lead + max(run.n_time_points - run.stimulus_start for run in runs)
    if basis is None and runs[0].n_features > _MAX_FEATURES:
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(_MAX_FEATURES, runs[0].n_features, generator=generator) / _MAX_FEATURES**0.5
    width = runs[0].n_features if basis is None else len(basis)
    total, count = np.zeros((length, width)), np.zeros(length)
    for run in runs:
        usable = np.asarray(run.scored & ~run.high_motion)
        offset = lead - run.stimulus_start
        for block, series in read_blocks(run, _BLOCK_TIME_POINTS):
            projected = series.float() if basis is None else series.float().to(basis) @ basis.T
            positions = slice(offset + block.start, offset + block.stop)
            total[positions] += projected.double().cpu().numpy() * usable[block, None]
            count[positions] += usable[block]
    shared = np.flatnonzero((2 * count >= len(runs)) & (count > 0))
    return total[shared] / count[shared, None], shared - lead


def find_events(average: np.ndarray, *, n_events: int, n_components: int) -> np.ndarray:
    """Segment a recording into events with a stable pattern each, by an HMM (Baldassano et al. 2017).

    Parameters
    ----------
    average : numpy.ndarray
        ``(time, width)``.
    n_events : int
        At least 2, and at most a third of the time points.
    n_components : int
        Principal components that the HMM is fitted to, at most.

    Returns
    -------
    numpy.ndarray
        int: the first time point of each event except the first, ascending; fewer where the HMM leaves events empty.
    """
    left, scales, _ = np.linalg.svd(average - average.mean(axis=0), full_matrices=False)
    belongs = fit_events((left * scales)[:, :n_components], n_events)
    return np.flatnonzero(np.diff(belongs.argmax(axis=1))) + 1


def count_events(n_time_points: int, event_time_points: float) -> int:
    """Return how many events of this mean length fit into a recording; 0 if fewer than two."""
    n_events = min(round(n_time_points / event_time_points), n_time_points // _MIN_TIME_POINTS_PER_EVENT)
    return n_events if n_events >= 2 else 0


def boundary_contrast(
    runs: Sequence[RunMeasures], kind: str, null: Null, *, half_width: int, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Contrast measures near event boundaries with those elsewhere, and draw the null distribution of the contrast.

    The contrast of a subject is the mean over usable time points at most `half_width` time points from a boundary,
    minus the mean over all other usable time points, in standard deviations of a run. Null distributions: ``lengths``
    shuffles the order of the event lengths of a run; ``shifts`` shifts the measures of a run circularly within its
    usable time points, against its boundaries. All runs of a stimulus share their permutations, so that what subjects
    have in common is preserved.

    Parameters
    ----------
    runs : sequence of RunMeasures
        Each with at least one boundary of this kind.
    kind : str
        Kind of events.
    null : {"lengths", "shifts"}
    half_width : int
        Time points.
    n_permutations : int
        Permutations drawn; with one stimulus all circular shifts, where they are fewer.
    seed : int

    Returns
    -------
    observed : numpy.ndarray
        ``(subjects, measures)``, subjects in the order of their labels; NaN where a subject has no such measure, or no
        time point near a boundary, or none far from one.
    permuted : numpy.ndarray
        ``(permutations, measures)``: the mean over the subjects that have a value.
    """
    shifts = _draw_shifts(runs, n_permutations, seed) if null == "shifts" else {}
    observed, total, n_subjects = list[np.ndarray](), np.zeros(()), np.zeros(())
    for subject in sorted({run.subject for run in runs}):
        near, whole = np.zeros(()), np.zeros(())
        for run in runs:
            if run.subject == subject:
                near = near + (
                    _sums_under_shifts(run, kind, half_width, shifts[run.stimulus])
                    if null == "shifts"
                    else _sums_under_shuffled_lengths(run, kind, half_width, n_permutations, seed)
                )
                whole = whole + np.append(run.scaled()[run.usable].sum(axis=0), run.usable.sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            values = near[:, :-1] / near[:, -1:] - (whole[:-1] - near[:, :-1]) / (whole[-1] - near[:, -1:])
        # A permutation without time points near, or far from, boundaries counts as a contrast of 0.
        values[1:][~np.isfinite(values[1:])] = 0
        has_value = np.isfinite(values[0])
        observed.append(np.where(has_value, values[0], np.nan))
        total = total + np.where(has_value, values[1:], 0)
        n_subjects = n_subjects + has_value
    return np.array(observed), total / np.maximum(n_subjects, 1)


def _draw_shifts(runs: Sequence[RunMeasures], n_permutations: int, seed: int) -> dict[str, np.ndarray]:
    """Circular shifts of the runs of each stimulus, as fractions of their lengths."""
    lengths: dict[str, int] = {}
    for run in runs:
        lengths[run.stimulus] = max(lengths.get(run.stimulus, 0), int(run.usable.sum()))
    if len(lengths) == 1 and max(lengths.values()) - 1 <= n_permutations:
        return {stimulus: np.arange(1, length) / length for stimulus, length in lengths.items()}
    return {
        stimulus: named_generator(seed, stimulus).integers(length, size=n_permutations) / length
        for stimulus, length in lengths.items()
    }


def _sums_under_shifts(run: RunMeasures, kind: str, half_width: int, fractions: np.ndarray) -> np.ndarray:
    """Sums over time points near boundaries, and their number, unshifted and at each shift.

    Returns ``(1 + shifts, measures + 1)``.
    """
    first, stop = run.span
    is_near = np.zeros(len(run.usable), bool)
    for boundary in run.boundaries[kind]:
        is_near[max(boundary - half_width, first) : min(boundary + half_width + 1, stop)] = True
    is_near, values = is_near[run.usable], run.scaled()[run.usable]
    n_time_points = len(is_near)
    # All shifts at once: a circular cross-correlation.
    spectrum = np.fft.rfft(is_near.astype(float)).conj()[:, None] * np.fft.rfft(values, axis=0)
    sums = np.fft.irfft(spectrum, n=n_time_points, axis=0)
    shifts = np.append(0, np.rint(fractions * n_time_points).astype(int) % n_time_points)
    return np.column_stack([sums[shifts], np.full(len(shifts), is_near.sum())])


def _sums_under_shuffled_lengths(
    run: RunMeasures, kind: str, half_width: int, n_permutations: int, seed: int
) -> np.ndarray:
    """Sums over time points near boundaries, and their number, as observed and for each order of the event lengths.

    Returns ``(1 + permutations, measures + 1)``.
    """
    first, stop = run.span
    lengths = np.diff([first, *run.boundaries[kind], stop])
    values = np.column_stack([run.scaled(), np.ones(len(run.usable))]) * run.usable[:, None]
    cumulative = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    generator, sums = named_generator(seed, run.stimulus), list[np.ndarray]()
    for start in range(0, n_permutations, _PERMUTATIONS_AT_A_TIME):
        orders = np.tile(lengths, (min(_PERMUTATIONS_AT_A_TIME, n_permutations - start), 1))
        orders = generator.permuted(orders, axis=1)
        if not start:
            orders = np.concatenate([lengths[None], orders])
        boundaries = first + np.cumsum(orders, axis=1)[:, :-1]
        ends = np.minimum(boundaries + half_width + 1, stop)
        # Windows that overlap count once.
        previous_ends = np.column_stack([np.full(len(boundaries), first), ends[:, :-1]])
        starts = np.minimum(np.maximum(boundaries - half_width, previous_ends), ends)
        sums.append((cumulative[ends] - cumulative[starts]).sum(axis=1))
    return np.concatenate(sums)
