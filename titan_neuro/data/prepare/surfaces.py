"""Time series on surfaces: CIFTI files, and GIFTI files of both hemispheres."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from titan_neuro.data.bids.names import parse_name
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.grayordinates import Grayordinates, Structure, from_axis, split_points, whole_surfaces
from titan_neuro.data.prepare.atlas_table import parcel_layout
from titan_neuro.data.prepare.images import check_finite, reading
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.errors import ImageError, MetadataError
from titan_neuro.files import inside

if TYPE_CHECKING:
    from nibabel.cifti2 import Axis, ParcelsAxis

# Values of a CIFTI file that are searched at a time.
SEARCHED_VALUES = 2**22
# GIFTI can name a file that holds its values.
_EXTERNAL_FILE = re.compile(rb"""ExternalFileName\s*=\s*["']([^"']+)["']""")
_SECONDARY = {"L": "CortexLeft", "R": "CortexRight"}


class SurfaceSeries:
    """The vertices (and voxels) of a recording on surfaces, without the medial wall.

    The medial wall is not among the features of a CIFTI file. In GIFTI files its vertices are 0 or NaN throughout;
    whatever is that in any of the files is left out.

    Parameters
    ----------
    recording : Recording
        Of kind ``surface``.

    Attributes
    ----------
    header_repetition_time : float or None
        Seconds; None for GIFTI.
    points : Grayordinates
        The features.
    n_left_out : int
        Vertices and voxels that are 0 or NaN throughout.

    Raises
    ------
    ImageError
        A file can't be read, has another kind of content or fewer than two time points, or the hemispheres have not the
        same number of time points; nothing is left.
    """

    def __init__(self, recording: Recording) -> None:
        self._path = recording.path
        self.header_repetition_time: float | None = None
        self._values: Any
        if recording.hemispheres:
            points, self._values = _read_hemispheres(recording.hemispheres)
            default_name = "fsaverage"
        else:
            series, axis, self._values = _open_cifti(recording.path, "BrainModelAxis")
            points, self.header_repetition_time = from_axis(axis), _step_s(series, recording.path)
            default_name = "fsLR"
        _require_two(self._values.shape[0], recording.path)
        with reading(recording.path):
            used = ~_is_empty(self._values)
        self.n_left_out = int((~used).sum())
        if not used.any():
            raise ImageError(f"{recording.path}: every vertex is 0 or NaN throughout.", "Fetch the file again.")
        self._columns = None if used.all() else np.flatnonzero(used)
        name = recording.entities.get("space", default_name)
        self.points = points.select(used)
        self.space = Space(kind="surface", name=name, grayordinates=self.points)
        self.n_time_points, self.n_values_read = (int(size) for size in self._values.shape)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: ``(time, features)``."""
        with reading(self._path, f"time points {start} to {stop - 1}"):
            series = np.asarray(self._values[start:stop])
        series = series if self._columns is None else series[:, self._columns]
        check_finite(series, start, self._path, self._describe)
        return series

    def _describe(self, feature: int) -> str:
        points = self.points
        voxel, vertex = split_points(points, np.array([feature]))
        structure = points.structures[points.points[feature, 0]].name
        return f"{structure}, " + (f"vertex {vertex[0]}" if vertex[0] >= 0 else f"voxel {tuple(voxel[0].tolist())}")


def read_parcel_series(path: Path) -> tuple[np.ndarray, ParcelLayout, float | None]:
    """Read parcel time series from CIFTI (``*.ptseries.nii``).

    Parameters
    ----------
    path : Path

    Returns
    -------
    series : numpy.ndarray
        ``(time, parcels)``.
    layout : ParcelLayout
        Their names, and where they lie.
    repetition_time : float or None
        Seconds, from the header.

    Raises
    ------
    ImageError
        The file can't be read, has another kind of content, two parcels of one name or with one vertex in common.
    """
    series, axis, values = _open_cifti(path, "ParcelsAxis")
    with reading(path):
        loaded = np.asarray(values[:])
    return loaded, _layout(axis, path), _step_s(series, path)


def _open_cifti(path: Path, expected: str) -> tuple[Axis, Axis, Any]:
    """Return the axes of time and of features, and the values ``(time, features)``, which are not read yet."""
    import nibabel as nib

    with reading(path):
        image = nib.load(path)
        if not isinstance(image, nib.Cifti2Image):
            raise ImageError(f"{path}: expected a CIFTI-2 file, found {type(image).__name__}.", "Fetch the file again.")
        axes = [image.header.get_axis(number) for number in range(image.ndim)]
    kinds = [type(axis).__name__ for axis in axes]
    if kinds != ["SeriesAxis", expected]:
        raise ImageError(
            f"{path}: expected time points of {'parcels' if expected == 'ParcelsAxis' else 'grayordinates'} (axes "
            f"SeriesAxis, {expected}), found the axes {', '.join(kinds)}.",
            "Dense series are named *.dtseries.nii, those of parcels *.ptseries.nii.",
        )
    return axes[0], axes[1], image.dataobj


def _step_s(axis: Any, path: Path) -> float | None:
    if axis.unit != "SECOND":
        raise MetadataError(
            f"{path}: expected a series in time, with a step in seconds, found a step of {axis.step} {axis.unit}.",
            "Correct the file's header (wb_command -cifti-change-mapping).",
        )
    return float(f"{axis.step:.6g}") or None


def _require_two(n_time_points: int, path: Path) -> None:
    if n_time_points < 2:
        raise ImageError(
            f"{path}: expected at least 2 time points, found {n_time_points}.",
            "If the scan was aborted, exclude it with --bids-filter-file.",
        )


