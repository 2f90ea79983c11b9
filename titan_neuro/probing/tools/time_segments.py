"""Find the moment of a stimulus that a run is at: time-segment matching, and what circular shifts of the run find.

After Haxby et al. (2011): a segment is told from every other that it does not overlap by correlation with the average
of other subjects. Nothing here knows of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROWS_AT_A_TIME = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """How a run's segments were matched.

    Attributes
    ----------
    by_shift : numpy.ndarray
        ``(positions,)``, between 0 and 1: the share of segments that match best, among all moments far from it, the
        moment that lies so many places after their own (circularly). The first is the accuracy.
    chance : float
        Mean over moments of ``1 / (positions far away + 1)``: the accuracy where all are equally likely.
    lags : numpy.ndarray
        ``(segments,)``: the best of all moments less the true one, in time points.
    times : numpy.ndarray
        int ``(positions,)``.
    """

    by_shift: np.ndarray
    chance: float
    lags: np.ndarray
    times: np.ndarray


def standardized(
    run: np.ndarray, reference: np.ndarray, times: np.ndarray, *, degree: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Take from each feature what a polynomial of time tells of it, and divide by the reference's spread.

    Parameters
    ----------
    run, reference : numpy.ndarray
        ``(positions, features)``.
    times : numpy.ndarray
        ``(positions,)``: when they were.
    degree : int or None
        Of the polynomial, fitted to each of the two; None: the reference's mean is taken from both.

    Returns
    -------
    run, reference : numpy.ndarray
        float64 ``(positions, features that vary in the reference)``.
    """
    run, reference = run.astype(float), reference.astype(float)
    size = np.abs(reference).max(axis=0, initial=0)
    if degree is None:
        run, reference = run - reference.mean(axis=0), reference - reference.mean(axis=0)
    else:
        clock = np.polynomial.legendre.legvander(
            np.interp(times, (times[0], max(times[-1], times[0] + 1)), (-1, 1)), degree
        )
        basis, _ = np.linalg.qr(clock)
        run, reference = run - basis @ (basis.T @ run), reference - basis @ (basis.T @ reference)
    spread = reference.std(axis=0)
    # What is left of a constant is rounding.
    varies = spread > 1e-6 * size
    return run[:, varies] / spread[varies], reference[:, varies] / spread[varies]


def segments(values: np.ndarray, ends: np.ndarray, window: int) -> np.ndarray:
    """The last `window` rows up to each of `ends`, side by side, less their mean and of length 1.

    Parameters
    ----------
    values : numpy.ndarray
        ``(time, features)``.
    ends : numpy.ndarray
        int ``(segments,)``, each at least ``window - 1``.
    window : int

    Returns
    -------
    numpy.ndarray
        ``(segments, window * features)``: products of two are correlations. A segment without spread is 0.
    """
    rows = values[ends[:, None] - np.arange(window)].reshape(len(ends), window * values.shape[1])
    rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
    return unit


def match_segments(run: np.ndarray, reference: np.ndarray, times: np.ndarray, asked: np.ndarray, away: int) -> Matched:
    """Compare each segment of a run with every moment of a reference.

    A segment is matched to a moment where its correlation with it is greater than with each moment more than `away`
    time points from that moment. Rows of the table of correlations are made block by block: ``n`` moments cost ``n **
    2`` products of segments, and memory for some hundred rows.

    Parameters
    ----------
    run, reference : numpy.ndarray
        ``(positions, width)``, of :func:`segments`.
    times : numpy.ndarray
        int ``(positions,)``, ascending, in time points.
    asked : numpy.ndarray
        bool ``(positions,)``: the segments of the run that are matched. All moments are candidates.
    away : int
        Time points.

    Returns
    -------
    Matched
        Chance, lags and accuracies are NaN or empty where nothing is asked, or where no moment is far from another.
    """
    n = len(times)
    # Moments before `left` and from `right` on are far away.
    left = np.searchsorted(times, times - away, side="left")
    right = np.searchsorted(times, times + away, side="right")
    n_far = left + n - right
    queries = np.flatnonzero(asked & (n_far > 0))
    hits, lags = np.zeros(n), np.zeros(len(queries))
    for start in range(0, len(queries), _ROWS_AT_A_TIME):
        some = queries[start : start + _ROWS_AT_A_TIME]
        table = run[some] @ reference.T
        lags[start : start + len(some)] = times[table.argmax(axis=1)] - times[some]
        edge = np.full((len(some), 1), -np.inf)
        before = np.maximum.accumulate(np.hstack([edge, table]), axis=1)
        after = np.maximum.accumulate(np.hstack([table, edge])[:, ::-1], axis=1)[:, ::-1]
        found = (table > np.maximum(before[:, left], after[:, right])) & (n_far > 0)
        rows, columns = np.nonzero(found)
        hits += np.bincount((columns - some[rows]) % n, minlength=n)
    asked_anything = len(queries) > 0
    return Matched(
        by_shift=hits / len(queries) if asked_anything else np.full(n, np.nan),
        chance=float(np.mean(1 / (n_far[queries] + 1))) if asked_anything else float("nan"),
        lags=lags,
        times=times,
    )


def shifts_allowed(times: np.ndarray, away: int) -> np.ndarray:
    """Circular shifts, in places, that bring every moment, or all but those that go round, more than `away` on.

    Parameters
    ----------
    times : numpy.ndarray
        int ``(positions,)``, ascending, in time points.
    away : int
        Time points.
    """
    n = len(times)
    step = float(np.median(np.diff(times))) if n > 1 else 1.0
    least = int(away // step) + 1
    return np.arange(least, n - least + 1)


def shifted_means(
    runs: list[tuple[str, str, Matched]], *, away: int, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy by subject, and the mean over subjects under circular shifts of the runs.

    All runs of a stimulus are shifted by the same number of places, since all are matched with one reference, whose
    chance likenesses they share; those of several stimuli independently. With one stimulus it is the exact set of
    shifts, where that is no larger than `n_permutations`.

    Parameters
    ----------
    runs : list of (str, str, Matched)
        Subject, stimulus and what was found.
    away : int
        Time points.
    n_permutations : int
    seed : int

    Returns
    -------
    by_subject : numpy.ndarray
        ``(subjects,)``, in the order of their names: mean over the subject's runs.
    null : numpy.ndarray
        ``(shifts,)``; empty where a stimulus is too short to be shifted.
    """
    subjects = sorted({subject for subject, _, _ in runs})
    n_runs = {subject: sum(other == subject for other, _, _ in runs) for subject in subjects}
    by_subject = np.zeros(len(subjects))
    curves: dict[str, list[np.ndarray]] = {}
    allowed: dict[str, np.ndarray] = {}
    for subject, stimulus, found in runs:
        by_subject[subjects.index(subject)] += found.by_shift[0] / n_runs[subject]
        curves.setdefault(stimulus, []).append(found.by_shift / n_runs[subject] / len(subjects))
        own = shifts_allowed(found.times, away)
        allowed[stimulus] = np.intersect1d(own, allowed.get(stimulus, own))
    if any(not len(shifts) for shifts in allowed.values()):
        return by_subject, np.zeros(0)
    rng = np.random.default_rng(seed)
    exact = len(allowed) == 1 and len(next(iter(allowed.values()))) <= n_permutations
    null: np.ndarray = np.zeros(1)
    for stimulus in sorted(curves):
        shifts = allowed[stimulus]
        chosen = shifts if exact else rng.choice(shifts, size=n_permutations)
        null = null + sum(curve[chosen] for curve in curves[stimulus])
    return by_subject, null
