"""Maps as pictures: volumes on the MNI152 template that nilearn ships, surfaces on a mesh, parcels as bars."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import nibabel
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from nibabel.affines import apply_affine, voxel_sizes

from titan_neuro.errors import ImageError, MetadataError
from titan_neuro.evaluation.metrics_and_rows import METRICS_BY_NAME
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.report.parcels import parcel_figure, set_log_ticks
from titan_neuro.report.reading import HINT, read_parcels
from titan_neuro.report.style import INK, MUTED, STYLE, plain
from titan_neuro.report.surfaces import (
    SURFACE_ENDINGS,
    draw_surfaces,
    fsaverage5_values,
    n_not_drawn,
    read_surface_map,
    surface_values,
)
from titan_neuro.report.volumes import read_volume

_LABELS = {
    **{name.replace("_", ""): f"{name}: {METRICS_BY_NAME[name].label}" for name in ("skill_ar", "r2")},
    "timescale": "timescale (s)",
    "lost": "skill_ar lost",
    "gain": "skill_ar gained",
    "intrinsic": "intrinsic timescale (s)",
    **dict.fromkeys(("others", "forecast"), "reinstatement (difference of correlations)"),
}
_N_SLICES = 6
FROM_ZERO = frozenset({"intrinsic"})
"""Statistics that can't be negative: their colors begin at 0, and how many are above it says nothing."""
# Fraction of the color in a pale map.
_PALE = 0.3
_DRAWN_MM = 2.0
# The template's own white would look like a value of 0.
_DARKER_TEMPLATE = 0.35
# Rows of slices of a map: axis that is cut, bottom, height; the bottom of the colors, and of what lies below them.
_ROWS, _COLORS_BOTTOM, _NOTE_TOP = (("z", 0.55, 0.375), ("x", 0.235, 0.3)), 0.185, 0.085
_ALMOST_ZERO = 1e-9
_TITLE_LETTERS = 80
"""Letters of a title that fit into one line."""


def plot_map(
    path: Path,
    sidecar: Mapping[str, Any],
    title: str,
    *,
    limit: float | None = None,
    pale: bool = False,
    note: bool = True,
) -> Figure:
    """Draw one map: slices through the brain for a volume, views of a surface, bars for parcels.

    Skills and r2 are drawn on a scale that is symmetric about zero, intrinsic timescales from zero on, the timescales
    of the model on a logarithmic scale. Voxels are drawn
    as they are, without smoothing or interpolation.

    Parameters
    ----------
    path : Path
        A ``_statmap`` with the entity ``stat-`` in its name: ``.nii.gz``, ``.dscalar.nii``, ``.pscalar.nii``,
        ``.func.gii`` (of either hemisphere) or ``.tsv``.
    sidecar : mapping
        The JSON beside it; ``Space`` decides the note below the picture.
    title : str
        Heading of the picture.
    limit : float, optional
        End of the symmetric color scale (parcels: the axis reaches at least as far), so that two maps can share one.
        By default it follows from the map. Timescales have a scale of their own.
    pale : bool
        Whether colors of a brain are mixed with white: for a map that shows no finding.
    note : bool
        Whether the space of a volume is named below it, as `space_note` does; False where a caption says it.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: it needs no closing.

    Raises
    ------
    ImageError
        The image can't be read, is not 3D, holds no value, or a timescale that is not above 0; there is no mesh for the
        surface.
    MetadataError
        The name lacks ``stat-``, or a table of parcels is malformed.
    """
    scale, label = _drawn_as(path, limit, pale=pale)
    with matplotlib.rc_context(STYLE):
        if path.name.endswith(".tsv"):
            return parcel_figure(read_parcels(path), label, title, limit=limit, log=scale.is_log)
        if path.name.endswith(SURFACE_ENDINGS):
            return _surface_figure(path, sidecar, scale, label, title)
        return _volume_figure(path, scale, label, title, space_note(sidecar) if note else "")


def plot_on_surface(
    path: Path, sidecar: Mapping[str, Any], title: str, *, limit: float | None = None, pale: bool = False
) -> Figure:
    """Draw a map on the inflated fsaverage5: a volume, or a surface in fsaverage.

    Parameters
    ----------
    path, sidecar, title, limit, pale
        See :func:`plot_map`.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: it needs no closing.

    Raises
    ------
    ImageError
        As of :func:`plot_map`.
    MetadataError
        The name lacks ``stat-``.
    """
    scale, label = _drawn_as(path, limit, pale=pale)
    with matplotlib.rc_context(STYLE):
        return _surface_figure(path, sidecar, scale, label, title)


