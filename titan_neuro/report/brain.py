"""Maps as pictures: volumes laid over the MNI152 template that nilearn ships, parcels as values in order."""

from __future__ import annotations

import re
import textwrap
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import nibabel
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from titan_neuro.errors import ImageError, MetadataError
from titan_neuro.report.figures import INK, MUTED, STYLE, plain
from titan_neuro.report.parcels import parcel_figure, set_log_ticks
from titan_neuro.report.results import read_parcels

_LABELS = {
    "skillar": "skill_ar: 1 - MSE / MSE of linear AR (no unit)",
    "r2": "r2: 1 - SSE / SSE about the training mean (no unit)",
    "timescale": "timescale, s",
}
_N_CUTS = 6
_DRAWN_MM = 2.0
_ALMOST_NOUGHT = 1e-9


def plot_map(path: Path, sidecar: Mapping[str, Any], title: str, *, limit: float | None = None) -> Figure:
    """Picture of one map: cuts through the brain for a volume, sorted values for parcels.

    Skills and r2 are drawn on a scale that is symmetric about zero, timescales on a logarithmic one. Voxels are drawn
    as they are, without smoothing or interpolation.

    Parameters
    ----------
    path : Path
        A ``_statmap.nii.gz`` or ``_statmap.tsv`` with the entity ``stat-`` in its name.
    sidecar : mapping
        The JSON beside it; ``Space`` decides what is written below the picture.
    title : str
        Heading of the picture.
    limit : float, optional
        End of the symmetric color scale (parcels: the axis reaches at least as far), so that two maps can share one;
        from the map itself where it is not given. A timescale has its own.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing has to be closed.

    Raises
    ------
    ImageError
        The image can't be read, is not 3D, holds no value, or a timescale that is not above 0.
    MetadataError
        The name lacks ``stat-``, or a table of parcels is malformed.
    """
    stat = re.search(r"_stat-([A-Za-z0-9]+)_", path.name)
    if stat is None:
        raise MetadataError(f"{path}: the name has no entity stat-.", "Maps are named ..._stat-<what>_..._statmap.")
    values = map_values(path)
    if values.size == 0:
        raise ImageError(f"{path}: holds no value to draw.")
    if stat[1] == "timescale" and values.min() <= 0:
        raise ImageError(f"{path}: timescales above 0 s were expected, found {values.min():g} s.", "Make the map anew.")
    norm, colors = _scale(values, stat[1], limit)
    label = _LABELS.get(stat[1], stat[1])
    with matplotlib.rc_context(STYLE):
        if path.name.endswith(".tsv"):
            return parcel_figure(read_parcels(path), label, title, limit=limit, log=isinstance(norm, LogNorm))
        return _volume_figure(path, ScalarMappable(norm, colors), label, (title, space_note(sidecar)))


def map_values(path: Path) -> np.ndarray:
    """Values of a map: of a table what is finite, of an image what lies inside the mask.

    Outside the mask our images are NaN. One without any NaN has zero there.

    Parameters
    ----------
    path : Path
        A ``_statmap.nii.gz`` or ``_statmap.tsv``.

    Returns
    -------
    numpy.ndarray
        float64, ``(n_values,)``.

    Raises
    ------
    ImageError
        The image can't be read or is not 3D.
    MetadataError
        The table of parcels is malformed.
    """
    if path.name.endswith(".tsv"):
        values = read_parcels(path)["value"].to_numpy(np.float64)
        return values[np.isfinite(values)]
    data = _load(path).get_fdata()
    return data[_inside(data)]


def symmetric_limit(values: np.ndarray) -> float:
    """End of a scale that is symmetric about zero: the 99th percentile of the absolute values, in two digits.

    It is 0.001 at least: less is no difference that anybody should see.
    """
    return float(f"{max(np.percentile(np.abs(values), 99), 1e-3):.2g}")


def voxel_size_mm(path: Path) -> float:
    """Longest edge of a voxel of an image, in mm.

    Parameters
    ----------
    path : Path
        A ``_statmap.nii.gz``.

    Returns
    -------
    float

    Raises
    ------
    ImageError
        The image can't be read or is not 3D.
    """
    return float(max(_load(path).header.get_zooms()))


def space_note(sidecar: Mapping[str, Any]) -> str:
    """What is true of the place of a voxel on the template, in one sentence.

    Parameters
    ----------
    sidecar : mapping
        The JSON beside the map.

    Returns
    -------
    str
        A sentence for a caption.
    """
    space = str(sidecar.get("Space", "")) or "unknown"
    if space.startswith("MNI"):
        return f"Images in {space}, over the MNI152 template."
    if space == "native":
        return (
            "Native space: the images were not registered. They are laid over the MNI152 template by their own "
            "header coordinates, so the outlines are a rough guide at best."
        )
    return f"Space {space}, not the template's: laid over the MNI152 template by the images' own header coordinates."


def _load(path: Path) -> nibabel.Nifti1Image:
    try:
        image = nibabel.load(path)
        image.get_fdata()
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageError(f"{path}: can't be read as an image: {error}.", "Make the map anew.") from error
    if image.ndim != 3:
        raise ImageError(f"{path}: a map of 3 dimensions was expected, found the shape {image.shape}.")
    return image


