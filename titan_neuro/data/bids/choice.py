"""Which of several files is used for a run: its image in one of several spaces, its events table, its mask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from titan_neuro.data.bids.names import (
    GRID_ENTITIES,
    RUN_ENTITIES,
    STANDARD_SPACES,
    BidsFile,
    applies_to,
    join_entities,
    long_name,
    run_entities,
    same_label,
    same_run,
    without_echo,
)
from titan_neuro.errors import ImageError, MetadataError


def choose_image(images: Sequence[BidsFile], resolution_mm: float | None) -> BidsFile:
    """Return the image of a run to prepare.

    Preprocessed images come before others, and the standard spaces before others. Of one space in several
    resolutions, that with the resolution asked for is taken; ``res-2`` is 2 mm.

    Parameters
    ----------
    images : sequence of BidsFile
        All of one run; at least one.
    resolution_mm : float or None
        The resolution asked for.

    Raises
    ------
    ImageError
        Several images remain, which differ in an entity.
    MetadataError
        Two images have the same entities.
    """
    preprocessed = [image for image in images if image.entities.get("desc") == "preproc"]
    by_space = ([image for image in preprocessed if image.entities.get("space") == space] for space in STANDARD_SPACES)
    images = next(filter(None, by_space), preprocessed or images)
    if resolution_mm is not None and len({image.entities.get("space") for image in images}) == 1:
        images = [image for image in images if _has_resolution(image, resolution_mm)] or images
    if len(images) > 1:
        raise _ambiguous(images)
    return images[0]


def _has_resolution(image: BidsFile, resolution_mm: float) -> bool:
    label = image.entities.get("res", "")
    return label.isdecimal() and int(label) == resolution_mm


def _ambiguous(images: Sequence[BidsFile]) -> ImageError | MetadataError:
    one, other = images[:2]
    key = join_entities(run_entities(one.entities))
    differing = [
        name
        for name in dict.fromkeys(name for image in images for name in image.entities)
        if len({image.entities.get(name) for image in images}) > 1
    ]
    if not differing:
        if one.entities.get("desc") != "preproc":
            return MetadataError(f"{key}: two files for one run: {one.path} and {other.path}.", "Remove one of them.")
        return MetadataError(
            f"{key}: two files for one preprocessed image: {one.path} and {other.path}.",
            "Name the one derivative dataset to use with --derivatives.",
        )
    listed = ", ".join(image.path.name for image in images)
    example = json.dumps({"bold": {long_name(name): one.entities.get(name) for name in differing}})
    by_resolution = " or, where res- is in mm, with --resolution" if differing == ["res"] else ""
    return ImageError(
        f"{key}: two files for one run, or more: {listed}.",
        f"Choose one with --bids-filter-file, for example {example}{by_resolution}.",
    )


def most_specific(run: Mapping[str, str], candidates: Sequence[BidsFile], image: Path) -> Path | None:
    """Return the candidate that applies to a run (BIDS's inheritance principle) with the most entities.

    Parameters
    ----------
    run : mapping
        Entities of the run, by their short names.
    candidates : sequence of BidsFile
    image : Path
        Of the run; a candidate beside it is preferred.

    Raises
    ------
    MetadataError
        Two candidates apply equally well.
    """
    n_entities: dict[Path, int] = {}
    for file in candidates:
        entities = {name: label for name, label in file.entities.items() if name != "desc"}
        if applies_to(entities, run):
            n_entities[file.path] = len(entities)
    most = max(n_entities.values(), default=0)
    best = [path for path, count in n_entities.items() if count == most]
    # Several programs may have made the same thing: the file of the program that made the image is preferred.
    best = [path for path in best if path.parent == image.parent] or best
    if len(best) > 1:
        raise MetadataError(
            f"{image}: two files apply equally well: {best[0]} and {best[1]}.",
            "Name the one to use with --derivatives.",
        )
    return best[0] if best else None


def choose_mask(run: Mapping[str, str], masks: Sequence[BidsFile], image: Path) -> Path | None:
    """Return the brain mask of an image; None if there is none.

    It is the mask in the space of the image with the most entities of the image. A mask that names no space is one in
    the run's own space, as fMRIPrep writes it beside images in standard spaces, and is none of these. Where none
    applies, it is a mask of the run in the space of the image that names more than the image does (a resolution, a
    cohort); whether it lies on the grid of the image is checked when it is read.

    Parameters
    ----------
    run : mapping
        Entities of the image, by their short names.
    masks : sequence of BidsFile
        Of the subject.
    image : Path

    Raises
    ------
    MetadataError
        Two masks apply equally well.
    """
    masks = [mask for mask in masks if mask.entities.get("space") == run.get("space")]
    found = most_specific(run, masks, image)
    if found is not None:
        return found
    named = {name: label for name, label in run.items() if name in {*RUN_ENTITIES, *GRID_ENTITIES}}
    detailed = [
        replace(mask, entities={name: label for name, label in mask.entities.items() if name in named})
        for mask in masks
        if all(name not in named or same_label(name, label, named[name]) for name, label in mask.entities.items())
        and same_run(without_echo(run), without_echo(mask.entities))
    ]
    return most_specific(run, detailed, image)