def _drawn_as(path: Path, limit: float | None, *, pale: bool) -> tuple[ColorScale, str]:
    """Return the color scale of a map and the words beside it."""
    stat = re.search(r"_stat-([A-Za-z0-9]+)_", path.name)
    if stat is None:
        raise MetadataError(f"{path}: the name has no entity stat-.", "Maps are named ..._stat-<what>_..._statmap.")
    values = map_values(path)
    if values.size == 0:
        raise ImageError(f"{path}: has no value to draw.")
    if stat[1] == "timescale" and values.min() <= 0:
        raise ImageError(f"{path}: expected timescales above 0 s, found {values.min():g} s.", HINT)
    return map_scale(values, stat[1], limit, pale=pale), _LABELS.get(stat[1], stat[1])


def map_values(path: Path) -> FloatArray:
    """Values of a map: of a table those that are finite, of an image those inside the mask.

    Outside the mask our images are NaN. One without any NaN has zero there.

    Parameters
    ----------
    path : Path
        As for :func:`plot_map`.

    Returns
    -------
    numpy.ndarray
        float64, ``(values,)``.

    Raises
    ------
    ImageError
        The image can't be read or is not 3D.
    MetadataError
        The table of parcels is malformed.
    """
    if path.name.endswith(".tsv"):
        values = read_parcels(path)["value"].to_numpy(np.float64)
        return np.asarray(values[np.isfinite(values)])
    if path.name.endswith(SURFACE_ENDINGS):
        return surface_values(path)
    data, _ = read_volume(path)
    return np.asarray(data[np.isfinite(data)])


def symmetric_limit(values: FloatArray) -> float:
    """End of a scale that is symmetric about zero: the 99th percentile of the absolute values, in two digits.

    It is at least 0.001: smaller differences are not worth a color.
    """
    return float(f"{max(np.percentile(np.abs(values), 99), 1e-3):.2g}")


def space_note(sidecar: Mapping[str, Any], place: str = "over the MNI152 template") -> str:
    """Say how exactly a voxel of the map can be located in the picture, in one sentence.

    Parameters
    ----------
    sidecar : mapping
        The JSON beside the map.
    place : str
        Where the picture shows the voxels.

    Returns
    -------
    str
        A sentence for a caption.
    """
    space = map_space(sidecar)
    if space.startswith("MNI"):
        return f"Images in {space}, {place}."
    if space == "native":
        return (
            f"Native space: the images were not registered. Their header coordinates place them {place}, so the "
            "anatomy is a rough guide at best."
        )
    return f"Images in the space {space}, placed {place} by their header coordinates."


def map_space(sidecar: Mapping[str, Any]) -> str:
    """Return the space of an image: for parcels that of the atlas."""
    return str(sidecar.get("AtlasSpace") or sidecar.get("Space") or "unknown")


def has_picture(path: Path, sidecar: Mapping[str, Any]) -> bool:
    """Whether :func:`plot_map` can draw a map: of a surface it must be fsaverage."""
    return not path.name.endswith(SURFACE_ENDINGS) or fsaverage5_values(path, map_space(sidecar)) is not None


class ColorScale(NamedTuple):
    """Ends of a color scale, whether it is logarithmic, and whether its colors are mixed with white."""

    low: float
    high: float
    is_log: bool
    is_pale: bool = False

    @property
    def colors(self) -> Colormap:
        """Colors, from the low end to the high one."""
        colors = matplotlib.colormaps["RdBu_r" if self.low < 0 else "viridis"]
        if not self.is_pale:
            return colors
        mixed = _PALE * colors(np.linspace(0, 1, colors.N))[:, :3] + (1 - _PALE)
        return ListedColormap(mixed, "pale")

    def norm(self) -> Normalize:
        """Map values to the range of `colors`."""
        return LogNorm(self.low, self.high) if self.is_log else Normalize(self.low, self.high)


