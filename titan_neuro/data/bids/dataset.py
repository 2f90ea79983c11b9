"""The index of a BIDS dataset: which of its files are recordings or events tables, read by pybids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.continuous import CONTINUOUS_EXTENSION, CONTINUOUS_SUFFIXES
from titan_neuro.data.bids.names import IMAGE_EXTENSIONS
from titan_neuro.errors import (
    ConfigError,
    ImageError,
    InputNotFoundError,
    MetadataError,
    NoMatchError,
    NotBIDSError,
    NotFetchedError,
)
from titan_neuro.files import read_json

# Entities of pybids that are no entities of the name.
_NOT_IN_NAME = {"suffix", "extension", "datatype"}
# XCP-D's ``desc`` of the images that it has filtered: denoised, denoisedSmoothed.
_DENOISED = "denoised"


@dataclass(frozen=True, kw_only=True)
class IndexedFile:
    """A file of the dataset.

    Attributes
    ----------
    path : Path
    entities : mapping of str to str
        By long names.
    """

    path: Path
    entities: Mapping[str, str]


class DatasetIndex:
    """Index of a dataset's recordings, events tables and sidecars.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset (the folder that holds ``dataset_description.json``).

    Attributes
    ----------
    is_derivative : bool
        Whether the dataset is a derivative one; its images are then preprocessed.

    Raises
    ------
    InputNotFoundError, NotBIDSError, NotFetchedError
        No such folder; no ``dataset_description.json`` in it; the content of that file is not on this machine.
    MetadataError
        A sidecar is broken.
    """

    def __init__(self, bids_dir: Path) -> None:
        import bids

        _require_dataset(bids_dir)
        self.bids_dir = bids_dir
        self.is_derivative = _is_derivative(bids_dir)
        # Sidecars are indexed for recordings alone: indexing those of a whole fMRIPrep tree takes minutes.
        indexer = bids.layout.BIDSLayoutIndexer(
            validate=False, suffix=["bold", "timeseries"], extension=[*IMAGE_EXTENSIONS, ".tsv"]
        )
        try:
            self._layout = bids.BIDSLayout(bids_dir, validate=False, is_derivative=self.is_derivative, indexer=indexer)
        except OSError as error:  # pybids names the broken sidecar in an OSError
            raise MetadataError(f"{bids_dir}: {error}", "Correct the sidecar, or fetch it again.") from error

    def recordings(self, filter_file: Path | None = None) -> list[IndexedFile]:
        """List the BOLD images (``*_bold.nii.gz``); where there are none, parcel time series (``*_timeseries.tsv``).

        Parameters
        ----------
        filter_file : Path, optional
            JSON in fMRIPrep's form, ``{"bold": {"session": "02", ...}}``: entities that a file must have.

        Raises
        ------
        InputNotFoundError, ConfigError
            There is no such filter file; it can't be used.
        ImageError
            All images are band-pass filtered.
        NoMatchError
            There is no recording.
        """
        filters = {} if filter_file is None else _read_filter(filter_file)
        images = self._images(filters)
        causal = [file for file in images if not file.entities.get("desc", "").startswith(_DENOISED)]
        tables = self._get(suffix="timeseries", extension=".tsv", **filters)
        # Tables of confounds have the same suffix.
        parcels = [file for file in tables if file.entities.get("desc") != "confounds" and "subject" in file.entities]
        if images and not causal and not parcels:
            raise ImageError(
                f"{images[0].path}: is denoised: such images are band-passed, which makes any later time point "
                "predictable (white noise gives an r2 of 0.99), and are refused for forecasting.",
                "Prepare the image that it was made from (desc-preproc).",
            )
        if not (causal or parcels):
            raise NoMatchError(
                f"{self.bids_dir}: holds no recording: looked for *_bold.nii.gz and *_timeseries.tsv"
                + (f" that match {filter_file}." if filter_file else "."),
                "Is this the root of the dataset? Are the files in sub-*/[ses-*/]func/?",
            )
        return causal or parcels

    def events(self) -> list[IndexedFile]:
        """List the events tables."""
        return self._get(suffix="events", extension=".tsv")

    def continuous(self) -> dict[Path, list[Path]]:
        """List the continuous tables of stimuli, ratings and physiology by their folders."""
        tables: dict[Path, list[Path]] = {}
        for file in self._get(suffix=list(CONTINUOUS_SUFFIXES), extension=CONTINUOUS_EXTENSION):
            tables.setdefault(file.path.parent, []).append(file.path)
        return tables

    def sidecar(self, file: IndexedFile) -> dict[str, Any]:
        """Return the metadata of a recording, merged from all sidecars that it inherits from."""
        return dict(self._layout.get_metadata(str(file.path)))

    def _images(self, filters: Mapping[str, Any]) -> list[IndexedFile]:
        query = {"suffix": "bold", "extension": list(IMAGE_EXTENSIONS), **filters}
        try:
            return self._get(**query)
        except Exception as error:  # pybids: ValueError for an unknown entity, its database's error for a pattern
            if not filters:
                raise
            raise ConfigError(
                f"--bids-filter-file: {json.dumps(filters)} is no filter for this dataset: {error}",
                "Use the dataset's own entities: session, task, run, acquisition, space, desc, ...",
            ) from error

    def _get(self, **query: Any) -> list[IndexedFile]:
        files = self._layout.get(**query)
        return [IndexedFile(path=Path(file.path), entities=_entities(file)) for file in files]


def _entities(file: Any) -> dict[str, str]:
    entities = file.get_entities(metadata=False)
    return {name: str(label) for name, label in entities.items() if name not in _NOT_IN_NAME}


def _require_dataset(bids_dir: Path) -> None:
    if not bids_dir.exists():
        raise InputNotFoundError(f"{bids_dir}: no such folder.", "Check the path of the BIDS dataset.")
    if not bids_dir.is_dir():
        raise InputNotFoundError(f"{bids_dir}: is a file; expected the root folder of a BIDS dataset.")
    description = bids_dir / "dataset_description.json"
    if is_missing(description):
        raise NotFetchedError(
            f"{description}: its content is not on this machine.",
            f"Get it with `titan-neuro fetch {bids_dir}` (the folder of the clone).",
        )
    if not description.is_file():
        root = next((parent for parent in bids_dir.parents if (parent / description.name).is_file()), None)
        hint = f"Did you mean {root}?" if root else "Name the folder that holds dataset_description.json."
        raise NotBIDSError(f"{bids_dir}: not a BIDS dataset: it has no dataset_description.json.", hint)


def _is_derivative(bids_dir: Path) -> bool:
    description = read_json(bids_dir / "dataset_description.json")
    # Before BIDS 1.4 derivatives had no DatasetType, but named their pipeline.
    dataset_type = description.get("DatasetType", "derivative" if "PipelineDescription" in description else "raw")
    return bool(dataset_type != "raw")


def _read_filter(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file (named with --bids-filter-file).")
    content = read_json(path)
    if set(content) - {"bold"} or not isinstance(content.get("bold", {}), dict):
        raise ConfigError(
            f'{path}: expected {{"bold": {{ENTITY: VALUE, ...}}}}, found the keys {", ".join(map(repr, content))}.',
            "Only recordings are filtered; write the filter under the key 'bold'.",
        )
    return dict(content.get("bold", {}))
