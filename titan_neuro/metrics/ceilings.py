"""How well a forecast could do that knew the stimulus, and nothing of this brain's own history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_neuro.errors import MismatchError
from titan_neuro.metrics.forecast_statistics import ForecastAccumulator
from titan_neuro.metrics.isc import inter_subject
from titan_neuro.metrics.measures import FloatArray, pearson
from titan_neuro.typing import RunData, Stretch

# With fewer degrees of freedom a correlation says nothing: its standard error is above 0.35.
_FEWEST_FREE = 8


@dataclass(frozen=True, eq=False)
class Ceiling:
    """A ceiling on `r2`, and where it can't be had, why.

    Attributes
    ----------
    values : mapping of str to numpy.ndarray
        Subject to float64 ``(features,)``: share of the variance, at most 1. An estimate without a floor: below 0
        where chance has it, so that averages over features are not biased upwards. Empty where there is none.
    reason : str or None
        Why `values` is empty.
    """

    values: Mapping[str, FloatArray]
    reason: str | None = None


def shared_variance(r: FloatArray, n_others: float) -> FloatArray:
    """Share of a feature's variance that is common to all subjects, from its leave-one-out correlation.

    Each subject is taken for a sum ``x_i = s + e_i`` of what the stimulus does to everybody and of what is its own,
    independent between subjects and of equal strength in all. With ``c`` the share of ``s`` in the variance, the mean
    of `n_others` has the variance ``c + (1 - c) / n_others`` (Brown 1910), and its correlation with ``x_i`` is weakened
    by what it has kept of the others' own (Spearman 1904)::

        r = c / sqrt(c + (1 - c) / n_others)

    which is solved for ``c``. With one other subject it is `r` itself; with very many, its square. `r` squared alone
    would call the others' noise a limit of the stimulus (Hsu et al. 2004, Schoppe et al. 2016, for repeated trials).

    Where subjects respond differently to the stimulus, or late, what is stimulus-locked in one brain alone counts as
    its own: the true ceiling is higher. Noise that is shared (a scanner's drift locked to the run) makes it lower.

    Parameters
    ----------
    r : numpy.ndarray
        Leave-one-out correlation, any shape.
    n_others : float
        Subjects in the mean, at least 1.

    Returns
    -------
    numpy.ndarray
        At most 1; with the sign of `r`.

    References
    ----------
    C. Spearman, "The proof and measurement of association between two things", Am. J. Psychol. 15 (1904).
    W. Brown, "Some experimental results in the correlation of mental abilities", Br. J. Psychol. 3 (1910).
    A. Hsu, A. Borst, F. E. Theunissen, "Quantifying variability in neural responses and its application for the
    validation of model predictions", Network 15 (2004).
    O. Schoppe et al., "Measuring the performance of neural models", Front. Comput. Neurosci. 10 (2016).
    """
    square = r**2
    half = square * (1 - 1 / n_others) / 2
    share: FloatArray = np.sign(r) * (half + np.sqrt(half**2 + square / n_others))
    return share


def stimulus_locked_ceiling(runs: Sequence[RunData]) -> Ceiling:
    """Ceiling on the `r2` of a forecast that knows what the stimulus does to everybody, and nothing else.

    It holds at every horizon. A forecaster that follows this brain's own fluctuations as well, as linear autoregression
    does, may exceed it.

    Parameters
    ----------
    runs : sequence of RunData
        See :func:`titan_neuro.metrics.inter_subject`, also for what is raised.

    Returns
    -------
    Ceiling
        `shared_variance` of each subject; left out are those whose stimuli nobody else saw.
    """
    found = inter_subject(runs)
    values = {name: shared_variance(item.r, item.n_others) for name, item in found.items() if item.n_others}
    if values:
        return Ceiling(values)
    return Ceiling({}, f"no stimulus was seen by two subjects (subjects: {', '.join(found)})")


def retest_ceiling(repeats: Sequence[tuple[Stretch, Stretch]]) -> Ceiling:
    """Ceiling on `r2` from segments that one subject saw twice: the correlation between both showings.

    With ``x = f + e``, ``f`` this subject's own response to the segment, ``e`` independent between showings, and both
    of equal strength in them, the correlation is the share of ``f`` in the variance (Spearman's reliability). It
    includes what is locked to the stimulus in this brain alone, which `stimulus_locked_ceiling` does not. It misses
    what changes because a thing is seen again, and it is noisy: the overlaps of ds003017 are 53 time points a subject,
    a standard error of 0.14 for a single feature.

    Parameters
    ----------
    repeats : sequence of (Stretch, Stretch)
        Both showings, of one length and one subject; see :func:`titan_neuro.data.repeats.find_repeats`. Sums about the
        mean of each showing are joined.

    Returns
    -------
    Ceiling
        Subjects with fewer than 8 degrees of freedom (time points less segments) are left out.

    Raises
    ------
    MismatchError
        Showings of different lengths, subjects or numbers of features.
    """
    if not repeats:
        return Ceiling({}, "no segment was shown twice to one subject")
    n_features = repeats[0][0].run.n_features
    sums: dict[str, list[FloatArray]] = {}
    free: dict[str, int] = {}
    for one, other in repeats:
        _check_pair(one, other, n_features)
        length, subject = one.stop - one.start, one.run.subject
        part = ForecastAccumulator(1, 1, n_features)
        part.add(0, one.run.read(one.start, one.stop), [other.run.read(other.start, other.stop)])
        statistics = part.finish()
        spreads = np.stack([statistics.co_spread[0, 0], statistics.target_spread[0], statistics.forecast_spread[0, 0]])
        sums.setdefault(subject, []).append(spreads)
        free[subject] = free.get(subject, 0) + length - 1
    enough = [subject for subject in sorted(sums) if free[subject] >= _FEWEST_FREE]
    if not enough:
        most = max(free.values())
        return Ceiling({}, f"the segments shown twice are too short ({most} degrees of freedom, {_FEWEST_FREE} needed)")
    return Ceiling({subject: pearson(*np.sum(sums[subject], axis=0)) for subject in enough})


def ceiling_on_skill(r2_ceiling: FloatArray, r2_reference: FloatArray) -> NDArray[np.float64]:
    """Turn a ceiling on `r2` into one on a skill, ``1 - (1 - r2_ceiling) / (1 - r2_reference)``.

    Parameters
    ----------
    r2_ceiling, r2_reference : numpy.ndarray
        The ceiling, and the `r2` that the skill's reference (persistence; linear autoregression) has on the same
        time points. Shapes broadcast.

    Returns
    -------
    numpy.ndarray
        Below 0 where the reference does better than the stimulus alone could; NaN where it makes no error.
    """
    left = 1 - np.asarray(r2_reference, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left > 0, 1 - (1 - r2_ceiling) / left, np.nan)


def _check_pair(one: Stretch, other: Stretch, n_features: int) -> None:
    sizes = [(part.run.subject, part.stop - part.start, part.run.n_features) for part in (one, other)]
    if sizes != [(one.run.subject, one.stop - one.start, n_features)] * 2:
        raise MismatchError(
            f"Two showings of one segment: expected one subject, one length and {n_features} features, found "
            f"{one.run.key} {sizes[0]} and {other.run.key} {sizes[1]} (subject, time points, features)."
        )