def _is_empty(values: Any) -> np.ndarray:
    """Whether a feature is 0 or NaN throughout: bool ``(features,)``."""
    empty = _no_value(np.asarray(values[:1]))[0]
    step = max(1, SEARCHED_VALUES // values.shape[1])
    for start in range(0, values.shape[0], step):
        if not empty.any():
            break
        empty &= _no_value(np.asarray(values[start : start + step])).all(axis=0)
    return np.asarray(empty)


def _no_value(values: np.ndarray) -> np.ndarray:
    return np.asarray((values == 0) | np.isnan(values))


def _read_hemispheres(paths: Mapping[str, Path]) -> tuple[Grayordinates, np.ndarray]:
    """Return the vertices of all hemispheres, left before right, and their values ``(time, vertices)``."""
    hemispheres = sorted(paths)
    series = [_read_gifti(paths[hemisphere], hemisphere) for hemisphere in hemispheres]
    if len({len(values) for values in series}) > 1:
        found = " and ".join(f"{len(values)} in {paths[side].name}" for side, values in zip("LR", series, strict=True))
        raise ImageError(
            f"{paths['L']}: expected as many time points in both hemispheres, found {found}.", "Fetch both again."
        )
    sizes = {hemisphere: values.shape[1] for hemisphere, values in zip(hemispheres, series, strict=True)}
    return whole_surfaces(sizes), np.concatenate(series, axis=1)


def _read_gifti(path: Path, hemisphere: str) -> np.ndarray:
    """Read the time series of one hemisphere: float32 ``(time, vertices)``."""
    image = load_gifti(path, hemisphere)
    arrays = [np.asarray(array.data, dtype=np.float32) for array in image.darrays]
    if len(arrays) == 1 and arrays[0].ndim == 2:
        return np.ascontiguousarray(arrays[0].T)
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 1:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise ImageError(
            f"{path}: expected one array of values for each time point, all of the same length, found arrays of the "
            f"shapes {found}.",
            "A time series is named *_bold.func.gii; a mesh (*.surf.gii) is none.",
        )
    return np.stack(arrays)


def load_gifti(path: Path, hemisphere: str) -> Any:
    """Load a GIFTI file, and check that it is of a hemisphere, where it says so.

    Parameters
    ----------
    path : Path
    hemisphere : {"L", "R"}
        According to its name.

    Raises
    ------
    ImageError
        It can't be read, is no GIFTI file, or of the other hemisphere; its values lie in a file of another folder.
    """
    import nibabel as nib

    with reading(path):
        external = _EXTERNAL_FILE.findall(path.read_bytes())
    for name in external:
        hint = "It names the file that holds its values: fetch it again, with its values in it."
        inside(path.parent, name.decode(errors="replace"), hint=hint, error=ImageError)
    with reading(path):
        image = nib.load(path)
    if not isinstance(image, nib.GiftiImage):
        raise ImageError(f"{path}: expected a GIFTI file, found {type(image).__name__}.", "Fetch the file again.")
    metas = [image.meta, *(array.meta for array in image.darrays)]
    named = {meta["AnatomicalStructurePrimary"] for meta in metas if "AnatomicalStructurePrimary" in meta}
    if _SECONDARY["R" if hemisphere == "L" else "L"] in named:
        raise ImageError(
            f"{path}: its name says hemi-{hemisphere}, its content {', '.join(sorted(named))}.", "Rename the file."
        )
    return image


def _layout(axis: ParcelsAxis, path: Path) -> ParcelLayout:
    """Return where the parcels of CIFTI's axis lie."""
    # XML may hold names with ends of lines, which no table can.
    names = [" ".join(str(name).split()) for name in axis.name]
    if len(set(names)) < len(names):
        raise ImageError(f"{path}: expected each name of a parcel once, found {_first_double(names)} twice.")
    surfaces = {str(name): int(size) for name, size in axis.nvertices.items()}
    structures = [Structure(name=name, n_vertices=size) for name, size in surfaces.items()]
    points, labels = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for parcel, (voxels, vertices) in enumerate(zip(axis.voxels, axis.vertices, strict=True)):
        parts = [(list(surfaces).index(str(name)), np.asarray(indices)) for name, indices in vertices.items()]
        if len(voxels):
            parts.append((len(structures), np.ravel_multi_index(tuple(np.asarray(voxels).T), axis.volume_shape)))
        for number, positions in parts:
            points.append(np.column_stack([np.full(len(positions), number), positions]))
            labels.append(np.full(len(positions), parcel))
    has_voxels = any(len(voxels) for voxels in axis.voxels)
    grayordinates = Grayordinates(
        form="cifti",
        # The axis does not name the structure of a voxel.
        structures=(*structures, *([Structure(name="CIFTI_STRUCTURE_OTHER")] if has_voxels else [])),
        points=np.concatenate(points).astype(np.int64),
        shape=tuple(map(int, axis.volume_shape)) if has_voxels else None,
        affine=np.asarray(axis.affine, dtype=np.float64) if has_voxels else None,
    )
    # In the order of structures and positions, as a file of features would be.
    order = np.argsort(grayordinates.codes, kind="stable")
    if (np.diff(grayordinates.codes[order]) == 0).any():
        raise ImageError(f"{path}: expected each vertex and voxel in one parcel, found one in two.")
    name = parse_name(path).entities.get("space", "fsLR")
    space = Space(kind="surface", name=name, grayordinates=grayordinates.select(order))
    return parcel_layout(space, np.concatenate(labels)[order], names, {})


def _first_double(names: list[str]) -> str:
    return next(name for number, name in enumerate(names) if name in names[:number])
