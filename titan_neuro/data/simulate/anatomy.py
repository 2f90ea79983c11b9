"""Where the regions of a synthetic brain lie: bands of the whole brain, or named regions of grey matter.

The named regions are cells of the nearest center, on both sides. Centers are near those that the literature gives; no
atlas is needed. The three streams ascend a hierarchy of four levels each, from seeing and hearing to regions that
follow a story over minutes (Hasson et al., J Neurosci 28, 2539, 2008). Other regions do not respond to the movie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from titan_neuro.data.simulate.config import N_LEVELS_OF_CORTEX, STREAMS, SimulateConfig

# Centers in mm of MNI space, right hemisphere; each has its mirror image on the left.
_CORTEX = {
    "primary visual cortex": ((10, -90, 2),),
    "lateral occipital cortex": ((44, -74, -6),),
    "fusiform gyrus": ((40, -50, -18),),
    "hippocampus and parahippocampal gyrus": ((26, -34, -14), (26, -16, -18)),
    "primary auditory cortex": ((48, -20, 8),),
    "superior temporal gyrus": ((60, -30, 10), (60, -8, -2)),
    "middle temporal gyrus": ((60, -40, -6), (58, -16, -18)),
    "temporal pole and inferior frontal gyrus": ((44, 12, -28), (50, 26, 4)),
    "superior occipital gyrus": ((22, -84, 26),),
    "superior parietal lobule": ((26, -60, 56),),
    "angular gyrus and lateral prefrontal cortex": ((48, -60, 34), (40, 34, 28), (28, 54, 6), (26, 14, 54)),
    "posterior medial and medial prefrontal cortex": ((8, -56, 30), (6, -44, 14), (8, 54, 14), (6, 44, -8)),
}
_NOT_DRIVEN = {
    "somatomotor cortex": ((40, -22, 54), (56, -6, 30), (8, -20, 60), (44, -32, 44)),
    "insula, cingulate and basal ganglia": ((38, 4, 0), (6, 20, 34), (24, 4, 2), (12, -18, 8)),
}
# Cerebellum and brain stem are no part of the simulated brain.
_LEFT_OUT = ((24, -66, -38), (46, -60, -42), (10, -56, -22), (10, -78, -30), (6, -34, -40), (30, -46, -46))


class Region(NamedTuple):
    """A region of a synthetic brain.

    Attributes
    ----------
    name : str
    stream : str or None
        None where it does not respond to the movie.
    level : int or None
        In the hierarchy of its stream, from 0.
    centers_mm : list of tuple of int
        MNI coordinates that its voxels are nearest to; empty for bands.
    """

    name: str
    stream: str | None
    level: int | None
    centers_mm: list[tuple[int, int, int]]


def regions_of(config: SimulateConfig) -> list[Region]:
    """Return the regions, in the order of their indices: those that respond to the movie come first."""
    if config.anatomy == "bands":
        levels = range(len(config.timescales_s))
        return [Region(f"{stream}-{level + 1}", stream, level, []) for stream in STREAMS for level in levels]
    driven = [
        Region(name, STREAMS[index // N_LEVELS_OF_CORTEX], index % N_LEVELS_OF_CORTEX, _both_sides(centers))
        for index, (name, centers) in enumerate(_CORTEX.items())
    ]
    return driven + [Region(name, None, None, _both_sides(centers)) for name, centers in _NOT_DRIVEN.items()]


def assign_regions(coordinates_mm: np.ndarray, config: SimulateConfig) -> np.ndarray:
    """Assign each voxel to a region.

    Parameters
    ----------
    coordinates_mm : numpy.ndarray
        World coordinates of the voxels, ``(voxels, 3)``: x to the right, y to the front, z upwards.
    config : SimulateConfig
        Which anatomy, and how many levels.

    Returns
    -------
    numpy.ndarray
        Index of each voxel's region, ``(voxels,)``: ``stream * n_levels + level``, from 0; regions that do not respond
        to the movie follow.
    """
    if config.anatomy == "bands":
        return _bands(coordinates_mm, len(config.timescales_s))
    distances = [_squared_distance(coordinates_mm, region.centers_mm) for region in regions_of(config)]
    return np.asarray(np.argmin(distances, axis=0), dtype=np.int16)


def is_cerebral(coordinates_mm: np.ndarray) -> np.ndarray:
    """Return which voxels, ``(voxels, 3)`` in mm of MNI space, are of the cerebrum: bool ``(voxels,)``."""
    centers = [*_CORTEX.values(), *_NOT_DRIVEN.values()]
    cerebrum = np.min([_squared_distance(coordinates_mm, _both_sides(each)) for each in centers], axis=0)
    return np.asarray(cerebrum < _squared_distance(coordinates_mm, _both_sides(_LEFT_OUT)))


def _bands(coordinates_mm: np.ndarray, n_levels: int) -> np.ndarray:
    """Divide the brain into regions of equal size: levels from back to front, within each the streams from below up."""
    x, y, z = coordinates_mm.T
    regions = np.empty(len(coordinates_mm), dtype=np.int16)
    for level, band in enumerate(np.array_split(np.lexsort((x, z, y)), n_levels)):
        order = band[np.lexsort((x[band], y[band], z[band]))]
        for stream, voxels in enumerate(np.array_split(order, len(STREAMS))):
            regions[voxels] = stream * n_levels + level
    return regions


def _squared_distance(coordinates_mm: np.ndarray, centers_mm: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Squared distance of each voxel to the nearest of some points, ``(voxels,)``."""
    return np.asarray(np.min([((coordinates_mm - center) ** 2).sum(axis=1) for center in centers_mm], axis=0))


def _both_sides(centers: tuple[tuple[int, int, int], ...]) -> list[tuple[int, int, int]]:
    return [(side * x, y, z) for x, y, z in centers for side in (-1, 1)]
