"""An atlas on the grid of a run: which parcel each voxel belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from titan_neuro.data.bids.names import ROUGH_SPACE, parse_name
from titan_neuro.data.prepare.grid import grid_points
from titan_neuro.data.prepare.images import read_volume
from titan_neuro.data.prepare.spatial import apply_affine
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Atlas:
    """Parcels of a space.

    Attributes
    ----------
    name : str
        `atlas_name` of the file.
    labels : numpy.ndarray
        int ``(voxels,)``: the label of each voxel of the space; 0 belongs to none.
    names : mapping of int to str
        Name of each label, in rising order.
    """

    name: str
    labels: np.ndarray
    names: Mapping[int, str]


def read_atlas(path: Path, space: Space) -> Atlas:
    """Read a labels image, by nearest neighbor where it lies on another grid of the same standard space.

    Names come from the table beside it (``*_dseg.tsv`` with the columns ``index`` and ``name``) whose name says most of
    what the image's says and nothing else (BIDS's inheritance principle: it may lack ``res``); without one, labels are
    named by their numbers.

    Parameters
    ----------
    path : Path
        3D image of whole numbers.
    space : Space
        Of kind ``volume``.

    Raises
    ------
    InputNotFoundError
        No such file.
    ImageError
        Not 3D, not whole numbers, no label; in another space; a parcel without a voxel.
    MetadataError
        The table of names is of no use.
    """
    data, affine = _read_labels(path)
    if space.mask is None or space.affine is None:
        raise ImageError(f"{path}: parcels have no grid that an atlas could be laid on.", "Leave --atlas out.")
    _check_space(path, space, data.shape, affine)
    voxels = np.rint(apply_affine(np.linalg.inv(affine), grid_points(space.mask, space.affine))).astype(np.intp)
    inside = ((voxels >= 0) & (voxels < data.shape)).all(axis=1)
    labels = np.zeros(len(voxels), dtype=np.int64)
    labels[inside] = data[tuple(voxels[inside].T)]
    names = _names(path, np.unique(data[data != 0]))
    present = set(np.unique(labels))
    lost = [name for label, name in names.items() if label not in present]
    if lost:
        raise ImageError(
            f"{path}: {len(lost)} of its {len(names)} parcels have no voxel in the run's mask: "
            f"{', '.join(lost[:_MOST_NAMED])}{', ...' if len(lost) > _MOST_NAMED else ''}.",
            "Prepare on a finer grid (--resolution), or with an atlas of larger parcels.",
        )
    return Atlas(name=atlas_name(path), labels=labels, names=names)


def atlas_name(path: Path) -> str:
    """Name of an atlas, letters and digits alone.

    Its entity ``seg`` or ``atlas``, with ``scale`` and ``desc``; else the name of the file. TemplateFlow tells
    parcellations of one atlas apart by ``desc``: ``atlas-Schaefer2018_desc-400Parcels17Networks``.
    """
    entities = parse_name(path).entities
    parts = [entities.get("seg") or entities.get("atlas"), entities.get("scale"), entities.get("desc")]
    name = "".join(filter(None, parts)) if parts[0] else _stem(path)
    return "".join(character for character in name if character.isascii() and character.isalnum()) or "atlas"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.exists():
        raise InputNotFoundError(f"{path}: no such file (named with --atlas).", "Check the path.")
    data, affine = read_volume(path, "image of labels")
    whole = np.rint(data)
    if not np.isfinite(data).all() or (whole != data).any() or (whole < 0).any():
        raise ImageError(f"{path}: expected labels, whole numbers from 0 on, found other values.")
    if not whole.any():
        raise ImageError(f"{path}: expected labels, found 0 everywhere.")
    return whole.astype(np.int64), affine


def _check_space(path: Path, space: Space, shape: tuple[int, ...], affine: np.ndarray) -> None:
    entities = parse_name(path).entities
    named = entities.get("space") or entities.get("tpl")
    if not space.name.startswith("MNI"):
        # What a scanner's grid is called differs; an atlas that lies on it was brought there.
        fits = space.mask is not None and shape == space.mask.shape and np.allclose(affine, space.affine, atol=1e-3)
    elif space.name == ROUGH_SPACE:
        fits = named is None or named.startswith("MNI152")
    else:
        fits = named in (None, space.name)
    if not fits:
        where = f"in the space {named}" if named else f"on another grid, of {shape}"
        raise ImageError(
            f"{path}: expected an atlas in the space of the run, {space.name}, found one {where}.",
            "Bring the runs to the atlas's space first, or take the atlas for theirs.",
        )


def _names(path: Path, labels: np.ndarray) -> dict[int, str]:
    table = names_table(path)
    if table is None:
        return {int(label): str(int(label)) for label in labels}
    try:
        rows = pd.read_csv(table, sep="\t", dtype={"index": np.int64, "name": str}, keep_default_na=False)
        given = dict(zip(rows["index"], rows["name"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise MetadataError(
            f"{table}: expected the columns index (whole numbers) and name: {error}.", "Mend the table."
        ) from error
    unnamed = [int(label) for label in labels if not given.get(label)]
    if unnamed:
        raise MetadataError(
            f"{table}: expected a name for every label of {path.name}, found none for {unnamed[0]}.", "Mend the table."
        )
    names = {int(label): given[label] for label in labels}
    if len(given) < len(rows) or len(set(names.values())) < len(names):
        raise MetadataError(f"{table}: expected every index and every name once, found some twice.", "Mend the table.")
    return names


def names_table(path: Path) -> Path | None:
    """Table that names an atlas's parcels: of its own name, else the most special one beside it that applies."""
    image = parse_name(path)
    same = path.with_name(f"{_stem(path)}.tsv")
    if same.is_file():
        return same
    if not image.entities:
        return None
    beside = [parse_name(table) for table in sorted(path.parent.glob(f"*_{image.suffix}.tsv"))]
    apply = [table for table in beside if table.entities.items() <= image.entities.items()]
    return max(apply, key=lambda table: len(table.entities)).path if apply else None