def map_scale(values: FloatArray, stat: str, limit: float | None = None, *, pale: bool = False) -> ColorScale:
    """Return the color scale of a map with these values; see `plot_map`."""
    if stat == "timescale":
        low, high = float(values.min()), float(values.max())
        return ColorScale(low, max(high, low * 1.01), is_log=True, is_pale=pale)
    end = symmetric_limit(values) if limit is None else limit
    return ColorScale(0.0 if stat in FROM_ZERO else -end, end, is_log=False, is_pale=pale)


def _volume_figure(path: Path, scale: ColorScale, label: str, title: str, note: str) -> Figure:
    values, affine = read_volume(path)
    # Without a note nothing is left blank for it.
    cut = 0.0 if note else _NOTE_TOP
    whole = 1 - cut
    figure = Figure(figsize=(7.6, 4.1 * whole))
    figure.set_layout_engine("none")
    mappable = ScalarMappable(scale.norm(), scale.colors)
    rows = [(axis, (bottom - cut) / whole, height / whole) for axis, bottom, height in _ROWS]
    if scale.is_log:
        # nilearn colors linearly: the logarithm is drawn, shifted so that no voxel falls on zero, which it hides.
        ends = (1.0, float(np.log(scale.high / scale.low)) + 1)
        _draw_slices(figure, affine, np.log(values / scale.low) + 1, mappable.cmap, ends, rows)
    else:
        _draw_slices(figure, affine, values, mappable.cmap, (scale.low, scale.high), rows)
    _write_title(figure, title)
    _color_bar(figure, mappable, scale, values[np.isfinite(values)], label, bottom=(_COLORS_BOTTOM - cut) / whole)
    _write_note(figure, note)
    return figure


def quality_figure(values: FloatArray, affine: FloatArray, label: str, note: str) -> Figure:
    """Draw a measure of the quality of recordings, which is no finding: small, pale, one row of slices.

    Parameters
    ----------
    values : numpy.ndarray
        ``(x, y, z)``, NaN where there is none; colors end at 0 and at the 98th percentile.
    affine : numpy.ndarray
        ``(4, 4)``.
    label : str
        Beside the colors.
    note : str
        Below the picture.

    Returns
    -------
    matplotlib.figure.Figure
    """
    finite = values[np.isfinite(values)]
    scale = ColorScale(0.0, float(f"{np.percentile(finite, 98):.2g}"), is_log=False, is_pale=True)
    mappable = ScalarMappable(scale.norm(), scale.colors)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.3))
        figure.set_layout_engine("none")
        _draw_slices(figure, affine, values, mappable.cmap, (scale.low, scale.high), (("z", 0.4, 0.6),))
        _color_bar(figure, mappable, scale, finite, label, bottom=0.34)
        _write_note(figure, note)
    return figure


def _surface_figure(path: Path, sidecar: Mapping[str, Any], scale: ColorScale, label: str, title: str) -> Figure:
    space = map_space(sidecar)
    values = fsaverage5_values(path, space)
    if values is None:
        raise ImageError(f"{path}: no mesh of {space} is at hand to draw it on.", "Open it with a viewer of surfaces.")
    figure = Figure(figsize=(7.6, 3.2))
    figure.set_layout_engine("none")
    mappable, ends = ScalarMappable(scale.norm(), scale.colors), (scale.low, scale.high)
    drawn = values
    if scale.is_log:
        drawn, ends = {side: np.log(part) for side, part in values.items()}, (np.log(scale.low), np.log(scale.high))
    draw_surfaces(figure, drawn, mappable.cmap, ends)
    _write_title(figure, title)
    _color_bar(figure, mappable, scale, map_values(path), label, bottom=0.27)
    _write_note(figure, _surface_note(path, sidecar))
    return figure


def _surface_note(path: Path, sidecar: Mapping[str, Any]) -> str:
    """Say how values came to the vertices of a picture of a surface, in two sentences for a caption."""
    if not path.name.endswith(SURFACE_ENDINGS):
        return (
            "A vertex has the value of the voxel halfway between its white and pial surface; gray: none. "
            + space_note(sidecar, "on fsaverage5, a few mm from the MNI152 template")
        )
    n_others = n_not_drawn(read_surface_map(path))
    note = f"Vertices in {map_space(sidecar)}, on the inflated surface of fsaverage5; gray: no value."
    return f"{note} {n_others:,} voxels of other structures are not drawn." if n_others else note


