"""Time-segment matching (Haxby et al. 2011): arrays in, arrays out; nothing here depends on a model.

A time segment of a run is matched, by correlation, with every segment of a reference that it does not overlap: the
average of other subjects. Circular shifts of the run against the reference give the null distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROWS_AT_A_TIME = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentMatches:
    """How the segments of a run were matched.

    Attributes
    ----------
    by_shift : numpy.ndarray
        ``(segments,)``, between 0 and 1. Entry ``s`` is the fraction of segments that match the segment ``s`` places
        later (circularly) better than every segment outside the exclusion zone around that one. Entry 0 is the
        accuracy.
    chance : float
        Mean over segments of ``1 / (segments outside the exclusion zone + 1)``: the accuracy if all were equally
        likely.
    lags : numpy.ndarray
        ``(matched segments,)``: time point of the best match less that of the segment, in time points.
    times : numpy.ndarray
        int ``(segments,)``: last time point of each segment.
    """

    by_shift: np.ndarray
    chance: float
    lags: np.ndarray
    times: np.ndarray


def detrend_and_scale(
    run: np.ndarray, reference: np.ndarray, times: np.ndarray, *, degree: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract a polynomial of time from each feature, and divide by the reference's standard deviation.

    Parameters
    ----------
    run, reference : numpy.ndarray
        ``(time, features)``.
    times : numpy.ndarray
        ``(time,)``, ascending, in time points.
    degree : int or None
        Degree of the polynomial, which is fitted to run and reference separately; None: the reference's mean is
        subtracted from both.

    Returns
    -------
    run, reference : numpy.ndarray
        float64 ``(time, features that vary in the reference)``.
    """
    run, reference = run.astype(float), reference.astype(float)
    size = np.abs(reference).max(axis=0, initial=0)
    if degree is None:
        run, reference = run - reference.mean(axis=0), reference - reference.mean(axis=0)
    else:
        polynomial = np.polynomial.legendre.legvander(
            np.interp(times, (times[0], max(times[-1], times[0] + 1)), (-1, 1)), degree
        )
        basis, _ = np.linalg.qr(polynomial)
        run, reference = run - basis @ (basis.T @ run), reference - basis @ (basis.T @ reference)
    spread = reference.std(axis=0)
    # A constant feature leaves rounding.
    varies = spread > 1e-6 * size
    return run[:, varies] / spread[varies], reference[:, varies] / spread[varies]


