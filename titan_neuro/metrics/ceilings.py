"""Noise ceilings: the largest score of a forecast that contains the response to the stimulus alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_neuro.metrics.measures import FloatArray


@dataclass(frozen=True, eq=False)
class Ceiling:
    """A noise ceiling on `r2`, or the reason why there is none.

    Attributes
    ----------
    values : mapping of str to numpy.ndarray
        By subject, float64 ``(features,)``: fraction of the variance, at most 1. Estimates are not cut off at 0, so
        that averages over features are not biased upwards. Empty where there is no ceiling.
    reason : str or None
        Why `values` is empty.
    """

    values: Mapping[str, FloatArray]
    reason: str | None = None


def shared_variance(r: FloatArray, n_others: float) -> FloatArray:
    """Fraction of a feature's variance that is common to all subjects, from its leave-one-out correlation.

    The model: each subject is a sum ``x_i = s + e_i`` of a response ``s`` that all subjects share and of a remainder
    ``e_i`` that is independent between subjects and of equal variance in all. With ``c`` the fraction of ``s`` in the
    variance, the average of `n_others` subjects has the variance ``c + (1 - c) / n_others`` (Brown 1910). Its
    correlation with ``x_i`` is attenuated by the remainders left in the average (Spearman 1904)::

        r = c / sqrt(c + (1 - c) / n_others)

    This is solved for ``c``. With one other subject ``c = r``; with very many, ``c = r^2``. Using ``r^2`` always would
    take the noise of the others for a limit of the stimulus (Hsu et al. 2004, Schoppe et al. 2016, for repeated
    trials).

    Where subjects respond differently or at different delays, the stimulus-locked response of a single brain counts as
    remainder, and the true ceiling is higher. Shared noise, such as scanner drift locked to the run, makes it lower.

    Parameters
    ----------
    r : numpy.ndarray
        Leave-one-out correlation, any shape.
    n_others : float
        Subjects in the average, at least 1.

    Returns
    -------
    numpy.ndarray
        Shaped like `r`: at most 1, with the sign of `r`.

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
    fraction: FloatArray = np.sign(r) * (half + np.sqrt(half**2 + square / n_others))
    return fraction


def ceiling_on_skill(r2_ceiling: FloatArray, r2_reference: FloatArray) -> NDArray[np.float64]:
    """Turn a ceiling on `r2` into one on a skill, ``1 - (1 - r2_ceiling) / (1 - r2_reference)``.

    Parameters
    ----------
    r2_ceiling, r2_reference : numpy.ndarray
        The ceiling, and the `r2` of the skill's reference (persistence or linear autoregression) on the same time
        points. Shapes broadcast.

    Returns
    -------
    numpy.ndarray
        Below 0 where the reference does better than the stimulus alone could; NaN where it makes no error.
    """
    unexplained = 1 - np.asarray(r2_reference, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(unexplained > 0, 1 - (1 - r2_ceiling) / unexplained, np.nan)
