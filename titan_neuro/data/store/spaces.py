"""A space in a store: attributes in JSON, and small arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from titan_neuro.data.grayordinates import Grayordinates, Structure
from titan_neuro.data.space import ParcelLayout, Space

_LAYOUT = "layout_"


def space_attributes(space: Space) -> dict[str, Any]:
    """Return the attributes of a space: plain JSON, with the keys of ``docs/store.md``."""
    points, layout = space.grayordinates, space.layout
    return {
        "kind": space.kind,
        "space": space.name,
        "affine": _as_list(space.affine),
        "parcels": list(space.parcels),
        "lost_parcels": list(space.lost_parcels),
        "grayordinates": None
        if points is None
        else {
            "form": points.form,
            "structures": [[structure.name, structure.n_vertices] for structure in points.structures],
            "shape": None if points.shape is None else list(points.shape),
            "affine": _as_list(points.affine),
        },
        "layout": None
        if layout is None
        else {
            **space_attributes(layout.space),
            "names": list(layout.names),
            "hemispheres": list(layout.hemispheres),
            "networks": list(layout.networks),
        },
    }


def space_arrays(space: Space, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of a space by name; those of a layout have a name with a prefix."""
    arrays = {}
    if space.mask is not None:
        arrays[f"{prefix}mask"] = space.mask.astype(bool)
    if space.grayordinates is not None:
        arrays[f"{prefix}points"] = space.grayordinates.points.astype("<i8")
    if space.layout is not None:
        arrays |= space_arrays(space.layout.space, _LAYOUT)
        arrays[f"{_LAYOUT}labels"] = space.layout.labels.astype("<i4")
    return arrays


def read_space(attributes: Mapping[str, Any], read: Callable[[str], np.ndarray], prefix: str = "") -> Space:
    """Return the space that `space_attributes` and `space_arrays` describe.

    Parameters
    ----------
    attributes : mapping
    read : callable
        Returns an array by its name.
    prefix : str
        Of the names of arrays.
    """
    kind, points, layout = attributes["kind"], attributes["grayordinates"], attributes["layout"]
    return Space(
        kind=kind,
        name=attributes["space"],
        mask=read(f"{prefix}mask") if kind == "volume" else None,
        affine=_as_array(attributes["affine"]),
        parcels=tuple(attributes["parcels"]),
        lost_parcels=tuple(attributes["lost_parcels"]),
        grayordinates=None
        if points is None
        else Grayordinates(
            form=points["form"],
            structures=tuple(Structure(name=name, n_vertices=n_vertices) for name, n_vertices in points["structures"]),
            points=read(f"{prefix}points"),
            shape=None if points["shape"] is None else tuple(points["shape"]),
            affine=_as_array(points["affine"]),
        ),
        layout=None
        if layout is None
        else ParcelLayout(
            space=read_space(layout, read, _LAYOUT),
            labels=read(f"{_LAYOUT}labels"),
            names=tuple(layout["names"]),
            hemispheres=tuple(layout["hemispheres"]),
            networks=tuple(layout["networks"]),
        ),
    )


def _as_list(values: np.ndarray | None) -> list[Any] | None:
    return None if values is None else list(values.tolist())


def _as_array(values: list[Any] | None) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype=np.float64)
