"""The measures, as pure functions of sums over time points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# A correlation of 1 has no finite Fisher z; the nearest that counts.
_LARGEST_R = 1 - 1e-12


def skill(squared_error: FloatArray, reference_error: FloatArray) -> FloatArray:
    """Skill of each feature, ``1 - SSE / SSE_reference``.

    Against the training mean this is `r2`, against persistence `skill`, against linear autoregression `skill_ar`.

    Parameters
    ----------
    squared_error, reference_error : numpy.ndarray
        Sums over the same time points, of one shape.

    Returns
    -------
    numpy.ndarray
        At most 1, 0 where the two are as good; NaN where the reference makes no error.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(reference_error > 0, 1 - squared_error / reference_error, np.nan)


def pooled_skill(squared_error: FloatArray, reference_error: FloatArray) -> float:
    """Skill over all features together, ``1 - sum_v SSE_v / sum_v SSE_reference,v``: the number of the tables.

    It is the average of the features' skills, each weighted by its reference error. An unweighted average has no floor:
    one voxel that the reference forecasts almost perfectly (a dropout, a border voxel of few grey levels) can bring a
    skill of minus a thousand and decide the table alone. Here such a voxel weighs next to nothing, as it should: there
    was nothing to win in it. The time points being z-scored, ordinary voxels weigh about the same.

    Parameters
    ----------
    squared_error, reference_error : numpy.ndarray
        Sums over the same time points, ``(features,)``.

    Returns
    -------
    float
        At most 1; NaN where the reference makes no error at all.
    """
    reference = float(reference_error.sum())
    return 1 - float(squared_error.sum()) / reference if reference > 0 else float("nan")


def pearson(co_spread: FloatArray, spread: FloatArray, other_spread: FloatArray) -> FloatArray:
    """Pearson correlation from sums of squares and products about the mean.

    Parameters
    ----------
    co_spread, spread, other_spread : numpy.ndarray
        Sum of products; sums of squares of the two series. Shapes broadcast.

    Returns
    -------
    numpy.ndarray
        Between -1 and 1; NaN where either series is constant.
    """
    scale = np.sqrt(spread * other_spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 0, np.clip(co_spread / scale, -1.0, 1.0), np.nan)


def fisher_z(r: FloatArray) -> FloatArray:
    """Fisher's transform ``arctanh(r)``, on which correlations are averaged; a perfect one counts as ``1 - 1e-12``."""
    return np.arctanh(np.clip(r, -_LARGEST_R, _LARGEST_R))


def fisher_mean(r: FloatArray) -> float:
    """Average correlations on Fisher's scale, ``tanh(mean(arctanh(r)))``; those that are NaN are left out."""
    finite = r[np.isfinite(r)]
    return float(np.tanh(fisher_z(finite).mean())) if finite.size else float("nan")
