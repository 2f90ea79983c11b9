"""All slices of a map in three pictures, which the page shows one by one: a viewer without a library.

nilearn's viewer (brainsprite, jQuery) and niivue are moved by the mouse alone, and run scripts that the page's policy
would have to allow. Three sliders are moved by keys, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from matplotlib.cm import ScalarMappable
from nibabel.affines import apply_affine

from titan_neuro.report.brain import map_scale
from titan_neuro.report.style import pixels_uri
from titan_neuro.report.volumes import read_volume, values_at

_STEP_MM = 3
_COLUMNS = 10
# Anatomy is drawn darker than any color of a map.
_BRIGHTEST = 0.75


class _Plane(NamedTuple):
    """Axis that its slices lie along, and the axes that run across and up in it."""

    name: str
    axis: int
    across: int
    up: int


# Left is on the left, as in nilearn's pictures.
_PLANES = (_Plane("coronal", 1, 0, 2), _Plane("sagittal", 0, 1, 2), _Plane("axial", 2, 0, 1))
_AXES = ("x, left to right", "y, back to front", "z, bottom to top")


class PlaneSlices(TypedDict):
    """The slices along one axis: a picture with all of them, in rows of `columns`."""

    name: str
    axis: int
    across: int
    up: int
    columns: int
    width: int
    height: int
    source: str


class Slider(TypedDict):
    """A slider in mm."""

    label: str
    low: int
    high: int
    step: int
    at: int


class MapViewer(TypedDict):
    """A map for the template."""

    planes: list[PlaneSlices]
    sliders: list[Slider]


def map_viewer(path: Path, stat: str, *, limit: float | None = None, pale: bool = False) -> MapViewer:
    """Draw every slice of a volume on the MNI152 template, 3 mm apart, beginning at the largest absolute value.

    Parameters
    ----------
    path : Path
        A ``_statmap.nii.gz`` with a value.
    stat : str
        What it shows: ``skillar``, ``timescale``, ...
    limit, pale
        See `titan_neuro.report.brain.plot_map`.

    Raises
    ------
    ImageError
        The image can't be read, or is not 3D.
    """
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=_STEP_MM)
    anatomy = np.asarray(template.get_fdata())
    values, affine = read_volume(path)
    scale = map_scale(values[np.isfinite(values)], stat, limit, pale=pale)
    points = apply_affine(template.affine, np.moveaxis(np.indices(anatomy.shape), 0, -1))
    volume = values_at(values, affine, points)
    gray = 255 * _BRIGHTEST * anatomy / anatomy.max()
    pixels = np.repeat(gray[..., None].clip(0, 255).astype(np.uint8), 3, axis=3)
    has_value = np.isfinite(volume)
    pixels[has_value] = ScalarMappable(scale.norm(), scale.colors).to_rgba(volume[has_value], bytes=True)[:, :3]
    peak = int(np.nanargmax(np.abs(volume))) if has_value.any() else 0
    largest = np.unravel_index(peak, volume.shape)
    first = apply_affine(template.affine, [0, 0, 0])
    return {
        "planes": [_slices(pixels, plane) for plane in _PLANES],
        "sliders": [
            {
                "label": label,
                "low": round(float(low)),
                "high": round(float(low)) + (n_voxels - 1) * _STEP_MM,
                "step": _STEP_MM,
                "at": round(float(low)) + int(index) * _STEP_MM,
            }
            for label, low, n_voxels, index in zip(_AXES, first, volume.shape, largest, strict=True)
        ],
    }


def _slices(pixels: np.ndarray, plane: _Plane) -> PlaneSlices:
    # Slices, then rows from the top, then columns from the left.
    stack = np.moveaxis(pixels, (plane.axis, plane.up, plane.across), (0, 1, 2))[:, ::-1]
    n_slices, height, width = stack.shape[:3]
    stack = np.concatenate([stack, np.zeros((-n_slices % _COLUMNS, height, width, 3), np.uint8)])
    picture = stack.reshape(-1, _COLUMNS, height, width, 3).swapaxes(1, 2).reshape(-1, _COLUMNS * width, 3)
    return PlaneSlices(
        name=plane.name,
        axis=plane.axis,
        across=plane.across,
        up=plane.up,
        columns=_COLUMNS,
        width=width,
        height=height,
        source=pixels_uri(picture),
    )
