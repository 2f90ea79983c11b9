"""Smooth random fields over space, the same at every resolution."""

from __future__ import annotations

import numpy as np

_N_WAVES = 128
_BLOCK = 16384


def smooth_fields(rng: np.random.Generator, coordinates_mm: np.ndarray, length_mm: float, n_fields: int) -> np.ndarray:
    """Draw Gaussian fields with autocorrelation ``exp(-d^2 / (2 length_mm^2))``, as sums of random plane waves.

    A field is a function of position: it has the same value at a point, whatever other points are asked for.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same fields.
    coordinates_mm : numpy.ndarray
        Points, ``(points, 3)``.
    length_mm : float
        Length scale of the autocorrelation.
    n_fields : int

    Returns
    -------
    numpy.ndarray
        ``(n_fields, points)``, of mean 0 and variance 1 in expectation (random Fourier features: Rahimi and Recht,
        2007).
    """
    waves = rng.standard_normal((3, _N_WAVES)) / length_mm
    weights = rng.standard_normal((2 * _N_WAVES, n_fields)) / np.sqrt(_N_WAVES)
    fields = np.empty((n_fields, len(coordinates_mm)))
    # In blocks: a full-size brain has 100,000 voxels, and each needs two values a wave.
    for first in range(0, len(coordinates_mm), _BLOCK):
        phase = coordinates_mm[first : first + _BLOCK] @ waves
        fields[:, first : first + _BLOCK] = (np.concatenate([np.cos(phase), np.sin(phase)], axis=1) @ weights).T
    return fields
