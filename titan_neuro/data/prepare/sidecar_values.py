"""Values of a JSON sidecar, checked."""

from __future__ import annotations

import sys


def voxel_axis(direction: object) -> tuple[int, int] | None:
    """Parse a direction such as ``j-``, as in ``PhaseEncodingDirection`` and ``SliceEncodingDirection``.

    Parameters
    ----------
    direction : object
        What the sidecar gives.

    Returns
    -------
    tuple of int, or None
        The axis of the image (0, 1 or 2) and the sign (1, or -1 where the direction ends with ``-``); None where
        `direction` is not valid.
    """
    if not isinstance(direction, str) or direction.removesuffix("-") not in ("i", "j", "k"):
        return None
    return "ijk".index(direction[0]), -1 if direction.endswith("-") else 1


def is_finite_number(value: object) -> bool:
    """Return whether a value is a finite number; a boolean is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
