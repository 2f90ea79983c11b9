"""Seeds of everything that is drawn at random, derived from the study's seed and from what is drawn."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def named_generator(seed: int, name: str) -> np.random.Generator:
    """Return a random generator for one named object, such as a run or a stimulus.

    The same `seed` and `name` give the same draws on every machine. The draws of one object don't depend on which other
    objects there are, or on their order.

    Parameters
    ----------
    seed : int
        Of the study; at least 0.
    name : str
        Such as the key of a run.
    """
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def fold_seed(seed: int, fold: int) -> int:
    """Return the seed of one fold's training, at least 0 and less than 2^32.

    It follows from both numbers: no fold of one seed draws the same numbers as another fold of another seed.

    Parameters
    ----------
    seed : int
        Of the study; at least 0.
    fold : int
        Number of the fold.
    """
    import numpy as np

    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of one epoch's draws: order and offsets of the runs, places of the volumes."""
    return seed * 100_003 + epoch
