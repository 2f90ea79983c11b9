"""Reinstatement: the similarity of the pattern of a retelling with that of the same scene, less that with other scenes.

Similarity is Pearson's correlation over units (features, or the numbers of a memory's state).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from titan_neuro.data.space import Space
from titan_neuro.probing.tools.scenes import Patterns
from titan_neuro.seeds import named_generator

_FEWEST_SCENES = 3
# A searchlight at the rim of the brain with fewer voxels has no value.
_FEWEST_VOXELS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """Similarities of one subject's retold scenes with the scenes that were watched.

    Attributes
    ----------
    matrix : numpy.ndarray
        ``(retold, watched)``: correlations. Watched scenes are in the order of the stimulus.
    target : numpy.ndarray
        int ``(retold,)``: the column of the scene that was retold.
    retold : tuple of str
        Names of the retold scenes.
    """

    matrix: np.ndarray
    target: np.ndarray
    retold: tuple[str, ...]

    @property
    def matched(self) -> float:
        """Mean similarity with the same scene."""
        return float(self.matrix[np.arange(len(self.target)), self.target].mean())

    @property
    def mismatched(self) -> float:
        """Mean similarity with all other scenes."""
        return float(self._others(self.matched))

    def _others(self, matched: Any) -> Any:
        """Mean over the scenes that are left where these are the means, or the mean, of the same scene."""
        n_watched = self.matrix.shape[1]
        return (self.matrix.mean() * n_watched - matched) / (n_watched - 1)

    @property
    def contrast(self) -> float:
        """Reinstatement: `matched` less `mismatched`."""
        return self.matched - self.mismatched

    @property
    def over_neighbors(self) -> float:
        """Mean similarity with the same scene, less that with the scenes just before and after it; NaN without any.

        What changes steadily over a stimulus, and over its retelling in the same order, cancels out.
        """
        inner = (self.target > 0) & (self.target < self.matrix.shape[1] - 1)
        rows, columns = np.flatnonzero(inner), self.target[inner]
        if not len(rows):
            return float("nan")
        before, same, after = (self.matrix[rows, columns + step].mean() for step in (-1, 0, 1))
        return float(same - (before + after) / 2)

    def permuted(self, keys: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the contrast with the names of the retold scenes shuffled: ``(permutations,)``.

        Parameters
        ----------
        keys : mapping of str to numpy.ndarray
            From :func:`draw_keys`: subjects who retell the same scenes share their permutations.
        """
        order = np.argsort(np.column_stack([keys[name] for name in self.retold]), axis=1)
        matched = self.matrix[np.arange(len(self.target)), self.target[order]].mean(axis=1)
        contrast: np.ndarray = matched - self._others(matched)
        return contrast


def compare(retold: Patterns, watched: Patterns) -> Similarity | None:
    """Correlate the patterns of retold scenes with those of watched ones.

    Parameters
    ----------
    retold, watched : dict of str to numpy.ndarray
        By scene, ``(units,)`` each; `watched` in the order of the stimulus.

    Returns
    -------
    Similarity or None
        None where fewer than three scenes have both patterns. A pattern without variance counts as missing.
    """
    retold, watched = (_standardize(patterns) for patterns in (retold, watched))
    names = [name for name in retold if name in watched]
    if len(names) < _FEWEST_SCENES:
        return None
    columns = {name: index for index, name in enumerate(watched)}
    rows, others = (np.stack(list(patterns)) for patterns in ([retold[name] for name in names], watched.values()))
    return Similarity(
        matrix=rows @ others.T / rows.shape[1],
        target=np.array([columns[name] for name in names]),
        retold=tuple(names),
    )


def draw_keys(names: Sequence[str], *, n_permutations: int, seed: int) -> dict[str, np.ndarray]:
    """Draw random numbers by which scenes are ordered in each permutation: ``(permutations,)`` for each name."""
    keys = named_generator(seed, "scenes").random((len(names), n_permutations))
    return dict(zip(names, keys, strict=True))


