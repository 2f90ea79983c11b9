"""Where events begin, and whether a measure is higher there than chance would have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor

from titan_neuro.seeds import named_generator
from titan_neuro.typing import RunData

Null = Literal["lengths", "shifts"]

_FRAMES_AT_A_TIME = 64
_PERMUTATIONS_AT_A_TIME = 1000
# Where a model has no basis and features are more, they are mixed at random down to so many: angles are kept to some
# per cent.
_MIXED = 512
# Time points that an event must last on average for the HMM to tell it from its neighbors.
_FEWEST_FRAMES_PER_EVENT = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkedRun:
    """Measures of one run, and where events begin in it.

    Attributes
    ----------
    key, subject, stimulus : str
        As in :class:`titan_neuro.typing.RunData`.
    values : numpy.ndarray
        ``(time, measures)``; NaN where there is none.
    usable : numpy.ndarray
        bool ``(time,)``: the time points that count.
    boundaries : dict of str to numpy.ndarray
        By kind, the first time point of each event but the first, ascending.
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
        series = np.flatnonzero(self.usable)
        return int(series[0]), int(series[-1]) + 1

    def scaled(self) -> np.ndarray:
        """Measures in standard deviations over usable time points, 0 elsewhere and where there is none.

        NaN throughout where a measure is not known or does not change.
        """
        scaled = np.zeros_like(self.values)
        for index, values in enumerate(self.values.T):
            there = self.usable & np.isfinite(values)
            spread = values[there].std() if there.any() else 0.0
            if spread > 1e-9 * max(np.abs(values[there]).max(initial=0.0), 1e-300):
                scaled[there, index] = (values[there] - values[there].mean()) / spread
            else:
                scaled[:, index] = np.nan
        return scaled


