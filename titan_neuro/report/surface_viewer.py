"""A map on both hemispheres, to be turned in the page: what its script draws, and the same in words.

nilearn's viewers are moved by the mouse alone: niivue (2.9 MB for one hemisphere) needs WebGL, plotly is a further
requirement. Decision 83.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_hex

from titan_neuro.metrics.measures import FloatArray
from titan_neuro.report.brain import map_scale, map_space, map_values
from titan_neuro.report.numbers import number
from titan_neuro.report.surfaces import fsaverage5_values

# Coordinates of the mesh are sent as whole hundredths of a mm.
_PER_MM = 100
_N_COLORS = 256
_N_PEAKS, _BETWEEN_PEAKS_MM = 3, 25.0
# Grays of a gyrus and of a sulcus where there is no value.
_GYRUS, _SULCUS = 200, 150


class Peak(NamedTuple):
    """A vertex with one of the highest values of its hemisphere: where it lies in mm, and its value as text."""

    hemisphere: str
    x: int
    y: int
    z: int
    value: str


class Hemisphere(TypedDict):
    """Arrays of the vertices of a hemisphere, in base64, little-endian.

    ``mesh``: int16 ``(vertices, 3)``, the inflated surface in 0.01 mm. ``mm``: int8 ``(vertices, 3)``, where the vertex
    lies in the brain. ``value``: float32, NaN where there is none. ``gray``: uint8, drawn there.
    """

    name: str
    mesh: str
    mm: str
    value: str
    gray: str


class SurfaceViewer(TypedDict):
    """A map for the template; ``faces`` (uint16, of both hemispheres) and ``colors`` (uint8, RGB) are base64."""

    hemispheres: list[Hemisphere]
    faces: str
    colors: str
    low: float
    high: float
    ends: tuple[str, str]
    gradient: str
    peaks: list[Peak]


def surface_viewer(path: Path, sidecar: Mapping[str, Any], stat: str, *, pale: bool = False) -> SurfaceViewer | None:
    """Prepare a map on fsaverage5 for the page.

    Parameters
    ----------
    path : Path
        A map with a value.
    sidecar : mapping
        The JSON beside it.
    stat : str
        What it shows, on a linear scale: ``skillar``, ``r2``, ...
    pale : bool
        See `titan_neuro.report.brain.plot_map`.

    Returns
    -------
    SurfaceViewer or None
        None for surfaces in another space than fsaverage, and where no vertex has a value.

    Raises
    ------
    ImageError
        The map can't be read.
    """
    found = fsaverage5_values(path, map_space(sidecar))
    if found is None or not any(np.isfinite(values).any() for values in found.values()):
        return None
    from nilearn.datasets import load_fsaverage, load_fsaverage_data

    meshes, sulci = load_fsaverage("fsaverage5"), load_fsaverage_data("fsaverage5", data_type="sulcal")
    scale = map_scale(map_values(path), stat, pale=pale)
    palette = ScalarMappable(scale.norm(), scale.colors).to_rgba(np.linspace(scale.low, scale.high, _N_COLORS))[:, :3]
    hemispheres, peaks = list[Hemisphere](), list[Peak]()
    for name, values in found.items():
        white, pial, inflated = (meshes[kind].parts[name].coordinates for kind in ("white_matter", "pial", "inflated"))
        mm = (white + pial) / 2
        gray = np.where(sulci.data.parts[name] > 0, _SULCUS, _GYRUS)
        hemispheres.append(
            {
                "name": name,
                "mesh": _base64(np.rint(inflated * _PER_MM), "<i2"),
                "mm": _base64(np.rint(mm), "i1"),
                "value": _base64(values, "<f4"),
                "gray": _base64(gray, "u1"),
            }
        )
        for vertex in highest_vertices(values, mm):
            x, y, z = (round(float(part)) for part in mm[vertex])
            peaks.append(Peak(name, x, y, z, number(float(values[vertex]))))
    return {
        "hemispheres": hemispheres,
        # The two meshes of fsaverage have the same triangles.
        "faces": _base64(meshes["inflated"].parts["left"].faces, "<u2"),
        "colors": _base64(np.rint(palette * 255), "u1"),
        "low": scale.low,
        "high": scale.high,
        "ends": (f"{scale.low:g}", f"{scale.high:g}"),
        "gradient": ", ".join(to_hex(color) for color in palette[:: (_N_COLORS - 1) // 15]),
        "peaks": peaks,
    }


def highest_vertices(values: FloatArray, mm: FloatArray) -> list[int]:
    """Return up to three vertices with the highest values, 25 mm apart.

    Parameters
    ----------
    values : numpy.ndarray
        ``(vertices,)``; those with NaN are not returned.
    mm : numpy.ndarray
        ``(vertices, 3)``, where they lie.

    Returns
    -------
    list of int
        From the highest on. Of vertices with equal values, as those of a parcel, the one in the middle; no other of
        them is returned.
    """
    left, found = np.isfinite(values), list[int]()
    while left.any() and len(found) < _N_PEAKS:
        equal = np.flatnonzero(left & (values == values[left].max()))
        middle = mm[equal].mean(axis=0)
        vertex = int(equal[np.linalg.norm(mm[equal] - middle, axis=1).argmin()])
        found.append(vertex)
        left &= (np.linalg.norm(mm - mm[vertex], axis=1) >= _BETWEEN_PEAKS_MM) & (values != values[vertex])
    return found


def _base64(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.dtype(kind)).tobytes()).decode("ascii")
