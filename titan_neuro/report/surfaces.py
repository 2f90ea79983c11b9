"""Maps on surfaces (CIFTI and GIFTI files): their values, and pictures on a mesh that is at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import nibabel
import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from titan_neuro.data.grayordinates import CORTEX
from titan_neuro.errors import ImageError
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.report.numbers import number
from titan_neuro.report.reading import HINT
from titan_neuro.report.volumes import read_volume, values_at

SURFACE_ENDINGS = (".dscalar.nii", ".pscalar.nii", ".func.gii")
"""Endings of maps on surfaces."""

_HEMISPHERE_NAMES = {"L": "left", "R": "right"}
_VIEWS = (("L", "lateral"), ("L", "medial"), ("R", "medial"), ("R", "lateral"))
# Fractions of the way from the white to the pial surface, in the order in which a voxel with a value is looked for.
_DEPTHS = (0.5, 0.25, 0.75, 0.0, 1.0)
_ZOOM = 1.4
# FreeSurfer's fsaverage surfaces are nested: the first vertices of each are those of the coarser ones.
_FSAVERAGE5, _FSAVERAGE_SIZES = 10242, frozenset({10242, 40962, 163842})


class StructureRow(TypedDict):
    """A structure in the table that stands for a picture; values as text."""

    structure: str
    n: str
    median: str
    low: str
    high: str


def read_surface_map(path: Path) -> dict[str, FloatArray]:
    """Read a map on surfaces.

    Parameters
    ----------
    path : Path
        ``*.dscalar.nii``, ``*.pscalar.nii``, or the ``*.func.gii`` of one hemisphere, beside that of the other one.

    Returns
    -------
    dict
        Values of each structure: of a surface ``(all its vertices,)``, NaN where the map has none; of voxels those with
        a value. Structures are named as in CIFTI; voxels of parcels are of ``parcels of voxels``.

    Raises
    ------
    ImageError
        A file can't be read, or has another kind of content.
    """
    try:
        if not path.name.endswith(".gii"):
            return _read_cifti(path)
        values = {}
        for side, structure in CORTEX.items():
            file = path.with_name(re.sub(r"_hemi-[LR]_", f"_hemi-{side}_", path.name))
            if file.is_file():
                values[structure] = np.asarray(nibabel.load(file).darrays[0].data, np.float64)
        return values
    # nibabel's readers of XML and of headers have errors of many kinds.
    except Exception as error:
        raise ImageError(f"{path}: can't be read as a map on surfaces: {error}.", HINT) from error


def _read_cifti(path: Path) -> dict[str, FloatArray]:
    image = nibabel.load(path)
    row = np.asarray(image.dataobj[0], np.float64)
    axis = image.header.get_axis(1)
    whole = {str(name): np.full(size, np.nan) for name, size in axis.nvertices.items()}
    if isinstance(axis, nibabel.cifti2.BrainModelAxis):
        for name, part, models in axis.iter_structures():
            if name in whole:
                whole[name][models.vertex] = row[part]
            else:
                whole[str(name)] = row[part]
        return whole
    of_voxels = [np.repeat(value, len(voxels)) for value, voxels in zip(row, axis.voxels, strict=True)]
    for value, vertices in zip(row, axis.vertices, strict=True):
        for name, indices in vertices.items():
            whole[str(name)][indices] = value
    return whole | ({"parcels of voxels": np.concatenate(of_voxels)} if any(map(len, of_voxels)) else {})


def surface_values(path: Path) -> FloatArray:
    """Values of the features of a map on surfaces, parcels once each: float64 ``(values,)``, finite."""
    if path.name.endswith(".pscalar.nii"):
        values = np.asarray(nibabel.load(path).dataobj[0], np.float64)
    else:
        values = np.concatenate(list(read_surface_map(path).values()))
    return np.asarray(values[np.isfinite(values)])


def fsaverage5_values(path: Path, space: str) -> dict[str, FloatArray] | None:
    """Return the values of a map at the vertices of fsaverage5, which nilearn ships; nothing is downloaded.

    A vertex has the value of the voxel halfway between its white and its pial surface, or where this has none, of one
    nearer to either. No values are mixed.

    Parameters
    ----------
    path : Path
        The map: a volume, or a surface in fsaverage of whatever density.
    space : str
        According to its sidecar. Volumes are placed by their header's coordinates, in whatever space.

    Returns
    -------
    dict or None
        ``left`` and ``right``, or the one that the map has: float64 ``(10242,)``, NaN where it has no value. None for
        surfaces in other spaces.
    """
    if not path.name.endswith(SURFACE_ENDINGS):
        return _between_white_and_pial(path)
    values = {name: values for name, values in read_surface_map(path).items() if name in CORTEX.values()}
    sizes = {len(part) for part in values.values()}
    if not (space.startswith("fsaverage") and sizes and sizes <= _FSAVERAGE_SIZES):
        return None
    return {
        hemisphere: values[CORTEX[side]][:_FSAVERAGE5]
        for side, hemisphere in _HEMISPHERE_NAMES.items()
        if CORTEX[side] in values
    }


def _between_white_and_pial(path: Path) -> dict[str, FloatArray]:
    from nilearn.datasets import load_fsaverage

    values, affine = read_volume(path)
    meshes = load_fsaverage("fsaverage5")
    found = {}
    for hemisphere in _HEMISPHERE_NAMES.values():
        white, pial = (meshes[name].parts[hemisphere].coordinates for name in ("white_matter", "pial"))
        at = np.full(len(white), np.nan)
        for depth in _DEPTHS:
            at = np.where(np.isnan(at), values_at(values, affine, white + depth * (pial - white)), at)
        found[hemisphere] = at
    return found


def structure_rows(path: Path) -> list[StructureRow]:
    """Summarize a map by structure, for a table instead of a picture."""
    rows = []
    for structure, values in read_surface_map(path).items():
        finite = values[np.isfinite(values)]
        if finite.size:
            low, median, high = (number(float(value)) for value in np.percentile(finite, (10, 50, 90)))
            name = structure.removeprefix("CIFTI_STRUCTURE_").replace("_", " ").lower()
            rows.append(StructureRow(structure=name, n=f"{finite.size:,}", median=median, low=low, high=high))
    return rows


def draw_surfaces(
    figure: Figure, values: Mapping[str, FloatArray], colors: Colormap, ends: tuple[float, float]
) -> None:
    """Draw four views of the inflated fsaverage5 into a figure: both hemispheres from outside and from the middle.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    values : mapping of str to numpy.ndarray
        As of `fsaverage5_values`; gray where there is none.
    colors : matplotlib.colors.Colormap
    ends : tuple of float
        Of the color scale.
    """
    # nilearn takes a second to import.
    from nilearn.datasets import load_fsaverage
    from nilearn.plotting import plot_surf

    mesh = load_fsaverage("fsaverage5")["inflated"]
    for position, (side, view) in enumerate(_VIEWS):
        hemisphere = _HEMISPHERE_NAMES[side]
        if hemisphere not in values:
            continue
        axes: Any = figure.add_axes((0.2475 * position + 0.005, 0.35, 0.2475, 0.56), projection="3d")
        plot_surf(
            mesh.parts[hemisphere],
            values[hemisphere],
            hemi=hemisphere,
            view=view,
            axes=axes,
            figure=figure,
            colorbar=False,
            cmap=colors,
            vmin=ends[0],
            vmax=ends[1],
            alpha=1.0,
            avg_method="median",
        )
        axes.set_box_aspect(None, zoom=_ZOOM)
        axes.set_title(f"{hemisphere}, {view}", fontsize=8, fontweight="normal", loc="center", y=-0.02)


def n_not_drawn(values: Mapping[str, FloatArray]) -> int:
    """Return the number of values that lie outside both cortices."""
    return sum(int(np.isfinite(part).sum()) for name, part in values.items() if name not in CORTEX.values())