def average_time_points(runs: Sequence[RunData], basis: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Average the time points of several viewers of one stimulus, in a few numbers a time point; one block is held at a
    time.

    Parameters
    ----------
    runs : sequence of RunData
    basis : torch.Tensor, optional
        ``(width, features)``; by default the features themselves, or a random mixture where they are many.

    Returns
    -------
    average : numpy.ndarray
        ``(series, width)``: over the time points that count (scored, the head still) in half of the viewers at least.
    places : numpy.ndarray
        int ``(series,)``: their time points, counted from the beginning of the stimulus.
    """
    lead = max(run.stimulus_start for run in runs)
    length = lead + max(run.n_time_points - run.stimulus_start for run in runs)
    if basis is None and runs[0].n_features > _MIXED:
        basis = torch.randn(_MIXED, runs[0].n_features, generator=torch.Generator().manual_seed(0)) / _MIXED**0.5
    width = runs[0].n_features if basis is None else len(basis)
    total, count = np.zeros((length, width)), np.zeros(length)
    for run in runs:
        counts = np.asarray(run.scored & ~run.high_motion)
        for start in range(0, run.n_time_points, _FRAMES_AT_A_TIME):
            stop = min(start + _FRAMES_AT_A_TIME, run.n_time_points)
            series = run.read(start, stop).float()
            shown = series if basis is None else series.to(basis) @ basis.T
            place = slice(lead - run.stimulus_start + start, lead - run.stimulus_start + stop)
            total[place] += shown.double().cpu().numpy() * counts[start:stop, None]
            count[place] += counts[start:stop]
    kept = np.flatnonzero((2 * count >= len(runs)) & (count > 0))
    return total[kept] / count[kept, None], kept - lead


def find_events(average: np.ndarray, *, n_events: int, n_components: int) -> np.ndarray:
    """Cut a recording into events within which its pattern stays the same (Baldassano et al. 2017).

    Parameters
    ----------
    average : numpy.ndarray
        ``(series, width)``.
    n_events : int
        At least 2, and at most a third of the time points.
    n_components : int
        Principal components of it that the HMM is shown, at most.

    Returns
    -------
    numpy.ndarray
        int: the first time point of each event but the first, ascending; fewer where events were found empty.
    """
    # Loads scikit-learn and more: not for who asks other probes.
    from brainiak.eventseg.event import EventSegment

    left, scales, _ = np.linalg.svd(average - average.mean(axis=0), full_matrices=False)
    shown = (left * scales)[:, :n_components]
    # brainiak brings each of its features to variance 1 over time, by which weak components would count as much as
    # strong ones, and takes its mean from each time point. Spread over the rows of a Hadamard matrix, without that of
    # ones, components give features of one and the same variance, and time points of mean 0: angles between time points
    # stay.
    rows = hadamard(2 ** int(np.ceil(np.log2(shown.shape[1] + 1))))[1 : shown.shape[1] + 1]
    fitted = EventSegment(n_events).fit(shown @ rows)
    return np.flatnonzero(np.diff(fitted.segments_[0].argmax(axis=1))) + 1


def events_within(n_time_points: int, event_time_points: float) -> int:
    """Return how many events of so many time points on average fit into `n_time_points`; 0: not even two."""
    n_events = min(round(n_time_points / event_time_points), n_time_points // _FEWEST_FRAMES_PER_EVENT)
    return n_events if n_events >= 2 else 0


def boundary_contrast(
    runs: Sequence[MarkedRun], kind: str, null: Null, *, half_width: int, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ask how much higher measures are around boundaries than elsewhere, and how much by chance.

    The statistic of a subject is the mean over usable time points at most `half_width` time points from a boundary,
    less that over all others, in standard deviations of a run. By chance: ``lengths`` puts the events of a run in
    another order, by their lengths alone; ``shifts`` turns the measures of a run round in a circle of its usable time
    points, against its boundaries. Draws are shared by all runs of a stimulus, so that what subjects have in common
    stays in common.

    Parameters
    ----------
    runs : sequence of MarkedRun
        With boundaries of this kind, one at least in each.
    kind : str
    null : {"lengths", "shifts"}
    half_width : int
        Time points.
    n_permutations : int
        Draws; all shifts but none twice where they are fewer and there is one stimulus.
    seed : int

    Returns
    -------
    observed : numpy.ndarray
        ``(subjects, measures)``, subjects in the order of their labels; NaN where one has no such measure, or no time
        point that is far from boundaries, or none near one.
    by_chance : numpy.ndarray
        ``(draws, measures)``: the mean over the subjects that have a value.
    """
    shifts = _draw_shifts(runs, n_permutations, seed) if null == "shifts" else {}
    observed, total, number = [], np.zeros(()), np.zeros(())
    for subject in sorted({run.subject for run in runs}):
        parts = []
        for run in runs:
            if run.subject == subject:
                inside = (
                    _shifted(run, kind, half_width, shifts[run.stimulus])
                    if null == "shifts"
                    else _reordered(run, kind, half_width, n_permutations, seed)
                )
                whole = np.append(run.scaled()[run.usable].sum(axis=0), run.usable.sum())
                parts.append((inside, whole))
        near, whole = (sum(values) for values in zip(*parts, strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            values = near[:, :-1] / near[:, -1:] - (whole[:-1] - near[:, :-1]) / (whole[-1] - near[:, -1:])
        # A draw without a time point near or far from boundaries says nothing either way.
        values[1:][~np.isfinite(values[1:])] = 0
        has_value = np.isfinite(values[0])
        observed.append(np.where(has_value, values[0], np.nan))
        total = total + np.where(has_value, values[1:], 0)
        number = number + has_value
    return np.array(observed), total / np.maximum(number, 1)


def _draw_shifts(runs: Sequence[MarkedRun], n_permutations: int, seed: int) -> dict[str, np.ndarray]:
    """Of each stimulus, how far round its runs are turned, as shares of their lengths."""
    lengths: dict[str, int] = {}
    for run in runs:
        lengths[run.stimulus] = max(lengths.get(run.stimulus, 0), int(run.usable.sum()))
    if len(lengths) == 1 and max(lengths.values()) - 1 <= n_permutations:
        return {stimulus: np.arange(1, length) / length for stimulus, length in lengths.items()}
    return {
        stimulus: _generator(seed, stimulus).integers(length, size=n_permutations) / length
        for stimulus, length in lengths.items()
    }


def _generator(seed: int, stimulus: str) -> np.random.Generator:
    return named_generator(seed, stimulus)


def _shifted(run: MarkedRun, kind: str, half_width: int, shares: np.ndarray) -> np.ndarray:
    """Sums over time points near boundaries, and their number, at no shift and at each: ``(1 + draws, measures + 1)``."""
    first, stop = run.span
    near = np.zeros(len(run.usable), bool)
    for boundary in run.boundaries[kind]:
        near[max(boundary - half_width, first) : min(boundary + half_width + 1, stop)] = True
    near, values = near[run.usable], run.scaled()[run.usable]
    n_time_points = len(near)
    # All shifts at once: a circular cross-correlation.
    spectrum = np.fft.rfft(near.astype(float)).conj()[:, None] * np.fft.rfft(values, axis=0)
    sums = np.fft.irfft(spectrum, n=n_time_points, axis=0)
    places = np.append(0, np.rint(shares * n_time_points).astype(int) % n_time_points)
    return np.column_stack([sums[places], np.full(len(places), near.sum())])


def _reordered(run: MarkedRun, kind: str, half_width: int, n_permutations: int, seed: int) -> np.ndarray:
    """Sums over time points near boundaries, and their number, as they lie and in each order of the events' lengths."""
    first, stop = run.span
    lengths = np.diff([first, *run.boundaries[kind], stop])
    values = np.column_stack([run.scaled(), np.ones(len(run.usable))]) * run.usable[:, None]
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    generator, found = _generator(seed, run.stimulus), []
    for start in range(0, n_permutations, _PERMUTATIONS_AT_A_TIME):
        orders = np.tile(lengths, (min(_PERMUTATIONS_AT_A_TIME, n_permutations - start), 1))
        orders = generator.permuted(orders, axis=1)
        if not start:
            orders = np.concatenate([lengths[None], orders])
        boundaries = first + np.cumsum(orders, axis=1)[:, :-1]
        ends = np.minimum(boundaries + half_width + 1, stop)
        # Windows that overlap count once.
        before = np.column_stack([np.full(len(boundaries), first), ends[:, :-1]])
        starts = np.minimum(np.maximum(boundaries - half_width, before), ends)
        found.append((sums[ends] - sums[starts]).sum(axis=1))
    return np.concatenate(found)
