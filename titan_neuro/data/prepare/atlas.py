"""An atlas on the grid or the surfaces of a run: the parcel of each feature; or of a table: where its parcels lie."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from titan_neuro.data.bids.names import ROUGH_SPACE, parse_name
from titan_neuro.data.grayordinates import Grayordinates
from titan_neuro.data.parcels import without_prefix
from titan_neuro.data.prepare.atlas_surfaces import (
    is_surface_atlas,
    match_points,
    read_surface_labels,
    require_atlas,
    without_side,
)
from titan_neuro.data.prepare.atlas_table import ParcelRow, image_stem, names_table, parcel_layout, read_rows
from titan_neuro.data.prepare.grid import grid_points
from titan_neuro.data.prepare.images import read_volume
from titan_neuro.data.prepare.transforms import apply_affine
from titan_neuro.data.space import ParcelLayout, Space, same_affine
from titan_neuro.errors import ImageError, MetadataError, list_names

# Labels that are stored as integers with a scale factor in single precision: 1.0000001, 30000.002.
_LABEL_RTOL, _LABEL_ATOL = 1e-6, 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Atlas:
    """Parcels of a space.

    Attributes
    ----------
    name : str
        `atlas_name` of the file.
    labels : numpy.ndarray
        int ``(features,)``: the label of each voxel or vertex of the space; 0 for those outside all parcels.
    names : mapping of int to str
        Name of each label that has a voxel in the space, in ascending order.
    lost : tuple of str
        Names of the labels without one: the field of view, or the mask, doesn't cover these parcels.
    layout : ParcelLayout
        Where the parcels lie, on the atlas's own grid or surfaces.
    """

    name: str
    labels: np.ndarray
    names: Mapping[int, str]
    lost: tuple[str, ...]
    layout: ParcelLayout


def read_atlas(path: Path, space: Space) -> Atlas:
    """Read the labels of an atlas for the features of a run.

    An image is read by nearest neighbor where it lies on another grid of the same standard space, labels on surfaces by
    vertex. The names of an image's parcels come from a table beside it (``*_dseg.tsv`` with the columns ``index`` and
    ``name``), by the inheritance principle of BIDS: of the tables all of whose entities the image has too, the one with
    most entities. Without a table, labels are named by their numbers. Labels on surfaces are named in their file.

    Parameters
    ----------
    path : Path
        3D image of whole numbers, up to the rounding of a scale factor; for a run on surfaces ``*.dlabel.nii``, or the
        ``*.label.gii`` or ``*.annot`` of one hemisphere, beside that of the other one.
    space : Space
        Of kind ``volume`` or ``surface``.

    Returns
    -------
    Atlas

    Raises
    ------
    InputNotFoundError
        A file does not exist.
    ImageError
        The file is no atlas, or in another space than the run; no parcel has a voxel or vertex in the run.
    MetadataError
        The table of names is not valid.
    """
    if space.grayordinates is not None:
        labels, names, layout = _on_surfaces(path, space.name, space.grayordinates)
    elif space.mask is not None and space.affine is not None:
        labels, names, layout = _on_grid(path, space, space.mask, space.affine)
    else:
        raise ImageError(f"{path}: an atlas needs volumes or surfaces, found parcels.", "Omit --atlas.")
    present = set(np.unique(labels))
    kept = {label: name for label, name in names.items() if label in present}
    if not kept:
        what = "vertex in the run" if space.grayordinates is not None else "voxel in the run's mask"
        raise ImageError(
            f"{path}: none of its {len(names)} parcels has a {what}.",
            "Check that the atlas and the run are in the same space.",
        )
    lost = tuple(name for label, name in names.items() if label not in present)
    return Atlas(name=atlas_name(path), labels=labels, names=kept, lost=lost, layout=layout)


def check_atlas(path: Path) -> None:
    """Refuse a file that is no atlas, before any run is read.

    Parameters
    ----------
    path : Path
        As for :func:`read_atlas`, in any space.

    Raises
    ------
    InputNotFoundError, ImageError, MetadataError
        As for :func:`read_atlas`.
    """
    if is_surface_atlas(path):
        read_surface_labels(path)
    else:
        labels, _ = _read_labels(path)
        _rows(path, np.unique(labels[labels > 0]))


def require_kind(path: Path, kind: Literal["volume", "surface"], space_name: str) -> None:
    """Refuse an atlas on surfaces for volumes, and one of voxels for surfaces.

    Parameters
    ----------
    path : Path
        As for :func:`read_atlas`.
    kind : {"volume", "surface"}
        Of the run.
    space_name : str
        Of the run, for the message.

    Raises
    ------
    ImageError
        The atlas is of the other kind.
    """
    if is_surface_atlas(path) == (kind == "surface"):
        return
    if kind == "volume":
        raise ImageError(
            f"{path}: expected an image of voxels (*.nii.gz), as the run in {space_name} has, found an atlas on "
            "surfaces.",
            "Give an atlas in the space of the run, or choose the run's surfaces (docs/preparing.md).",
        )
    raise ImageError(
        f"{path}: expected an atlas on surfaces (*.dlabel.nii, or *.label.gii or *.annot of each hemisphere), as "
        f"the run in {space_name} has, found an image of voxels.",
        "Give an atlas in the space of the run.",
    )


def match_table(path: Path, columns: Sequence[str]) -> tuple[tuple[str, ...], ParcelLayout]:
    """Find the parcels of a table in an atlas.

    Columns and parcels match by their names, with or without the number of networks (``7Networks_``); else by their
    numbers, where every column is called by one word and the number of a parcel (``Schaefer200_001``).

    Parameters
    ----------
    path : Path
        As for :func:`read_atlas`, in any space.
    columns : sequence of str
        Of the table.

    Returns
    -------
    names : tuple of str
        The atlas's name for each column.
    layout : ParcelLayout

    Raises
    ------
    InputNotFoundError, ImageError, MetadataError
        As for :func:`read_atlas`; the parcels of the table are not those of the atlas.
    """
    if is_surface_atlas(path):
        points, labels, names = read_surface_labels(path)
        layout = _surface_layout(path, points, labels, names)
    else:
        data, affine = _read_labels(path)
        names, layout = _volume_layout(path, data, affine, "unknown")
    ways = (
        {name: name for name in names.values()},
        {without_prefix(name): name for name in names.values()},
        {str(label): name for label, name in names.items()},
    )
    written = (columns, [without_prefix(column) for column in columns], _numbers(columns))
    for known, asked in zip(ways, written, strict=True):
        if len(known) == len(names) and set(asked) == known.keys() and len(set(asked)) == len(columns):
            return tuple(known[name] for name in asked), layout
    unknown = [column for column in columns if column not in ways[0]]
    lacking = [name for name in names.values() if name not in columns]
    raise MetadataError(
        f"{path}: its parcels are not those of the table: the {len(columns)} columns that it lacks or has: "
        f"{list_names(unknown) or 'none lacking'}; of its {len(names)} parcels the table lacks: "
        f"{list_names(lacking) or 'none'}.",
        "Give the atlas that the table was made with, with the table of its names beside it (*_dseg.tsv).",
    )


def _numbers(columns: Sequence[str]) -> list[str]:
    """Return the number at the end of each name, where all names have one word before it; else nothing."""
    parts = [re.fullmatch(r"(.*?)0*(\d+)", column) for column in columns]
    words = {match[1].rstrip("0") if match else None for match in parts}
    return [match[2] for match in parts if match] if len(words) == 1 and None not in words else []


def _on_grid(
    path: Path, space: Space, mask: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, dict[int, str], ParcelLayout]:
    require_kind(path, "volume", space.name)
    data, atlas_affine = _read_labels(path)
    _check_space(path, space, data.shape, atlas_affine)
    voxels = np.rint(apply_affine(np.linalg.inv(atlas_affine), grid_points(mask, affine))).astype(np.intp)
    inside = ((voxels >= 0) & (voxels < data.shape)).all(axis=1)
    labels = np.zeros(len(voxels), dtype=np.int64)
    labels[inside] = data[tuple(voxels[inside].T)]
    return labels, *_volume_layout(path, data, atlas_affine, space.name)


def _volume_layout(
    path: Path, data: np.ndarray, affine: np.ndarray, space_name: str
) -> tuple[dict[int, str], ParcelLayout]:
    entities = parse_name(path).entities
    name = entities.get("space") or entities.get("tpl") or space_name
    rows = _rows(path, np.unique(data[data != 0]))
    mask = data != 0
    layout = parcel_layout(
        Space(kind="volume", name=name, mask=mask, affine=affine),
        np.searchsorted(list(rows), data[mask]),
        [row.name for row in rows.values()],
        {row.name: row for row in rows.values()},
    )
    return {label: row.name for label, row in rows.items()}, layout


def _on_surfaces(path: Path, space_name: str, points: Grayordinates) -> tuple[np.ndarray, dict[int, str], ParcelLayout]:
    require_kind(path, "surface", space_name)
    others, labels, names = read_surface_labels(path)
    asked = _family(parse_name(path).entities)
    if asked and asked != _family({"space": space_name}):
        raise ImageError(
            f"{path}: expected an atlas in the space of the run, {space_name}, found one in the space {asked}.",
            "Give an atlas in the space of the run, or choose the run's files in the space of the atlas.",
        )
    found = match_points(points, others, path)
    layout = _surface_layout(path, replace(others, form=points.form), labels, names)
    return np.where(found >= 0, labels[found], 0), names, layout


def _surface_layout(path: Path, points: Grayordinates, labels: np.ndarray, names: Mapping[int, str]) -> ParcelLayout:
    table = names_table(path)
    rows = {} if table is None else {row.name: row for row in read_rows(table).values()}
    name = _family(parse_name(path).entities) or "unknown"
    space = Space(kind="surface", name=name, grayordinates=points.select(labels != 0))
    return parcel_layout(space, np.searchsorted(list(names), labels[labels != 0]), list(names.values()), rows)


def _family(entities: Mapping[str, str]) -> str:
    """Return the space that a name says, whatever the density: ``fsaverage5`` is ``fsaverage``; empty if none."""
    name = entities.get("space") or entities.get("tpl") or ""
    return "fsaverage" if name.startswith("fsaverage") else name


def atlas_name(path: Path) -> str:
    """Return the name of an atlas, which consists of letters and digits.

    It is the entity ``seg`` or ``atlas`` with ``scale`` and ``desc``, else the name of the file. TemplateFlow
    distinguishes the parcellations of one atlas by ``desc``: ``atlas-Schaefer2018_desc-400Parcels17Networks``.
    """
    entities = parse_name(path).entities
    parts = [entities.get("seg") or entities.get("atlas"), entities.get("scale"), entities.get("desc")]
    name = "".join(filter(None, parts)) if parts[0] else image_stem(path.with_name(without_side(path)))
    return "".join(character for character in name if character.isascii() and character.isalnum()) or "atlas"


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    require_atlas(path)
    data, affine = read_volume(path, "image of labels")
    labels = np.rint(data)
    if (
        not np.isfinite(data).all()
        or not np.allclose(labels, data, rtol=_LABEL_RTOL, atol=_LABEL_ATOL)
        or (labels < 0).any()
    ):
        raise ImageError(f"{path}: expected labels, whole numbers from 0 on, found other values.")
    if not labels.any():
        raise ImageError(f"{path}: expected labels, found 0 everywhere.")
    return labels.astype(np.int64), affine


def _check_space(path: Path, space: Space, shape: tuple[int, ...], affine: np.ndarray) -> None:
    entities = parse_name(path).entities
    atlas_space = entities.get("space") or entities.get("tpl")
    if not space.name.startswith("MNI"):
        # Native spaces have no common name: there an atlas must lie on the grid of the run.
        is_on_grid = space.mask is not None and space.affine is not None and shape == space.mask.shape
        fits = is_on_grid and same_affine(shape, affine, np.asarray(space.affine))
    elif space.name == ROUGH_SPACE:
        fits = atlas_space is None or atlas_space.startswith("MNI152")
    else:
        fits = atlas_space in (None, space.name)
    if not fits:
        location = f"in the space {atlas_space}" if atlas_space else f"on another grid, of {shape}"
        raise ImageError(
            f"{path}: expected an atlas in the space of the run, {space.name}, found one {location}.",
            "Prepare the runs in the space of the atlas, or give an atlas in their space.",
        )


def _rows(path: Path, labels: np.ndarray) -> dict[int, ParcelRow]:
    table = names_table(path)
    if table is None:
        return {int(label): ParcelRow(str(int(label))) for label in labels}
    rows = read_rows(table)
    unnamed = [int(label) for label in labels if label not in rows or not rows[label].name]
    if unnamed:
        raise MetadataError(
            f"{table}: expected a name for every label of {path.name}, found none for {unnamed[0]}.",
            "Correct the table.",
        )
    present = {int(label): rows[label] for label in labels}
    if len({row.name for row in present.values()}) < len(present):
        raise MetadataError(f"{table}: expected each index and each name once, found duplicates.", "Correct the table.")
    return present
