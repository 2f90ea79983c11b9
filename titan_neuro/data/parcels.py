"""What the names of parcels say: hemisphere and network, in the manner of Schaefer's atlas."""

from __future__ import annotations

import re

_SCHAEFER = re.compile(r"^(?:\d+Networks_)?(?P<side>[LR])H_(?P<network>[A-Za-z]+)(?:_|$)")
_NETWORKS_PREFIX = re.compile(r"^\d+Networks_")


def hemisphere_and_network(name: str) -> tuple[str, str]:
    """Return the hemisphere (``L`` or ``R``) and the network of a parcel that is named as in Schaefer's atlas.

    Parameters
    ----------
    name : str
        ``7Networks_LH_Vis_1`` and ``LH_Vis_1`` are left, ``Vis``.

    Returns
    -------
    tuple of str
        Both are empty for other names.
    """
    match = _SCHAEFER.match(name)
    return (match["side"], match["network"]) if match else ("", "")


def without_prefix(name: str) -> str:
    """Return a name without the number of networks: ``7Networks_LH_Vis_1`` is ``LH_Vis_1``."""
    return _NETWORKS_PREFIX.sub("", name)
