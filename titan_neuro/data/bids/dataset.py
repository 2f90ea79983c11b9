"""The index of a BIDS dataset: which of its files are recordings or events tables, and what their sidecars say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from titan_neuro.data.bids.annex import install_command, is_missing, uninstalled_subdatasets
from titan_neuro.data.bids.continuous import CONTINUOUS_EXTENSION, CONTINUOUS_SUFFIXES
from titan_neuro.data.bids.kinds import PARCEL_EXTENSIONS, SURFACE_EXTENSIONS, join_hemispheres
from titan_neuro.data.bids.names import IMAGE_EXTENSIONS, BidsFile, applies_to, printable
from titan_neuro.data.bids.tree import DESCRIPTION, read_folders
from titan_neuro.errors import ImageError, InputNotFoundError, NoMatchError, NotBIDSError, NotFetchedError
from titan_neuro.files import read_json

logger = logging.getLogger(__name__)
IGNORE_FILE = ".bidsignore"
# XCP-D's ``desc`` of the images that it has filtered: denoised, denoisedSmoothed.
_DENOISED = "denoised"


class DatasetIndex:
    """Index of a dataset's recordings, events tables and sidecars, by their names.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset (the folder that holds ``dataset_description.json``).

    Attributes
    ----------
    is_derivative : bool
        Whether the dataset is a derivative one; its images are then preprocessed.
    ignored : list of BidsFile
        Files that ``.bidsignore`` names. In a raw dataset they are not in the index. In a derivative dataset they are:
        fMRIPrep names there what the specification does not know yet, such as its tables of confounds.

    Raises
    ------
    InputNotFoundError, NotBIDSError, NotFetchedError
        No such folder; no ``dataset_description.json`` in it; the content of that file is not on this machine.
    """

    def __init__(self, bids_dir: Path) -> None:
        _require_dataset(bids_dir)
        self.bids_dir = bids_dir
        self.is_derivative = _is_derivative(bids_dir)
        # Recordings lie in the folders of subjects; what they inherit from lies also directly below the root.
        folders = read_folders(bids_dir, lambda parent, name: parent != bids_dir or name.startswith("sub-"))
        files = [file for _, listed in folders for file in listed]
        self.ignored = list(_ignored(bids_dir, files))
        if not self.is_derivative:
            hidden = {file.path for file in self.ignored}
            files = [file for file in files if file.path not in hidden]
        self._files: dict[str, list[BidsFile]] = {}
        for file in files:
            self._files.setdefault(file.suffix, []).append(file)
        self._sidecars: dict[Path, list[BidsFile]] = {}
        for file in files:
            if file.extension == ".json" and not file.problem:
                self._sidecars.setdefault(file.path.parent, []).append(file)
        self._contents: dict[Path, dict[str, Any]] = {}

    def recordings(self) -> list[BidsFile]:
        """List the BOLD images, of volumes and on surfaces (`kinds`), and the parcel time series.

        A file that is no regular one (a named pipe) has that as its `BidsFile.problem`.

        Raises
        ------
        ImageError
            All images are band-pass filtered.
        NotFetchedError
            The subjects are subdatasets that are not installed.
        NoMatchError
            There is no recording.
        """
        found = self._get("bold", (*IMAGE_EXTENSIONS, *SURFACE_EXTENSIONS))
        images = join_hemispheres([file for file in found if "sub" in file.entities])
        causal = [file for file in images if not file.entities.get("desc", "").startswith(_DENOISED)]
        tables = self._get("timeseries", PARCEL_EXTENSIONS)
        # Tables of confounds have the same suffix.
        parcels = [file for file in tables if file.entities.get("desc") != "confounds" and "sub" in file.entities]
        if images and not causal and not parcels:
            raise ImageError(
                f"{images[0].path}: is denoised: such images are band-passed, which makes any later time point "
                "predictable (white noise gives an r2 of 0.99), and are refused for forecasting.",
                "Prepare the image that it was made from (desc-preproc).",
            )
        found = [*causal, *parcels]
        if not found:
            raise self._no_recording()
        return [
            replace(file, problem="it is no regular file") if file.path.exists() and not file.path.is_file() else file
            for file in found
        ]

    def events(self) -> list[BidsFile]:
        """List the events tables; those with invalid names belong to no run, and are named in a warning."""
        tables = self._get("events", (".tsv",))
        for table in tables:
            if table.problem:
                logger.warning("%s: is left out: %s.", printable(str(table.path)), table.problem)
        return [table for table in tables if not table.problem]

    def continuous(self) -> dict[Path, list[BidsFile]]:
        """List the continuous tables of stimuli, ratings and physiology by their folders."""
        tables: dict[Path, list[BidsFile]] = {}
        for file in (file for suffix in CONTINUOUS_SUFFIXES for file in self._get(suffix, (CONTINUOUS_EXTENSION,))):
            tables.setdefault(file.path.parent, []).append(file)
        return tables

    def sidecar(self, file: BidsFile) -> tuple[dict[str, Any], list[Path]]:
        """Merge the metadata of a file from all sidecars that it inherits from, and list those that are not fetched.

        Nearer sidecars take precedence, and of one folder those with more entities. Values that are objects are left
        out: BIDS has none that says how an image was recorded.

        Raises
        ------
        MetadataError, InputNotFoundError
            A sidecar is not valid JSON, or can't be read.
        """
        merged: dict[str, Any] = {}
        missing = []
        for folder in reversed(file.path.parents):
            for sidecar in sorted(self._sidecars.get(folder, ()), key=lambda each: len(each.entities)):
                if sidecar.suffix != file.suffix or not applies_to(sidecar.entities, file.entities):
                    continue
                if is_missing(sidecar.path):
                    missing.append(sidecar.path)
                else:
                    merged |= self._read(sidecar.path)
        return merged, missing

    def uninstalled_subjects(self) -> list[Path]:
        """List the subdatasets that are subjects, or lie below one, and are not installed."""
        found = uninstalled_subdatasets(self.bids_dir)
        return [path for path in found if path.relative_to(self.bids_dir).parts[0].startswith("sub-")]

    def _read(self, path: Path) -> dict[str, Any]:
        if path not in self._contents:
            content = read_json(path, hint="Correct the sidecar, or fetch it again.")
            # Objects are what converters keep of DICOM headers, volume by volume: most of a sidecar, and not read.
            self._contents[path] = {key: value for key, value in content.items() if not isinstance(value, dict)}
        return self._contents[path]

    def _no_recording(self) -> NoMatchError | NotFetchedError:
        if uninstalled := self.uninstalled_subjects():
            return NotFetchedError(
                f"{self.bids_dir}: holds no recording: {uninstalled[0].name} and perhaps others are subdatasets that "
                "are not installed.",
                f"Install them: `{install_command(uninstalled[0])}`.",
            )
        if self._get("xfm", (".txt", ".h5")):
            return NoMatchError(
                f"{self.bids_dir}: holds transforms and no recording: it is fMRIPrep's minimal output.",
                f"Name the raw dataset as BIDS_DIR, and this one with `-d {self.bids_dir}`.",
            )
        ignored = sum(file.suffix == "bold" for file in self.ignored)
        return NoMatchError(
            f"{self.bids_dir}: holds no recording: looked for *_bold.nii.gz, *_bold.dtseries.nii, *_bold.func.gii and "
            "*_timeseries.tsv in sub-*/."
            + (f" {IGNORE_FILE} hides {ignored} images." if ignored and not self.is_derivative else ""),
            "Is this the root of the dataset? Are the files in sub-*/[ses-*/]func/?",
        )

    def _get(self, suffix: str, extensions: Sequence[str]) -> list[BidsFile]:
        return [file for file in self._files.get(suffix, ()) if file.extension in extensions]


def _ignored(bids_dir: Path, files: Sequence[BidsFile]) -> Iterator[BidsFile]:
    """Yield the files that ``.bidsignore`` names: its patterns are those of ``.gitignore``."""
    path = bids_dir / IGNORE_FILE
    if not path.is_file():
        return
    from pathspec import GitIgnoreSpec

    patterns = GitIgnoreSpec.from_lines(path.read_text(encoding="utf-8", errors="replace").splitlines())
    for file in files:
        if patterns.match_file(file.path.relative_to(bids_dir).as_posix()):
            yield file


def _require_dataset(bids_dir: Path) -> None:
    if not bids_dir.exists():
        raise InputNotFoundError(f"{bids_dir}: no such folder.", "Check the path of the BIDS dataset.")
    if not bids_dir.is_dir():
        raise InputNotFoundError(f"{bids_dir}: is a file; expected the root folder of a BIDS dataset.")
    description = bids_dir / DESCRIPTION
    if is_missing(description):
        raise NotFetchedError(
            f"{description}: its content is not on this machine.",
            f"Get it with `titan-neuro fetch {bids_dir}` (the folder of the clone).",
        )
    if bids_dir in uninstalled_subdatasets(bids_dir):
        raise NotFetchedError(
            f"{bids_dir}: is a subdataset that is not installed.", f"Install it: `{install_command(bids_dir)}`."
        )
    if not description.exists():
        root = next((parent for parent in bids_dir.parents if (parent / description.name).is_file()), None)
        hint = f"Did you mean {root}?" if root else "Name the folder that holds dataset_description.json."
        raise NotBIDSError(f"{bids_dir}: not a BIDS dataset: it has no dataset_description.json.", hint)


def _is_derivative(bids_dir: Path) -> bool:
    description = read_json(bids_dir / DESCRIPTION)
    # Before BIDS 1.4 derivatives had no DatasetType, but named their pipeline.
    dataset_type = description.get("DatasetType", "derivative" if "PipelineDescription" in description else "raw")
    return bool(dataset_type != "raw")
