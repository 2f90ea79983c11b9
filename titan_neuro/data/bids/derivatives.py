"""fMRIPrep's derivatives of a recording (images, masks, confounds, transforms), found by their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from titan_neuro.data.bids.names import (
    IMAGE_EXTENSIONS,
    STANDARD_SPACES,
    BidsFile,
    join_entities,
    parse_name,
    run_entities,
    same_run,
    short_entities,
)
from titan_neuro.errors import MetadataError, TitanNeuroError
from titan_neuro.files import read_json

_SKIPPED_FOLDERS = {"sourcedata", "models"}
# fMRIPrep writes linear transforms as text and the template warp as HDF5; ITK's other formats are read, too.
_LINEAR_EXTENSIONS = (".txt", ".mat")
_WARP_EXTENSIONS = (".h5", ".txt", ".mat", *IMAGE_EXTENSIONS)
_HINT = "Fetch the whole derivative dataset (`titan-neuro fetch ... --with transforms`)."


class DerivativeFiles:
    """Index of the files of all subjects in some folders, searched by the parts of their names.

    Parameters
    ----------
    folders : sequence of Path
        Derivative datasets, or folders that contain some; folders that don't exist are skipped. The outputs of
        `prepare` are skipped, too: they may lie among the dataset's derivatives, and are never our own input.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        # By suffix: most files of a whole fMRIPrep tree are figures and surfaces, which are never searched.
        self._files: dict[str, list[BidsFile]] = {}
        for folder in folders:
            for parent, subfolders, names in os.walk(folder):
                subfolders[:] = sorted(filter(_is_searched, subfolders))
                if "dataset_description.json" in names and _is_prepare_output(parent):
                    subfolders.clear()
                    continue
                for name in sorted(names):
                    if name.startswith("sub-"):
                        file = parse_name(Path(parent, name))
                        self._files.setdefault(file.suffix, []).append(file)

    def find(self, suffix: str, extensions: Sequence[str], **entities: str | None) -> list[BidsFile]:
        """List files of one kind.

        Parameters
        ----------
        suffix : str
        extensions : sequence of str
            Any of these.
        **entities : str or None
            Label that each entity must have, by short name (``from_`` for ``from``); None: the name must lack it.
        """
        return [
            file
            for file in self._files.get(suffix, ())
            if file.extension in extensions
            and all(file.entities.get(name.rstrip("_")) == label for name, label in entities.items())
        ]

    def find_for_run(
        self, run: Mapping[str, str], suffix: str, extensions: Sequence[str], **entities: str | None
    ) -> list[BidsFile]:
        """List files of one kind that belong to a run, given by its entities; ``run-1`` is ``run-01``."""
        return [file for file in self.find(suffix, extensions, **entities) if same_run(run, file.entities)]

    def preprocessed_image(self, run: Mapping[str, str]) -> BidsFile | None:
        """Preprocessed BOLD image of a run in a standard space; None if there is none.

        Raises
        ------
        MetadataError
            There are several in the same space (of different resolutions, or of different programs).
        """
        for space in STANDARD_SPACES:
            images = self.find_for_run(run, "bold", IMAGE_EXTENSIONS, desc="preproc", space=space)
            if images:
                return _single(images, f"preprocessed image in {space}", run)
        return None

    def confounds(self, run: Mapping[str, str]) -> Path | None:
        """Table of confounds of a run, under fMRIPrep's new name or its old one (``regressors``); None if missing."""
        for suffix in ("timeseries", "regressors"):
            tables = self.find_for_run(run, suffix, (".tsv",), desc="confounds")
            if tables:
                return _single(tables, "table of confounds", run).path
        return None

    def brain_masks(self) -> list[BidsFile]:
        """Brain masks of functional images; those of anatomical images lie on another grid."""
        masks = self.find("mask", IMAGE_EXTENSIONS, desc="brain")
        return [file for file in masks if "func" in file.path.parts]

    def transforms(self, run: Mapping[str, str]) -> dict[str, Path]:
        """Return fMRIPrep's minimal output for a run: the transforms from raw BOLD to the template.

        Returns
        -------
        dict
            ``head_motion`` (boldref to volume), ``coregistration`` (T1w to boldref), ``standard`` (template to T1w),
            ``brain``, ``white_matter``, ``csf`` (images in T1w space); with a fieldmap also ``fieldmap`` (Hz) and
            ``to_fieldmap`` (fieldmap to boldref). Each transform maps points of the first space to the second. Empty if
            the run has no head-motion transforms.

        Raises
        ------
        MetadataError
            A part is missing, or exists twice.
        """
        head_motion = self.find_for_run(run, "xfm", (".txt",), from_="orig", to="boldref")
        if not head_motion:
            return {}
        coregistration = self.find_for_run(run, "xfm", _LINEAR_EXTENSIONS, from_="boldref", to="T1w")
        if not coregistration:
            raise _missing_part(run, "from-boldref_to-T1w transform")
        transforms = {
            "head_motion": _single(head_motion, "head motion transform", run).path,
            "coregistration": _single(coregistration, "from-boldref_to-T1w transform", run).path,
        }
        anatomical = {
            "standard": self.find("xfm", _WARP_EXTENSIONS, from_="T1w", to=STANDARD_SPACES[0]),
            "brain": self.find("mask", IMAGE_EXTENSIONS, desc="brain", space=None),
            "white_matter": self.find("probseg", IMAGE_EXTENSIONS, label="WM", space=None),
            "csf": self.find("probseg", IMAGE_EXTENSIONS, label="CSF", space=None),
        }
        for role, files in anatomical.items():
            # Fieldmaps, references and diffusion images have brain masks, too.
            in_anat = [file for file in files if "anat" in file.path.parts]
            part = f"transform from T1w to {STANDARD_SPACES[0]} (.h5)" if role == "standard" else f"{role} image"
            transforms[role] = _single_of_subject(in_anat, part, run)
        return {**transforms, **self._fieldmap(run)}

    def _fieldmap(self, run: Mapping[str, str]) -> dict[str, Path]:
        from_boldref = self.find_for_run(run, "xfm", _LINEAR_EXTENSIONS, from_="boldref")
        to_fieldmaps = [file for file in from_boldref if file.entities["to"] not in ("orig", "boldref", "T1w")]
        if not to_fieldmaps:
            return {}
        to_fieldmap = _single(to_fieldmaps, "transform to a fieldmap", run)
        name = to_fieldmap.entities["to"]
        fieldmaps = self.find("fieldmap", IMAGE_EXTENSIONS, desc="preproc", fmapid=name)
        fieldmap = _single_of_subject(fieldmaps, f"fieldmap {name} image", run)
        return {"fieldmap": fieldmap, "to_fieldmap": to_fieldmap.path}


