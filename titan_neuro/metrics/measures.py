"""Skills and correlations, as pure functions of sums over time points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Fisher's z of a correlation of 1 is infinite: correlations are clipped here.
_LARGEST_R = 1 - 1e-12


def skill(squared_error: FloatArray, reference_error: FloatArray) -> FloatArray:
    """Skill of each feature, ``1 - SSE / SSE_reference``.

    Against the training mean this is `r2`, against persistence `skill`, against linear autoregression `skill_ar`.

    Parameters
    ----------
    squared_error, reference_error : numpy.ndarray
        Sums over the same time points, ``(..., features)``, of one shape.

    Returns
    -------
    numpy.ndarray
        Shaped like the inputs: at most 1, 0 where both errors are equal; NaN where the reference makes no error.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(reference_error > 0, 1 - squared_error / reference_error, np.nan)


def pooled_skill(squared_error: FloatArray, reference_error: FloatArray) -> float:
    """Skill over all features together, ``1 - sum_v SSE_v / sum_v SSE_reference,v``: the number of the tables.

    It is the average of the features' skills, weighted by their reference errors. An unweighted average has no lower
    limit: one voxel that the reference forecasts almost perfectly (signal dropout, or a border voxel of few grey
    levels) can have a skill of -1000 and decide the table alone. Here such a voxel has almost no weight. Since time
    points are z-scored, ordinary voxels have about equal weights.

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
    """Fisher's transform ``arctanh(r)``, of any shape; correlations are clipped at ``1 - 1e-12``."""
    return np.arctanh(np.clip(r, -_LARGEST_R, _LARGEST_R))


def fisher_mean(r: FloatArray) -> float:
    """Average correlations of any shape on Fisher's scale, ``tanh(mean(arctanh(r)))``; NaN is left out."""
    finite = r[np.isfinite(r)]
    return float(np.tanh(fisher_z(finite).mean())) if finite.size else float("nan")
