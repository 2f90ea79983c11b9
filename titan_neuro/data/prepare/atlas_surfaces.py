"""Atlases on surfaces: CIFTI (``*.dlabel.nii``), or a file of each hemisphere (``*.label.gii``, FreeSurfer's annot)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.grayordinates import Grayordinates, from_axis, whole_surfaces
from titan_neuro.data.prepare.images import reading
from titan_neuro.data.prepare.surfaces import load_gifti
from titan_neuro.errors import ImageError, InputNotFoundError

_ENDINGS = (".dlabel.nii", ".gii", ".annot")
# hemi-L in the names of BIDS, lh. in those of FreeSurfer, .L. in those of the Human Connectome Project.
_SIDE = re.compile(r"(?<=hemi-)[LR](?=[_.])|^[lr](?=h\.)|(?<=\.)[LR](?=\.)")
_OTHER = {"L": "R", "R": "L", "l": "r", "r": "l"}
# Names of what is no parcel.
_BACKGROUND = re.compile(
    r"^(\?\?\?|unknown|none|background.*|.*medial[ _-]?wall.*|corpus[ _-]?callosum|)$", re.IGNORECASE
)


def is_surface_atlas(path: Path) -> bool:
    """Whether a file is an atlas on surfaces, by its name."""
    return path.name.endswith(_ENDINGS)


def atlas_files(path: Path) -> dict[str, Path]:
    """Return the files of an atlas, by their roles: the one that was named, and that of the other hemisphere, if any.

    Raises
    ------
    ImageError
        The name of a GIFTI or annot file does not say which hemisphere it is of.
    """
    if not is_surface_atlas(path) or path.name.endswith(".dlabel.nii"):
        return {"atlas": path}
    start, stop = _side(path).span()
    other = path.with_name(f"{path.name[:start]}{_OTHER[path.name[start:stop]]}{path.name[stop:]}")
    return {"atlas": path, "atlas of the other hemisphere": other}


def require_atlas(path: Path) -> None:
    """Refuse an atlas of which a file does not exist.

    Raises
    ------
    InputNotFoundError
        A file does not exist.
    ImageError
        The name of a GIFTI or annot file does not say which hemisphere it is of.
    """
    for file in atlas_files(path).values():
        if not file.exists():
            raise InputNotFoundError(f"{file}: no such file (given with --atlas).", "Check the path.")


def _side(path: Path) -> re.Match[str]:
    match = _SIDE.search(path.name)
    if match is None:
        raise ImageError(
            f"{path}: expected a hemisphere in the name (hemi-L, lh. or .L.), so that the other one's file can be "
            "found; found none.",
            "Rename the files of both hemispheres, or give the atlas as *.dlabel.nii.",
        )
    return match


def without_side(path: Path) -> str:
    """Return the name of a file of one hemisphere without the hemisphere: ``aparc.annot`` for ``lh.aparc.annot``."""
    return re.sub(r"(?<=_)hemi-[LR]_|^hemi-[LR]_|^[lr]h\.|\.[LR](?=\.)", "", path.name)


def read_surface_labels(path: Path) -> tuple[Grayordinates, np.ndarray, dict[int, str]]:
    """Read an atlas on surfaces.

    Parameters
    ----------
    path : Path
        Of hemispheres, the file of either.

    Returns
    -------
    points : Grayordinates
        All points of the files.
    labels : numpy.ndarray
        int64 ``(points,)``; 0 outside all parcels.
    names : dict of int to str
        Name of each label, in ascending order. Where both hemispheres use the same numbers, they are numbered anew,
        left before right; where they use the same names, ``LH_`` and ``RH_`` are put before these.

    Raises
    ------
    InputNotFoundError
        A file does not exist.
    ImageError
        A file can't be read, or holds no labels, or those of several maps.
    """
    require_atlas(path)
    files = list(atlas_files(path).values())
    points, labels, names = _read_cifti(path) if len(files) == 1 else _read_hemispheres(files)
    if not names:
        raise ImageError(f"{path}: expected labels of parcels, found none.")
    return points, labels, names


def match_points(points: Grayordinates, others: Grayordinates, path: Path) -> np.ndarray:
    """Return the index among `others` of each of `points`, -1 where it is not among them: int64 ``(points,)``.

    Parameters
    ----------
    points : Grayordinates
        Of a run.
    others : Grayordinates
        Of an atlas.
    path : Path
        Of the atlas, for the message.

    Raises
    ------
    ImageError
        A structure has another number of vertices, or the voxels lie on another grid.
    """
    sizes = {structure.name: structure.n_vertices for structure in points.structures}
    for structure in others.structures:
        if structure.n_vertices and sizes.get(structure.name) not in (None, structure.n_vertices):
            raise ImageError(
                f"{path}: expected {sizes[structure.name]} vertices of {structure.name}, as the run has, found "
                f"{structure.n_vertices}.",
                "Give the atlas in the space and density of the run.",
            )
    if points.affine is not None and others.affine is not None:
        is_same_grid = points.shape == others.shape and np.allclose(points.affine, others.affine, 0, 1e-3)
        if not is_same_grid:
            raise ImageError(f"{path}: its voxels lie on another grid: expected {points.shape}, found {others.shape}.")
    numbers = {structure.name: number for number, structure in enumerate(points.structures)}
    known = np.array([numbers.get(structure.name, -1) for structure in others.structures])[others.points[:, 0]]
    rows = np.flatnonzero(known >= 0)
    renumbered = Grayordinates(
        form=others.form,
        structures=points.structures,
        points=np.column_stack([known[rows], others.points[rows, 1]]),
    ).codes
    order = np.argsort(renumbered)
    found = np.searchsorted(renumbered, points.codes, sorter=order)
    candidates = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros(len(points), np.int64)
    is_there = renumbered[candidates] == points.codes if len(order) else np.zeros(len(points), bool)
    return np.where(is_there, rows[candidates] if len(rows) else -1, -1)


def _read_cifti(path: Path) -> tuple[Grayordinates, np.ndarray, dict[int, str]]:
    import nibabel as nib

    with reading(path):
        image = nib.load(path)
        if not isinstance(image, nib.Cifti2Image):
            raise ImageError(f"{path}: expected a CIFTI-2 file, found {type(image).__name__}.", "Fetch the file again.")
        axes: list[Any] = [image.header.get_axis(number) for number in range(image.ndim)]
        data = np.asarray(image.dataobj)
    kinds = [type(axis).__name__ for axis in axes]
    if kinds != ["LabelAxis", "BrainModelAxis"] or len(data) != 1:
        raise ImageError(
            f"{path}: expected one map of labels of grayordinates (axes LabelAxis, BrainModelAxis), found {len(data)} "
            f"rows and the axes {', '.join(kinds)}.",
            "Write the one map to use into a file (wb_command -cifti-merge ... -column).",
        )
    table = {int(key): str(name) for key, (name, _) in axes[0].label[0].items()}
    labels, names = _parcels(data[0], table, path)
    return from_axis(axes[1]), labels, names


def _read_hemispheres(files: Sequence[Path]) -> tuple[Grayordinates, np.ndarray, dict[int, str]]:
    by_side = {_side(file)[0].upper(): file for file in files}
    left, left_names = _read_side(by_side["L"], "L")
    right, right_names = _read_side(by_side["R"], "R")
    points = whole_surfaces({"L": len(left), "R": len(right)})
    if set(left_names.values()) & set(right_names.values()):
        left_names = {label: f"LH_{name}" for label, name in left_names.items()}
        right_names = {label: f"RH_{name}" for label, name in right_names.items()}
    if left_names.keys() & right_names.keys():
        left, left_names = _renumber(left, left_names, 1)
        right, right_names = _renumber(right, right_names, 1 + len(left_names))
    return points, np.concatenate([left, right]), left_names | right_names


def _renumber(labels: np.ndarray, names: Mapping[int, str], first: int) -> tuple[np.ndarray, dict[int, str]]:
    keys = np.array([0, *names])
    numbers = np.array([0, *range(first, first + len(names))])
    return numbers[np.searchsorted(keys, labels)], dict(zip(numbers[1:].tolist(), names.values(), strict=True))


def _read_side(path: Path, side: str) -> tuple[np.ndarray, dict[int, str]]:
    """Return labels ``(vertices,)`` and their names."""
    if path.name.endswith(".annot"):
        from nibabel.freesurfer import read_annot

        with reading(path):
            numbers, _, listed = read_annot(path)
        # Labels are positions in the list of names; 0 is kept for vertices outside all parcels.
        table = {number: name.decode("utf-8", "replace") for number, name in enumerate(listed, start=1)}
        return _parcels(numbers + 1, table, path)
    image = load_gifti(path, side)
    if len(image.darrays) != 1 or image.darrays[0].data.ndim != 1:
        raise ImageError(
            f"{path}: expected one array of labels, found {len(image.darrays)}.",
            "Give the file of labels of one atlas (*.label.gii).",
        )
    table = {int(key): str(name) for key, name in image.labeltable.get_labels_as_dict().items()}
    return _parcels(image.darrays[0].data, table, path)


def _parcels(data: np.ndarray, table: Mapping[int, str], path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Return labels with 0 outside all parcels, and the names of those that are there."""
    labels = np.rint(np.nan_to_num(np.asarray(data, dtype=np.float64))).astype(np.int64)
    # XML may hold names with ends of lines, which no table can.
    table = {label: " ".join(name.split()) for label, name in table.items()}
    is_background = {key for key, name in table.items() if _BACKGROUND.match(name.strip())} | {0} - table.keys()
    labels[np.isin(labels, [*is_background]) | (labels < 0)] = 0
    present = [int(label) for label in np.unique(labels) if label not in is_background]
    unnamed = [label for label in present if label not in table]
    if unnamed and table.keys() - is_background:
        raise ImageError(f"{path}: expected a name for every label, found none for {unnamed[0]}.", "Correct the file.")
    if 0 in present:
        # A parcel of that number: all are numbered one higher.
        labels = np.where(np.isin(labels, present), labels + 1, 0)
        return labels, {label + 1: table.get(label, str(label)) for label in present}
    return labels, {label: table.get(label, str(label)) for label in present}