def _is_searched(folder: str) -> bool:
    return not (folder.startswith(".") or folder.endswith(".zarr") or folder in _SKIPPED_FOLDERS)


def _is_prepare_output(folder: str) -> bool:
    """Whether a dataset was made by `prepare`; our synthetic datasets name us, too, but have no source dataset."""
    try:
        description = read_json(Path(folder, "dataset_description.json"))
        makers = [maker["Name"] for maker in description["GeneratedBy"]]
    except (TitanNeuroError, KeyError, TypeError):
        # Not fetched, broken, or without GeneratedBy: none of these were written by us.
        return False
    return "Titan-Neuro" in makers and "SourceDatasets" in description


def _single_of_subject(files: Sequence[BidsFile], part: str, run: Mapping[str, str]) -> Path:
    """Return the one file of the run's session, or of the whole subject: one anatomy may serve all sessions."""
    subject = {name: label for name, label in short_entities(run).items() if name in {"sub", "ses"}}
    of_subject = [file for file in files if file.entities.get("sub") == subject["sub"]]
    of_session = [file for file in of_subject if file.entities.get("ses") == subject.get("ses")]
    if not of_subject:
        raise _missing_part(subject, part)
    return _single(of_session or of_subject, part, subject).path


def _single(files: Sequence[BidsFile], part: str, run: Mapping[str, str]) -> BidsFile:
    if len(files) > 1:
        raise MetadataError(
            f"{join_entities(run_entities(run))}: two files for one {part}: {files[0].path} and {files[1].path}.",
            "Name the one derivative dataset to use with --derivatives, and keep one resolution in it.",
        )
    return files[0]


def _missing_part(run: Mapping[str, str], part: str) -> MetadataError:
    return MetadataError(
        f"{join_entities(run_entities(run))}: has head-motion transforms in the derivatives, but no {part}.", _HINT
    )