def neighborhoods(space: Space | None, radius_mm: float) -> csr_array | None:
    """Find the voxels of the searchlight around each voxel.

    Parameters
    ----------
    space : Space or None
    radius_mm : float

    Returns
    -------
    scipy.sparse.csr_array or None
        ``(voxels, voxels)``, 1 where the distance of the centers is at most `radius_mm`; None for parcels and surfaces.
    """
    centers = None if space is None or space.kind != "volume" else space.centers_mm()
    if centers is None:
        return None
    tree = cKDTree(centers)
    pairs = tree.query_ball_point(centers, radius_mm + 1e-6)
    lengths = np.array([len(neighbors) for neighbors in pairs])
    columns = np.concatenate([np.asarray(neighbors) for neighbors in pairs])
    start = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((np.ones(len(columns)), columns, start), shape=(len(pairs), len(pairs)))


def too_small(near: csr_array, radius_mm: float) -> str:
    """Say of which voxels there is no map, as their searchlights hold too few voxels; '' if there is one of most."""
    n_too_small = int((near.sum(axis=1) < _FEWEST_VOXELS).sum())
    if 2 * n_too_small <= near.shape[0]:
        return ""
    return (
        f"Maps: {n_too_small} of {near.shape[0]} voxels have fewer than {_FEWEST_VOXELS} voxels within {radius_mm:g} "
        "mm, and no value. A larger radius gives them one: --set probe.recall.radius_mm=MM."
    )


def map_reinstatement(retold: Patterns, watched: Patterns, near: csr_array | None) -> np.ndarray | None:
    """Map one subject's reinstatement over features.

    Parameters
    ----------
    retold, watched : dict of str to numpy.ndarray
        As for :func:`compare`, with a number for each feature.
    near : scipy.sparse.csr_array or None
        From :func:`neighborhoods`. With searchlights, each voxel has the reinstatement of the voxels around it. Without
        them, each feature has its part of the whole brain's reinstatement, which is the mean of the map.

    Returns
    -------
    numpy.ndarray or None
        ``(features,)``, NaN where a searchlight is too small; None as in :func:`compare`.
    """
    if near is None:
        retold, watched = (_standardize(patterns) for patterns in (retold, watched))
    names = [name for name in retold if name in watched]
    if len(names) < _FEWEST_SCENES:
        return None
    others = np.stack(list(watched.values()))
    columns = {name: index for index, name in enumerate(watched)}
    total = np.zeros(others.shape[1])
    for name in names:
        local = retold[name] * others if near is None else _local_correlations(retold[name], others, near)
        matched = local[columns[name]]
        total += matched - (local.sum(axis=0) - matched) / (len(others) - 1)
    return total / len(names)


def _local_correlations(pattern: np.ndarray, others: np.ndarray, near: csr_array) -> np.ndarray:
    """Correlate a pattern ``(voxels,)`` with others ``(scenes, voxels)`` in each searchlight: ``(scenes, voxels)``."""
    count = near.sum(axis=1)

    def covariance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        means = (near @ np.atleast_2d(first).T).T * (near @ np.atleast_2d(second).T).T / count**2
        return cast("np.ndarray", (near @ np.atleast_2d(first * second).T).T / count - means)

    spread = covariance(pattern, pattern) * covariance(others, others)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariance(pattern, others) / np.sqrt(np.maximum(spread, 0))
    return np.where((count >= _FEWEST_VOXELS) & (spread > 0), r, np.nan)


def _standardize(patterns: Patterns) -> Patterns:
    """Z-score each pattern over its units; those without variance are left out."""
    spreads = {name: values.std() for name, values in patterns.items()}
    return {
        name: (values - values.mean()) / spreads[name]
        for name, values in patterns.items()
        if spreads[name] > 1e-9 * np.abs(values).max(initial=0.0)
    }