def _inside(data: np.ndarray) -> np.ndarray:
    finite = np.isfinite(data)
    return data != 0 if finite.all() else finite


def _scale(values: np.ndarray, stat: str, limit: float | None) -> tuple[Normalize, str]:
    if stat == "timescale":
        low, high = float(values.min()), float(values.max())
        return LogNorm(low, max(high, low * 1.01)), "viridis"
    end = symmetric_limit(values) if limit is None else limit
    return Normalize(-end, end), "RdBu_r"


def _volume_figure(path: Path, colors: ScalarMappable, label: str, words: tuple[str, str]) -> Figure:
    image = _load(path)
    data = image.get_fdata()
    shown = np.where(_inside(data), data, np.nan)
    figure = Figure(figsize=(7.6, 4.1), layout="none")
    if isinstance(colors.norm, LogNorm):
        # nilearn colors linearly: the logarithm is drawn, shifted so that no voxel falls on zero, which it hides.
        ends = (1.0, float(np.log(colors.norm.vmax / colors.norm.vmin)) + 1)
        _draw_cuts(figure, image, np.log(shown / colors.norm.vmin) + 1, colors.cmap, ends)
    else:
        _draw_cuts(figure, image, shown, colors.cmap, (colors.norm.vmin, colors.norm.vmax))
    figure.text(0.01, 0.985, plain(words[0]), fontsize=10, fontweight="bold", va="top")
    _color_bar(figure, colors, shown[np.isfinite(shown)], label)
    figure.text(0.01, 0.012, textwrap.fill(plain(words[1]), 125), fontsize=7, color=MUTED, va="bottom")
    return figure


def _draw_cuts(
    figure: Figure, image: nibabel.Nifti1Image, shown: np.ndarray, colors: Colormap, ends: tuple[float, float]
) -> None:
    # nilearn takes a second to import, and parcels never need it.
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
    from nilearn.plotting import plot_stat_map

    template, outline = load_mni152_template(resolution=2), load_mni152_brain_mask(resolution=2)
    # nilearn hides what is zero: inside the mask it is a value like any other.
    drawn = _refined(np.where(np.isnan(shown), 0, np.where(shown == 0, _ALMOST_NOUGHT, shown)), image.affine)
    for mode, bottom, height in (("z", 0.55, 0.375), ("x", 0.235, 0.3)):
        display = plot_stat_map(
            drawn,
            bg_img=template,
            display_mode=mode,
            cut_coords=_cuts(image, shown, mode),
            figure=figure,
            axes=(0.01, bottom, 0.98, height),
            colorbar=False,
            annotate=False,
            black_bg=False,
            cmap=colors,
            vmin=ends[0],
            vmax=ends[1],
            symmetric_cbar=False,
            threshold=_ALMOST_NOUGHT / 2,
            resampling_interpolation="nearest",
        )
        display.add_contours(outline, levels=[0.5], colors=[INK], linewidths=0.6)
        display.annotate(size=7)


def _refined(data: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """Split each voxel into equal ones of about 2 mm, which changes no value and no place.

    nilearn stretches a picture from the first voxel's center to the last one's: half a voxel is lost at either end,
    which is nothing at 2 mm and would move a voxel of 25 mm by a gyrus.
    """
    parts = np.maximum(1, np.round(nibabel.affines.voxel_sizes(affine) / _DRAWN_MM)).astype(int)
    for axis, n_parts in enumerate(parts):
        data = np.repeat(data, n_parts, axis=axis)
    finer = np.diag([*(1 / parts), 1.0])
    finer[:3, 3] = (1 / parts - 1) / 2
    return nibabel.Nifti1Image(data.astype(np.float32), affine @ finer)


def _cuts(image: nibabel.Nifti1Image, shown: np.ndarray, mode: str) -> list[float]:
    """Where to cut: through the middle of layers of voxels, evenly from the first to the last that holds a value."""
    places = nibabel.affines.apply_affine(image.affine, np.argwhere(np.isfinite(shown)))[:, "xyz".index(mode)].round(3)
    layers = np.unique(places)
    # The outermost layers hold a few voxels each.
    first, last = np.percentile(places, (3, 97), method="nearest")
    layers = layers[(layers >= first) & (layers <= last)]
    chosen = np.linspace(0, len(layers) - 1, min(_N_CUTS, len(layers))).round().astype(int)
    return [float(layer) for layer in layers[chosen]]


def _color_bar(figure: Figure, colors: ScalarMappable, values: np.ndarray, label: str) -> None:
    clipped = values.max() > colors.norm.vmax or values.min() < colors.norm.vmin
    axes = figure.add_axes((0.25, 0.185, 0.5, 0.028))
    bar = figure.colorbar(colors, cax=axes, orientation="horizontal", extend="both" if clipped else "neither")
    bar.outline.set_visible(False)
    axes.tick_params(length=2, labelsize=8)
    if isinstance(colors.norm, LogNorm):
        set_log_ticks(axes.xaxis, values)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    bar.set_label(label, fontsize=8.5, color=INK, labelpad=2)
