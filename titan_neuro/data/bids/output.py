"""The output folder as a BIDS derivative: whose it is, where it came from, maps and series in standard formats."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from titan_neuro.data.space import Space
from titan_neuro.errors import MetadataError, OutputError, UsageError
from titan_neuro.files import WORK_FOLDER, atomic, file_lock, is_leftover, read_json, write_json, write_text

_NAME = "Titan-Neuro"
_README = """# Forecasts made by Titan-Neuro

Made from the dataset that `dataset_description.json` names under SourceDatasets, with the settings in
`config.resolved.yaml`; `provenance.json` says by which commands and versions. Open `report.html` in a browser.

- `sub-*/func/*_desc-prepared_*.zarr`: time points as the models read them; `*_boldref.nii.gz`: their mean image.
- `sub-*/func/*_desc-features*.zarr`: what frozen encoders have made of them; they may be removed at any time.
- `models/seed-*/fold-*/*`: trained models.
- `group/`: scores, maps and curves over all subjects.
"""
# The specification has no Zarr yet, and neither references nor tables of confounds: fMRIPrep ignores those, too.
_BIDSIGNORE = """**/*_desc-prepared_*
**/*_desc-features*
**/*_desc-confounds_timeseries.*
**/*_boldref.*
**/*_desc-forecast*
models
models/**
group
group/**
null-*
null-*/**
report.html
config.resolved.yaml
provenance.json
"""


def check_output(output_dir: Path, bids_dir: Path | None = None) -> None:
    """Refuse an output folder that can't be written or that holds something else than our own derivative.

    Parameters
    ----------
    output_dir : Path
        May be missing; nothing is made here.
    bids_dir : Path, optional
        The input: it must not be the output, nor hold it outside its ``derivatives``.

    Raises
    ------
    OutputError
        A file, a folder that is not writable, or one with other things in it.
    UsageError
        The output would lie inside the input dataset.
    """
    if bids_dir is not None:
        _check_apart(output_dir.resolve(), bids_dir.resolve())
    if output_dir.exists() and not output_dir.is_dir():
        raise OutputError(f"{output_dir}: is a file; expected a folder for the outputs.", "Name another folder.")
    existing = next(parent for parent in (output_dir, *output_dir.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"{output_dir}: can't be written: {existing} is not writable for you.",
            "Name a folder that is yours to write.",
        )
    description = output_dir / "dataset_description.json"
    # A process that was killed before it had described the folder leaves no more than its locks and half a description.
    found = list(output_dir.iterdir()) if output_dir.is_dir() else []
    if all(path.name == WORK_FOLDER or is_leftover(path, description) for path in found):
        return
    made_by = read_json(description).get("GeneratedBy") if description.is_file() else None
    names = [entry.get("Name") for entry in made_by if isinstance(entry, dict)] if isinstance(made_by, list) else []
    if _NAME not in names:
        what = f"made by {', '.join(map(str, names))}" if names else "not an output of Titan-Neuro"
        raise OutputError(
            f"{output_dir}: holds files already and is {what}: nothing is written there.",
            "Name a new folder, or one that Titan-Neuro made.",
        )


def _check_apart(output: Path, source: Path) -> None:
    inside = source in output.parents and source / "derivatives" not in output.parents
    if output == source or inside:
        raise UsageError(
            f"{output}: the outputs would lie inside the input dataset {source}.",
            f"Name a folder outside it, or {source / 'derivatives' / 'titan-neuro'}.",
        )


def init_output_dir(output_dir: Path, bids_dir: Path, version: str, work_dir: Path) -> None:
    """Make the output folder and describe it, or leave it as it is where it is ours and comes from the same source.

    Parameters
    ----------
    output_dir, bids_dir : Path
    version : str
        Of Titan-Neuro.
    work_dir : Path
        Folder for locks.

    Raises
    ------
    OutputError
        See :func:`check_output`; also where the folder was made from another dataset.
    """
    check_output(output_dir, bids_dir)
    description, readme, ignore = (
        output_dir / name for name in ("dataset_description.json", "README.md", ".bidsignore")
    )
    with file_lock(description, readme, ignore, work_dir=work_dir):
        # It comes first: a folder with anything else in it, and without it, would be none of ours.
        _describe(description, bids_dir, version)
        for path, text in ((readme, _README), (ignore, _BIDSIGNORE)):
            if not path.is_file():
                write_text(path, text)


def _describe(description: Path, bids_dir: Path, version: str) -> None:
    source = _source(bids_dir)
    if description.is_file():
        found = read_json(description).get("SourceDatasets")
        if found != [source]:
            raise OutputError(
                f"{description.parent}: was made from another dataset: expected {source}, found {found}.",
                "Name another folder.",
            )
        return
    name = read_json(bids_dir / "dataset_description.json").get("Name", bids_dir.name)
    write_json(
        description,
        {
            "Name": f"{_NAME} outputs of {name}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": _NAME, "Version": version}],
            "SourceDatasets": [source],
        },
    )


def _source(bids_dir: Path) -> dict[str, str]:
    description = read_json(bids_dir / "dataset_description.json")
    doi = description.get("DatasetDOI")
    source = {"URL": bids_dir.resolve().as_uri()}
    return {**source, "DOI": str(doi)} if doi else source


def write_map(stem: Path, label: str, space: Space, values: np.ndarray, metadata: Mapping[str, Any]) -> Path:
    """Write one number for each voxel or parcel, with its sidecar.

    Parameters
    ----------
    stem : Path
        Beginning of the name: ``group/task-movie``.
    label : str
        Its other entities: ``stat-r2_desc-arH1``. Between the two the name says where the map lies: ``space-`` for
        volumes (nothing where they are in their native space), ``seg-`` for parcels.
    space : Space
    values : numpy.ndarray
        ``(features,)``; NaN where there is no value.
    metadata : mapping
        JSON for the sidecar: what the numbers are, in which unit, over how many subjects.

    Returns
    -------
    Path
        ``*_statmap.nii.gz`` for volumes (NaN outside the mask), ``*_statmap.tsv`` (columns parcel, value) for parcels.
    """
    is_volume = space.mask is not None and space.affine is not None
    place = "" if space.name == "native" else f"_{'space' if is_volume else 'seg'}-{space.name}"
    stem = stem.with_name(f"{stem.name}{place}_{label}")
    if not is_volume:
        path = stem.with_name(f"{stem.name}_statmap.tsv")
        table = pd.DataFrame({"parcel": space.parcels, "value": values})
        with atomic(path) as temporary:
            table.to_csv(temporary, sep="\t", index=False, na_rep="n/a")
    else:
        path = stem.with_name(f"{stem.name}_statmap.nii.gz")
        write_nifti(path, space, iter([values[None]]), n_time_points=1, repetition_time=None, fill=np.nan)
    write_json(stem.with_name(f"{stem.name}_statmap.json"), {**metadata, "Space": space.name})
    return path


def write_nifti(
    path: Path,
    space: Space,
    blocks: Iterator[np.ndarray],
    *,
    n_time_points: int,
    repetition_time: float | None,
    fill: float = 0.0,
) -> None:
    """Write features as a float32 ``.nii.gz`` image, time point by time point at constant memory.

    Parameters
    ----------
    path : Path
    space : Space
        Of kind ``volume``.
    blocks : iterator of numpy.ndarray
        ``(time, features)``, together `n_time_points` long.
    n_time_points : int
    repetition_time : float or None
        Seconds; None writes a 3D image of one time point.
    fill : float
        Value outside the mask.
    """
    import nibabel as nib

    if space.mask is None or space.affine is None:
        raise MetadataError("Parcels have no image to be written to.", "Write a table instead.")
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    shape = space.mask.shape if repetition_time is None else (*space.mask.shape, n_time_points)
    header.set_data_shape(shape)
    header.set_sform(space.affine, code="mni" if space.name.startswith("MNI") else "scanner")
    header.set_xyzt_units("mm", "sec" if repetition_time is not None else None)
    zooms = tuple(np.sqrt((space.affine[:3, :3] ** 2).sum(0)))
    header.set_zooms(zooms if repetition_time is None else (*zooms, repetition_time))
    # Neither the time nor the temporary name goes into the file: the same values give the same bytes.
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=5, fileobj=raw, mtime=0) as file,
    ):
        header.write_to(file)
        for block in blocks:
            for volume in space.scatter(block, fill):
                file.write(volume.tobytes(order="F"))
