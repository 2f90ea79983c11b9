"""Noise ceilings of runs: from the intersubject correlation, and from segments that were shown twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from titan_neuro.errors import MismatchError
from titan_neuro.evaluation.intersubject import intersubject_correlations
from titan_neuro.metrics.ceilings import Ceiling, shared_variance
from titan_neuro.metrics.forecast_statistics import ForecastAccumulator
from titan_neuro.metrics.measures import FloatArray, pearson
from titan_neuro.typing import RunData, Stretch

# With fewer degrees of freedom the standard error of a correlation is above 0.35.
_MIN_DEGREES_OF_FREEDOM = 8


def stimulus_locked_ceiling(runs: Sequence[RunData]) -> Ceiling:
    """Ceiling on the `r2` of a forecast that contains the response that all subjects share, and nothing else.

    It is the same at every lead time. A forecaster that also follows this brain's own fluctuations, as linear
    autoregression does, may exceed it.

    Parameters
    ----------
    runs : sequence of RunData
        See :func:`titan_neuro.evaluation.intersubject.intersubject_correlations`, also for what is raised.

    Returns
    -------
    Ceiling
        `shared_variance` of each subject; subjects whose stimuli nobody else saw are left out.
    """
    correlations = intersubject_correlations(runs)
    values = {
        subject: shared_variance(correlation.r, correlation.n_others)
        for subject, correlation in correlations.items()
        if correlation.n_others
    }
    if values:
        return Ceiling(values)
    return Ceiling({}, f"no stimulus was seen by two subjects (subjects: {', '.join(correlations)})")


def retest_ceiling(repeats: Sequence[tuple[Stretch, Stretch]]) -> Ceiling:
    """Ceiling on `r2` from segments that one subject saw twice: the correlation between both showings.

    With ``x = f + e``, where ``f`` is this subject's response to the segment and ``e`` is independent between showings
    and of equal variance in both, the correlation is the fraction of ``f`` in the variance (Spearman's reliability). It
    includes what is locked to the stimulus in this brain alone, which `stimulus_locked_ceiling` does not. It misses
    responses that change with repetition, and it is noisy: the repeated segments of ds003017 are 53 time points a
    subject, a standard error of 0.14 for a single feature.

    Parameters
    ----------
    repeats : sequence of (Stretch, Stretch)
        Both showings, of one length and one subject; see :func:`titan_neuro.data.repeats.find_repeats`. Sums about the
        mean of each showing are added before they are divided.

    Returns
    -------
    Ceiling
        Subjects with fewer than 8 degrees of freedom (time points minus segments) are left out.

    Raises
    ------
    MismatchError
        Showings of different lengths, subjects or numbers of features.
    """
    if not repeats:
        return Ceiling({}, "no segment was shown twice to one subject")
    n_features = repeats[0][0].run.n_features
    spreads: dict[str, list[FloatArray]] = {}
    degrees_of_freedom: dict[str, int] = {}
    for first, second in repeats:
        _check_pair(first, second, n_features)
        subject = first.run.subject
        sums = ForecastAccumulator(1, 1, n_features)
        sums.add(0, first.run.read(first.start, first.stop), [second.run.read(second.start, second.stop)])
        pair = sums.finish()
        of_pair = np.stack([pair.co_spread[0, 0], pair.target_spread[0], pair.forecast_spread[0, 0]])
        spreads.setdefault(subject, []).append(of_pair)
        degrees_of_freedom[subject] = degrees_of_freedom.get(subject, 0) + first.stop - first.start - 1
    enough = [subject for subject in sorted(spreads) if degrees_of_freedom[subject] >= _MIN_DEGREES_OF_FREEDOM]
    if not enough:
        return Ceiling(
            {},
            f"the segments shown twice are too short ({max(degrees_of_freedom.values())} degrees of freedom, "
            f"{_MIN_DEGREES_OF_FREEDOM} needed)",
        )
    return Ceiling({subject: pearson(*np.sum(spreads[subject], axis=0)) for subject in enough})


def _check_pair(first: Stretch, second: Stretch, n_features: int) -> None:
    sizes = [(part.run.subject, part.stop - part.start, part.run.n_features) for part in (first, second)]
    if sizes != [(first.run.subject, first.stop - first.start, n_features)] * 2:
        raise MismatchError(
            f"A segment shown twice: expected two stretches of one subject and one length, of {n_features} "
            f"features each. Found, as (subject, time points, features), {first.run.key}: {sizes[0]} and "
            f"{second.run.key}: {sizes[1]}.",
            "Compare stretches in which the same subject was shown the same segment.",
        )
