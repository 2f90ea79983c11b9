"""The output folder as a BIDS derivative dataset: its description, and images in standard formats."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from titan_neuro.data.space import Space
from titan_neuro.errors import InputNotFoundError, MetadataError, OutputError, UsageError
from titan_neuro.files import WORK_FOLDER, atomic, file_lock, is_leftover, read_json, write_json, write_text
from titan_neuro.manifests import FOLDER

logger = logging.getLogger(__name__)

_NAME = "Titan-Neuro"
_README = """# Forecasts made by Titan-Neuro

Made from the dataset that `dataset_description.json` names under SourceDatasets, with the settings in
`config.resolved.yaml`; `provenance.json` lists the commands and versions. Open `report.html` in a browser.

- `sub-*/func/*_desc-prepared_*.zarr`: time points that the models read; `*_boldref.nii.gz`: their mean image;
  `*_stat-tsnr_statmap.nii.gz`: their temporal signal-to-noise ratio.
- `sub-*/func/*_desc-features*.zarr`: features that frozen encoders computed from them; they may be removed.
- `models/seed-*/fold-*/*`: trained models.
- `group/`: scores, maps and curves over all subjects.
- `manifests/`: what each result was made from, and the checksums of its files; `titan-neuro status` reads them.
"""
# The specification has no Zarr yet, and no images of tSNR. Nor has it reference images and confounds tables, which
# fMRIPrep ignores, too.
_BIDSIGNORE = """**/*_desc-prepared_*
**/*_desc-features*
**/*_desc-confounds_timeseries.*
**/*_boldref.*
**/*_stat-tsnr_statmap.*
**/*_desc-forecast*
models
models/**
group
group/**
manifests
manifests/**
null-*
null-*/**
*.html
config.resolved.yaml
failed-runs.json
provenance.json
"""


def check_output(output_dir: Path, bids_dir: Path | None = None) -> None:
    """Refuse an output folder that can't be written, or that contains files of other programs.

    Parameters
    ----------
    output_dir : Path
        May be missing; it is not created here.
    bids_dir : Path, optional
        The input dataset: the output folder must lie outside it, or in its ``derivatives``.

    Raises
    ------
    OutputError
        `output_dir` is a file, is not writable, or contains other files.
    UsageError
        The output would lie inside the input dataset.
    """
    if bids_dir is not None:
        _require_separate(output_dir.resolve(), bids_dir.resolve())
    if output_dir.exists() and not output_dir.is_dir():
        raise OutputError(f"{output_dir}: is a file; expected a folder for the outputs.", "Name another folder.")
    existing = next(parent for parent in (output_dir, *output_dir.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"{output_dir}: can't be written: you have no permission to write to {existing}.",
            "Name a folder that you may write to.",
        )
    description = output_dir / "dataset_description.json"
    # A process that is killed before it has described the folder leaves only locks and a temporary description.
    contents = list(output_dir.iterdir()) if output_dir.is_dir() else []
    if all(path.name == WORK_FOLDER or is_leftover(path, description) for path in contents):
        return
    names = _made_by(description)
    if _NAME not in names and not _has_our_files(output_dir):
        owner = f"made by {', '.join(map(str, names))}" if names else "not an output of Titan-Neuro"
        raise OutputError(
            f"{output_dir}: contains files and is {owner}: nothing is written there.",
            "Name a new folder, or one that Titan-Neuro made.",
        )


def _made_by(description: Path) -> list[Any]:
    made_by = _read_description(description).get("GeneratedBy")
    return [entry.get("Name") for entry in made_by if isinstance(entry, dict)] if isinstance(made_by, list) else []


def _read_description(path: Path) -> dict[str, Any]:
    """Return the description of an output folder; empty where there is none, or it is damaged."""
    try:
        return read_json(path)
    except (InputNotFoundError, MetadataError):
        return {}


def _has_our_files(output_dir: Path) -> bool:
    """Whether a folder whose description is missing or damaged shows by other files that it is ours."""
    readme = output_dir / "README.md"
    is_ours = readme.is_file() and readme.read_bytes() == _README.encode()
    return is_ours or any((output_dir / FOLDER).glob("prepare/*.json"))


def _require_separate(output: Path, source: Path) -> None:
    inside = source in output.parents and source / "derivatives" not in output.parents
    if output == source or inside:
        raise UsageError(
            f"{output}: the outputs would lie inside the input dataset {source}.",
            f"Name a folder outside it, or {source / 'derivatives' / 'titan-neuro'}.",
        )


def init_output_dir(output_dir: Path, bids_dir: Path, version: str, work_dir: Path) -> None:
    """Create and describe the output folder; an existing one from the same dataset is left as it is.

    Parameters
    ----------
    output_dir, bids_dir : Path
    version : str
        Version of Titan-Neuro.
    work_dir : Path
        Folder for locks.

    Raises
    ------
    OutputError
        See :func:`check_output`; or the folder was made from another dataset.
    """
    check_output(output_dir, bids_dir)
    description, readme, ignore = (
        output_dir / name for name in ("dataset_description.json", "README.md", ".bidsignore")
    )
    with file_lock(description, readme, ignore, work_dir=work_dir):
        # The description is first: without it, a folder with any other file would be refused as not ours.
        _describe(description, bids_dir, version)
        for path, text in ((readme, _README), (ignore, _BIDSIGNORE)):
            if not path.is_file() or path.read_bytes() != text.encode():
                write_text(path, text)


def _describe(description: Path, bids_dir: Path, version: str) -> None:
    """Write the description, unless it is there; refuse a folder of another dataset."""
    source = _source(bids_dir)
    name = read_json(bids_dir / "dataset_description.json").get("Name", bids_dir.name)
    content = {
        "Name": f"{_NAME} outputs of {name}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _NAME, "Version": version}],
        "SourceDatasets": [source],
    }
    found = _read_description(description)
    if found == content:
        return
    recorded = found.get("SourceDatasets")
    if recorded is not None and recorded != [source]:
        if not _was_moved(recorded, source) or found.get("Name") != content["Name"]:
            raise OutputError(
                f"{description.parent}: was made from another dataset: expected {source}, found {recorded}.",
                "Name another folder.",
            )
        logger.info("%s: the dataset was moved to %s.", description.parent, bids_dir)
    write_json(description, content)


def source_dataset(output_dir: Path) -> dict[str, str] | None:
    """Return the name and, where it has one, the DOI of the dataset that an output folder was made from.

    Returns
    -------
    dict or None
        ``name`` and ``doi``; None where the folder has no description.
    """
    found = _read_description(output_dir / "dataset_description.json")
    if "Name" not in found:
        return None
    doi = next((source["DOI"] for source in found.get("SourceDatasets", []) if "DOI" in source), None)
    name = str(found["Name"]).removeprefix(f"{_NAME} outputs of ")
    return {"name": name, **({} if doi is None else {"doi": str(doi)})}


def _was_moved(recorded: Any, source: dict[str, str]) -> bool:
    """Whether the recorded dataset can be the one that lies elsewhere now: it is not where it was."""
    before = recorded[0] if isinstance(recorded, list) and recorded and isinstance(recorded[0], dict) else {}
    folder = Path(unquote(urlsplit(str(before.get("URL", ""))).path))
    return before.get("DOI") == source.get("DOI") and not (folder / "dataset_description.json").is_file()


def _source(bids_dir: Path) -> dict[str, str]:
    description = read_json(bids_dir / "dataset_description.json")
    doi = description.get("DatasetDOI")
    source = {"URL": bids_dir.resolve().as_uri()}
    return {**source, "DOI": str(doi)} if doi else source


def write_nifti(
    path: Path,
    space: Space,
    blocks: Iterator[np.ndarray],
    *,
    n_time_points: int,
    repetition_time: float | None,
    fill: float = 0.0,
) -> None:
    """Write features as a float32 ``.nii.gz`` image, volume by volume, with constant memory.

    Parameters
    ----------
    path : Path
    space : Space
        Of kind ``volume``.
    blocks : iterator of numpy.ndarray
        ``(time, features)``, together `n_time_points` long.
    n_time_points : int
    repetition_time : float or None
        Seconds; None writes a 3D image of one volume.
    fill : float
        Value outside the mask.

    Raises
    ------
    MetadataError
        The features are parcels, or lie on surfaces.
    OutputError
        `path` can't be written.
    """
    import nibabel as nib

    if space.mask is None or space.affine is None:
        raise MetadataError("Parcels and surfaces can't be written as an image of voxels.", "Write a table instead.")
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    shape = space.mask.shape if repetition_time is None else (*space.mask.shape, n_time_points)
    header.set_data_shape(shape)
    header.set_sform(space.affine, code="mni" if space.name.startswith("MNI") else "scanner")
    header.set_xyzt_units("mm", "sec" if repetition_time is not None else None)
    zooms = tuple(np.sqrt((space.affine[:3, :3] ** 2).sum(0)))
    header.set_zooms(zooms if repetition_time is None else (*zooms, repetition_time))
    # The gzip header has no time and no name: equal values give equal bytes.
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=5, fileobj=raw, mtime=0) as file,
    ):
        header.write_to(file)
        for block in blocks:
            for volume in space.scatter(block, fill):
                file.write(volume.tobytes(order="F"))