def _write_title(figure: Figure, title: str) -> None:
    """Write the title at the top: a long one in smaller letters and two lines, which still fit above the brains."""
    is_long = len(title) > _TITLE_LETTERS
    text = textwrap.fill(plain(title), 96) if is_long else plain(title)
    figure.text(0.01, 0.998 if is_long else 0.985, text, fontsize=8 if is_long else 10, fontweight="bold", va="top")


def _write_note(figure: Figure, note: str) -> None:
    figure.text(0.01, 0.012, textwrap.fill(plain(note), 125), fontsize=7, color=MUTED, va="bottom")


def _draw_slices(
    figure: Figure,
    affine: FloatArray,
    values: FloatArray,
    colors: Colormap,
    ends: tuple[float, float],
    rows: Sequence[tuple[str, float, float]],
) -> None:
    """Draw rows of slices: the axis that is cut, and the bottom and height of the row."""
    # nilearn takes a second to import, and parcels don't need it.
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
    from nilearn.plotting import plot_stat_map

    template, outline = load_mni152_template(resolution=2), load_mni152_brain_mask(resolution=2)
    # nilearn hides zeros, which inside the mask are values like any other.
    drawn = _refined(np.where(np.isnan(values), 0, np.where(values == 0, _ALMOST_ZERO, values)), affine)
    for mode, bottom, height in rows:
        display = plot_stat_map(
            drawn,
            bg_img=template,
            display_mode=mode,
            cut_coords=_slices(affine, values, mode),
            figure=figure,
            axes=(0.01, bottom, 0.98, height),
            colorbar=False,
            annotate=False,
            black_bg=False,
            cmap=colors,
            vmin=ends[0],
            vmax=ends[1],
            symmetric_cbar=False,
            threshold=_ALMOST_ZERO / 2,
            resampling_interpolation="nearest",
        )
        for cut in display.axes.values():
            background = cut.ax.images[0]
            low, high = background.get_clim()
            background.set_clim(low, high + _DARKER_TEMPLATE * (high - low))
        display.add_contours(outline, levels=[0.5], colors=[INK], linewidths=0.6)
        display.annotate(size=7)


def _refined(data: FloatArray, affine: FloatArray) -> nibabel.Nifti1Image:
    """Split each voxel into equal ones of about 2 mm, which changes no value and no position.

    nilearn stretches a picture from the first voxel's center to the last one's. Half a voxel is lost at either end:
    negligible at 2 mm, but with voxels of 25 mm a shift by a gyrus.
    """
    parts = np.maximum(1, np.round(voxel_sizes(affine) / _DRAWN_MM)).astype(int)
    for axis, n_parts in enumerate(parts):
        data = np.repeat(data, n_parts, axis=axis)
    finer = np.diag([*(1 / parts), 1.0])
    finer[:3, 3] = (1 / parts - 1) / 2
    return nibabel.Nifti1Image(data.astype(np.float32), affine @ finer)


def _slices(affine: FloatArray, values: FloatArray, mode: str) -> list[float]:
    """Coordinates of the slices: centers of voxel layers, evenly from the first to the last that has a value."""
    coordinates = apply_affine(affine, np.argwhere(np.isfinite(values)))[:, "xyz".index(mode)].round(3)
    layers = np.unique(coordinates)
    # The outermost layers have a few voxels each.
    first, last = np.percentile(coordinates, (3, 97), method="nearest")
    layers = layers[(layers >= first) & (layers <= last)]
    positions = np.linspace(0, len(layers) - 1, min(_N_SLICES, len(layers))).round().astype(int)
    return [float(layer) for layer in layers[positions]]


def _color_bar(
    figure: Figure, colors: ScalarMappable, scale: ColorScale, values: FloatArray, label: str, *, bottom: float
) -> None:
    is_clipped = values.max() > scale.high or values.min() < scale.low
    axes = figure.add_axes((0.25, bottom, 0.5, 0.028))
    bar = figure.colorbar(colors, cax=axes, orientation="horizontal", extend="both" if is_clipped else "neither")
    bar.outline.set_visible(False)
    axes.tick_params(length=2, labelsize=8)
    if scale.is_log:
        set_log_ticks(axes.xaxis, values)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=scale.low < 0))
    bar.set_label(label, fontsize=8.5, color=INK, labelpad=2)