def cut_segments(values: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Cut out the segments that end at some time points; each is centered and scaled to norm 1.

    Parameters
    ----------
    values : numpy.ndarray
        ``(time, features)``.
    ends : numpy.ndarray
        int ``(segments,)``: last time point of each, at least ``length - 1``.
    length : int
        Time points of a segment.

    Returns
    -------
    numpy.ndarray
        ``(segments, length * features)``: the product of two is their correlation. A constant segment is 0.
    """
    rows = values[ends[:, None] - np.arange(length)].reshape(len(ends), length * values.shape[1])
    rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
    return unit


def match_segments(
    run: np.ndarray, reference: np.ndarray, times: np.ndarray, tested: np.ndarray, exclusion: int
) -> SegmentMatches:
    """Match each segment of a run with the segments of a reference.

    A segment of the run matches one of the reference if they correlate more than the former does with each segment of
    the reference outside the latter's exclusion zone. Rows of the correlation matrix are made block by block: ``n``
    segments cost ``n ** 2`` products, and memory for some hundred rows.

    Parameters
    ----------
    run, reference : numpy.ndarray
        ``(segments, width)``, from :func:`cut_segments`.
    times : numpy.ndarray
        int ``(segments,)``, ascending, in time points.
    tested : numpy.ndarray
        bool ``(segments,)``: segments of the run that are matched. All segments of the reference are candidates.
    exclusion : int
        Segments at most so many time points apart lie in each other's exclusion zone.

    Returns
    -------
    SegmentMatches
        Chance and accuracies are NaN, and lags empty, where no segment is tested, or none lies outside an exclusion
        zone.
    """
    n = len(times)
    # Segments before `zone_start` and from `zone_stop` on lie outside the exclusion zone.
    zone_start = np.searchsorted(times, times - exclusion, side="left")
    zone_stop = np.searchsorted(times, times + exclusion, side="right")
    n_outside = zone_start + n - zone_stop
    queries = np.flatnonzero(tested & (n_outside > 0))
    hits, lags = np.zeros(n), np.zeros(len(queries))
    for start in range(0, len(queries), _ROWS_AT_A_TIME):
        some = queries[start : start + _ROWS_AT_A_TIME]
        correlations = run[some] @ reference.T
        lags[start : start + len(some)] = times[correlations.argmax(axis=1)] - times[some]
        edge = np.full((len(some), 1), -np.inf)
        largest_before = np.maximum.accumulate(np.hstack([edge, correlations]), axis=1)
        largest_after = np.maximum.accumulate(np.hstack([correlations, edge])[:, ::-1], axis=1)[:, ::-1]
        largest_outside = np.maximum(largest_before[:, zone_start], largest_after[:, zone_stop])
        rows, columns = np.nonzero((correlations > largest_outside) & (n_outside > 0))
        hits += np.bincount((columns - some[rows]) % n, minlength=n)
    any_tested = len(queries) > 0
    return SegmentMatches(
        by_shift=hits / len(queries) if any_tested else np.full(n, np.nan),
        chance=float(np.mean(1 / (n_outside[queries] + 1))) if any_tested else float("nan"),
        lags=lags,
        times=times,
    )


def allowed_shifts(times: np.ndarray, exclusion: int) -> np.ndarray:
    """Circular shifts, in segments, that move every segment out of its own exclusion zone (but for the wrap-around).

    Parameters
    ----------
    times : numpy.ndarray
        int ``(segments,)``, ascending, in time points.
    exclusion : int
        Time points.

    Returns
    -------
    numpy.ndarray
        int ``(shifts,)``; empty where there are too few segments.
    """
    n = len(times)
    step = float(np.median(np.diff(times))) if n > 1 else 1.0
    smallest = int(exclusion // step) + 1
    return np.arange(smallest, n - smallest + 1)


def accuracy_and_null(
    runs: list[tuple[str, str, SegmentMatches]], *, exclusion: int, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of each subject, and the mean over subjects under circular shifts of the runs.

    All runs of a stimulus are shifted by the same number of segments, since all are matched with one reference and so
    share its chance correlations; runs of different stimuli are shifted independently. With one stimulus all shifts are
    taken, if they are at most `n_permutations`.

    Parameters
    ----------
    runs : list of (str, str, SegmentMatches)
        Subject, stimulus and matches of each run.
    exclusion : int
        Time points.
    n_permutations : int
    seed : int

    Returns
    -------
    accuracy : numpy.ndarray
        ``(subjects,)``, in the order of their labels: mean over the subject's runs.
    null : numpy.ndarray
        ``(shifts,)``; empty where a stimulus is too short to be shifted.
    """
    subjects = sorted({subject for subject, _, _ in runs})
    n_runs = {subject: sum(other == subject for other, _, _ in runs) for subject in subjects}
    accuracy = np.zeros(len(subjects))
    curves: dict[str, list[np.ndarray]] = {}
    allowed: dict[str, np.ndarray] = {}
    for subject, stimulus, matches in runs:
        accuracy[subjects.index(subject)] += matches.by_shift[0] / n_runs[subject]
        curves.setdefault(stimulus, []).append(matches.by_shift / n_runs[subject] / len(subjects))
        shifts = allowed_shifts(matches.times, exclusion)
        allowed[stimulus] = np.intersect1d(shifts, allowed.get(stimulus, shifts))
    if any(not len(shifts) for shifts in allowed.values()):
        return accuracy, np.zeros(0)
    rng = np.random.default_rng(seed)
    is_exact = len(allowed) == 1 and len(next(iter(allowed.values()))) <= n_permutations
    null: np.ndarray = np.zeros(1)
    for stimulus in sorted(curves):
        drawn = allowed[stimulus] if is_exact else rng.choice(allowed[stimulus], size=n_permutations)
        null = null + sum(curve[drawn] for curve in curves[stimulus])
    return accuracy, null
