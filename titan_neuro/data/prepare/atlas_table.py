"""The table of an atlas: names, hemispheres and networks of its parcels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from titan_neuro.data.bids.names import parse_name
from titan_neuro.data.parcels import hemisphere_and_network
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.errors import MetadataError
from titan_neuro.tables import MISSING, numbers, read_tsv

if TYPE_CHECKING:
    import pandas as pd

# The first one present is read: BIDS's name first, then those of AtlasPack, which XCP-D uses.
_NAME_COLUMNS = ("name", "label")
_HEMISPHERE_COLUMNS = ("hemisphere", "hemi")
_NETWORK_COLUMNS = ("network", "network_label")
_SIDES = {"l": "L", "left": "L", "lh": "L", "r": "R", "right": "R", "rh": "R"}
_IMAGE_ENDING = re.compile(r"(\.dlabel)?\.nii(\.gz)?$|(\.label)?\.gii$|\.annot$")


@dataclass(frozen=True)
class ParcelRow:
    """What a table says about a parcel; empty where it says nothing.

    Attributes
    ----------
    name : str
    hemisphere : {"L", "R", ""}
    network : str
    """

    name: str
    hemisphere: str = ""
    network: str = ""


def image_stem(path: Path) -> str:
    """Return the name of an atlas's file without its ending: ``x`` for ``x.nii.gz``, ``x.dlabel.nii``, ``x.annot``."""
    return _IMAGE_ENDING.sub("", path.name)


def names_table(path: Path) -> Path | None:
    """Return the table that names an atlas's parcels: one of the same name, else by BIDS's inheritance principle."""
    image = parse_name(path)
    same_name = path.with_name(f"{image_stem(path)}.tsv")
    if same_name.is_file():
        return same_name
    if not image.entities:
        return None
    tables = [parse_name(table) for table in sorted(path.parent.glob(f"*_{image.suffix}.tsv"))]
    applicable = [table for table in tables if table.entities.items() <= image.entities.items()]
    return max(applicable, key=lambda table: len(table.entities)).path if applicable else None


def read_rows(table: Path) -> dict[int, ParcelRow]:
    """Read the table of an atlas (``*_dseg.tsv``).

    Parameters
    ----------
    table : Path
        Columns ``index`` and ``name`` (or ``label``), and, where it has them, ``hemisphere`` (or ``hemi``) and
        ``network`` (or ``network_label``).

    Returns
    -------
    dict
        A row for each index.

    Raises
    ------
    MetadataError
        A column is missing, an index is no whole number, or there twice.
    """
    rows = read_tsv(table, required=("index",), blank_lines=True)
    name_column = _present(rows, _NAME_COLUMNS)
    if not name_column:
        raise MetadataError(
            f"{table}: expected the columns index, name, found {', '.join(rows.columns)}.", "Correct the table."
        )
    indices = numbers(table, rows["index"])
    fractions = [index for index in indices if not index.is_integer()]
    if fractions:
        raise MetadataError(
            f"{table}: column index: expected whole numbers, found {fractions[0]}.", "Correct the table."
        )
    index, names = indices.astype(int).tolist(), list(rows[name_column])
    if len(set(index)) < len(index):
        raise MetadataError(f"{table}: expected each index and each name once, found duplicates.", "Correct the table.")
    empty = [""] * len(rows)
    sides, networks = (
        list(rows[column]) if (column := _present(rows, columns)) else empty
        for columns in (_HEMISPHERE_COLUMNS, _NETWORK_COLUMNS)
    )
    return {
        number: ParcelRow(name, _SIDES.get(side.lower(), ""), "" if network in MISSING else network)
        for number, name, side, network in zip(index, names, sides, networks, strict=True)
    }


def _present(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    return next((column for column in columns if column in rows), "")


def parcel_layout(
    space: Space, labels: np.ndarray, names: Sequence[str], rows: Mapping[str, ParcelRow]
) -> ParcelLayout:
    """Put together where parcels lie, and what is known about them.

    Parameters
    ----------
    space : Space
        Voxels or points of surfaces that belong to a parcel.
    labels : numpy.ndarray
        int ``(features of space,)``: positions in `names`.
    names : sequence of str
    rows : mapping of str to ParcelRow
        What a table says, by name. Else the hemisphere is that of the structures that a parcel lies in, and hemisphere
        and network follow from names as in Schaefer's atlas.
    """
    known = [hemisphere_and_network(name) for name in names]
    described = [rows.get(name, ParcelRow(name)) for name in names]
    structures = _sides_of_structures(space, labels, len(names))
    return ParcelLayout(
        space=space,
        labels=labels.astype(np.int32),
        names=tuple(names),
        hemispheres=tuple(
            row.hemisphere or structure or side
            for row, structure, (side, _) in zip(described, structures, known, strict=True)
        ),
        networks=tuple(row.network or network for row, (_, network) in zip(described, known, strict=True)),
    )


def _sides_of_structures(space: Space, labels: np.ndarray, n_parcels: int) -> list[str]:
    """Hemisphere of the structures that each parcel lies in; empty where it lies in both, or in a volume."""
    points = space.grayordinates
    if points is None:
        return [""] * n_parcels
    names = [structure.name for structure in points.structures]
    side = np.array([2 if name.endswith("_RIGHT") else 1 if name.endswith("_LEFT") else 0 for name in names])
    of_parcel = np.zeros((n_parcels, 3), dtype=bool)
    of_parcel[labels, side[points.points[:, 0]]] = True
    return [
        "L" if row == [False, True, False] else "R" if row == [False, False, True] else "" for row in of_parcel.tolist()
    ]
