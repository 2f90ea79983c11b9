"""Random generators whose draws depend on a seed and a name alone, not on the order of what is drawn."""

from __future__ import annotations

import zlib

import numpy as np


def keyed_generator(seed: int, key: str) -> np.random.Generator:
    """Return a generator for one seed and one key, such as the name of a run.

    Parameters
    ----------
    seed : int
        At least 0.
    key : str

    Returns
    -------
    numpy.random.Generator
        The same draws for the same seed and key, in every process.
    """
    return np.random.default_rng([seed, zlib.crc32(key.encode())])
