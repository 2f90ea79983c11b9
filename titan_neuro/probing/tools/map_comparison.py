"""Whether two maps of features agree beyond what smooth maps do by chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from titan_neuro.metrics import moran_surrogates, p_of_null

# More features are averaged in cubes: the patterns of surrogates take time with the third power of the number.
_MOST_UNITS = 1000
# With fewer, the agreement of two maps has no meaning.
_FEWEST_UNITS = 10
_GROWTH = 1.25


class Agreement(NamedTuple):
    """Agreement of two maps.

    Attributes
    ----------
    rho : float
        Spearman's correlation over units; NaN where there are fewer than ten, or a map is constant.
    null : numpy.ndarray
        ``(n_maps,)``: that of surrogates; empty where it is not known where the features lie.
    p : float
        Two-sided; NaN without a null distribution.
    n_units : int
        Features with a value in both maps, or the cubes in which they were averaged.
    """

    rho: float
    null: np.ndarray
    p: float
    n_units: int


def compare_maps(
    first: np.ndarray, second: np.ndarray, centers_mm: np.ndarray | None, *, n_maps: int, seed: int
) -> Agreement:
    """Correlate two maps over features, and the surrogates of the first with the second.

    Parameters
    ----------
    first, second : numpy.ndarray
        ``(features,)``; NaN where a feature has no value.
    centers_mm : numpy.ndarray or None
        Where the features lie, ``(features, 3)``; None: not known, so that there is no null distribution.
    n_maps : int
        Number of surrogates.
    seed : int
    """
    both = np.isfinite(first) & np.isfinite(second)
    maps, centers = np.column_stack([first, second])[both], None if centers_mm is None else centers_mm[both]
    if centers is not None and len(maps) > _MOST_UNITS:
        maps, centers = _average_in_cubes(maps, centers)
    varies = len(maps) >= _FEWEST_UNITS and bool((np.ptp(maps, axis=0) > 0).all())
    rho = float(_spearman(maps[None, :, 0], maps[:, 1])[0]) if varies else float("nan")
    if centers is None or not varies:
        return Agreement(rho, np.zeros(0), float("nan"), len(maps))
    null = _spearman(moran_surrogates(maps[:, 0], centers, n_maps=n_maps, seed=seed), maps[:, 1])
    # Equal correlations may differ by rounding.
    return Agreement(rho, null, p_of_null(abs(rho) - 1e-9, np.abs(null)), len(maps))


def _average_in_cubes(maps: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the maps ``(features, maps)`` and the centers in cubes, the smallest of which there are few enough."""
    extent = np.ptp(centers, axis=0).max()
    edge = extent / len(centers) ** (1 / 3)
    while True:
        _, cube = np.unique(np.floor((centers - centers.min(axis=0)) / edge), axis=0, return_inverse=True)
        if cube.max() < _MOST_UNITS:
            break
        edge *= _GROWTH
    count = np.bincount(cube)[:, None]
    means = [np.stack([np.bincount(cube, column) for column in values.T], axis=1) / count for values in (maps, centers)]
    return means[0], means[1]


def _spearman(maps: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each map ``(maps, units)`` with another one ``(units,)``."""
    ranks, others = rankdata(maps, axis=1), rankdata(other)
    ranks, others = ranks - ranks.mean(axis=1, keepdims=True), others - others.mean()
    rho: np.ndarray = ranks @ others / np.sqrt(np.square(ranks).sum(axis=1) * np.square(others).sum())
    return rho
