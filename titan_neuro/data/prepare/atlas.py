"""An atlas on the grid of a run: the parcel of each voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from titan_neuro.data.bids.names import ROUGH_SPACE, parse_name
from titan_neuro.data.prepare.grid import grid_points
from titan_neuro.data.prepare.images import read_volume
from titan_neuro.data.prepare.transforms import apply_affine
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError

_MAX_LISTED = 5
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
        int ``(voxels in mask,)``: the label of each voxel of the space; 0 for voxels outside all parcels.
    names : mapping of int to str
        Name of each label, in ascending order.
    """

    name: str
    labels: np.ndarray
    names: Mapping[int, str]


def read_atlas(path: Path, space: Space) -> Atlas:
    """Read a labels image, by nearest neighbor where it lies on another grid of the same standard space.

    The names of the parcels come from a table beside it (``*_dseg.tsv`` with the columns ``index`` and ``name``), by
    the inheritance principle of BIDS: of the tables all of whose entities the image has too, the one with most
    entities. Without a table, labels are named by their numbers.

    Parameters
    ----------
    path : Path
        3D image of whole numbers, up to the rounding of a scale factor.
    space : Space
        Of kind ``volume``.

    Returns
    -------
    Atlas

    Raises
    ------
    InputNotFoundError
        The file does not exist.
    ImageError
        The image is not 3D, has values that are no whole numbers, or has no label; it is in another space; a parcel has
        no voxel in the mask.
    MetadataError
        The table of names is not valid.
    """
    data, affine = _read_labels(path)
    if space.mask is None or space.affine is None:
        raise ImageError(f"{path}: an atlas needs volumes, found parcels.", "Omit --atlas.")
    _check_space(path, space, data.shape, affine)
    voxels = np.rint(apply_affine(np.linalg.inv(affine), grid_points(space.mask, space.affine))).astype(np.intp)
    inside = ((voxels >= 0) & (voxels < data.shape)).all(axis=1)
    labels = np.zeros(len(voxels), dtype=np.int64)
    labels[inside] = data[tuple(voxels[inside].T)]
    names = _names(path, np.unique(data[data != 0]))
    present = set(np.unique(labels))
    empty = [name for label, name in names.items() if label not in present]
    if empty:
        raise ImageError(
            f"{path}: {len(empty)} of its {len(names)} parcels have no voxel in the run's mask: "
            f"{', '.join(empty[:_MAX_LISTED])}{', ...' if len(empty) > _MAX_LISTED else ''}.",
            "Prepare on a finer grid (--resolution), or with an atlas of larger parcels.",
        )
    return Atlas(name=atlas_name(path), labels=labels, names=names)


def atlas_name(path: Path) -> str:
    """Return the name of an atlas, which consists of letters and digits.

    It is the entity ``seg`` or ``atlas`` with ``scale`` and ``desc``, else the name of the file. TemplateFlow
    distinguishes the parcellations of one atlas by ``desc``: ``atlas-Schaefer2018_desc-400Parcels17Networks``.
    """
    entities = parse_name(path).entities
    parts = [entities.get("seg") or entities.get("atlas"), entities.get("scale"), entities.get("desc")]
    name = "".join(filter(None, parts)) if parts[0] else _stem(path)
    return "".join(character for character in name if character.isascii() and character.isalnum()) or "atlas"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.exists():
        raise InputNotFoundError(f"{path}: no such file (given with --atlas).", "Check the path.")
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
        fits = is_on_grid and np.allclose(affine, np.asarray(space.affine), atol=1e-3)
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


def _names(path: Path, labels: np.ndarray) -> dict[int, str]:
    table = names_table(path)
    if table is None:
        return {int(label): str(int(label)) for label in labels}
    try:
        rows = pd.read_csv(table, sep="\t", dtype={"index": np.int64, "name": str}, keep_default_na=False)
        table_names = dict(zip(rows["index"], rows["name"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise MetadataError(
            f"{table}: expected the columns index (whole numbers) and name: {error}.", "Correct the table."
        ) from error
    unnamed = [int(label) for label in labels if not table_names.get(label)]
    if unnamed:
        raise MetadataError(
            f"{table}: expected a name for every label of {path.name}, found none for {unnamed[0]}.",
            "Correct the table.",
        )
    names = {int(label): table_names[label] for label in labels}
    if len(table_names) < len(rows) or len(set(names.values())) < len(names):
        raise MetadataError(f"{table}: expected each index and each name once, found duplicates.", "Correct the table.")
    return names


def names_table(path: Path) -> Path | None:
    """Return the table that names an atlas's parcels: one of the same name, else by BIDS's inheritance principle."""
    image = parse_name(path)
    same_name = path.with_name(f"{_stem(path)}.tsv")
    if same_name.is_file():
        return same_name
    if not image.entities:
        return None
    tables = [parse_name(table) for table in sorted(path.parent.glob(f"*_{image.suffix}.tsv"))]
    applicable = [table for table in tables if table.entities.items() <= image.entities.items()]
    return max(applicable, key=lambda table: len(table.entities)).path if applicable else None
