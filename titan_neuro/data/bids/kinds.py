"""The kinds of recordings: volumes, points of surfaces, parcels; both hemispheres are one recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from titan_neuro.data.bids.names import IMAGE_EXTENSIONS, BidsFile

SURFACE_EXTENSIONS = (".dtseries.nii", ".func.gii")
PARCEL_EXTENSIONS = (".tsv", ".ptseries.nii")
# Of the recordings of a dataset, the first ones that there are.
_PREFERENCE = (*IMAGE_EXTENSIONS, *PARCEL_EXTENSIONS, *SURFACE_EXTENSIONS)
_HEMISPHERES = ("L", "R")


def kind_of(file: BidsFile) -> Literal["volume", "surface", "parcels"]:
    """Return the kind of a recording, by its extension."""
    if file.extension in PARCEL_EXTENSIONS:
        return "parcels"
    return "surface" if file.extension in SURFACE_EXTENSIONS else "volume"


def of_one_kind(files: Sequence[BidsFile]) -> tuple[list[BidsFile], list[BidsFile]]:
    """Return the recordings of the first kind that there is, and the others.

    Volumes come first, then tables of parcels, then surfaces, each in one format: a dataset may hold a run in several.

    Parameters
    ----------
    files : sequence of BidsFile

    Returns
    -------
    chosen, others : list of BidsFile
    """
    formats = [_PREFERENCE.index(file.extension) for file in files]
    first = min(formats, default=0)
    # .nii and .nii.gz are one format.
    wanted = IMAGE_EXTENSIONS if _PREFERENCE[first] in IMAGE_EXTENSIONS else (_PREFERENCE[first],)
    chosen = [file for file in files if file.extension in wanted]
    return chosen, [file for file in files if file.extension not in wanted]


def join_hemispheres(files: Sequence[BidsFile]) -> list[BidsFile]:
    """Make one recording of the GIFTI files of both hemispheres: that of the left one, which knows both.

    A file whose name says no hemisphere, or whose other hemisphere is missing, has that as its `BidsFile.problem`.
    """
    pairs: dict[tuple[object, ...], dict[str, BidsFile]] = {}
    for file in files:
        if file.extension == ".func.gii":
            pairs.setdefault(_without_hemisphere(file), {})[file.entities.get("hemi", "")] = file
    joined = [_join(pair) for pair in pairs.values()]
    return [*(file for file in files if file.extension != ".func.gii"), *joined]


def _without_hemisphere(file: BidsFile) -> tuple[object, ...]:
    others = tuple(sorted((name, label) for name, label in file.entities.items() if name != "hemi"))
    return file.path.parent, others, file.suffix


def _join(pair: Mapping[str, BidsFile]) -> BidsFile:
    first = pair[min(pair)]
    problem = first.problem
    missing = [side for side in _HEMISPHERES if side not in pair]
    if len(missing) == len(_HEMISPHERES):
        problem = problem or "its name says no hemisphere (hemi-L or hemi-R)"
    elif missing:
        problem = problem or f"the file of the other hemisphere (hemi-{missing[0]}) is missing"
    return replace(first, hemispheres={side: pair[side].path for side in _HEMISPHERES if side in pair}, problem=problem)
