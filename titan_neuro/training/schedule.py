"""The learning rate over a training."""

from __future__ import annotations

import math


def rate_factor(progress: float, warmup_fraction: float = 0.0) -> float:
    """Return the factor of the learning rate: a linear warm-up to 1, then half a cosine down to 0.

    Parameters
    ----------
    progress : float
        Fraction of the training that is done, 0 to 1.
    warmup_fraction : float
        Fraction of the training that the warm-up takes, at least 0 and less than 1.

    Returns
    -------
    float
        0 to 1.
    """
    if progress < warmup_fraction:
        return progress / warmup_fraction
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_fraction) / (1 - warmup_fraction)))
