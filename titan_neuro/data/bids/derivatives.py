"""fMRIPrep's derivatives of a recording (images, masks, confounds, transforms), found by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from titan_neuro.data.bids.annex import uninstalled_subdatasets
from titan_neuro.data.bids.kinds import SURFACE_EXTENSIONS, join_hemispheres
from titan_neuro.data.bids.names import (
    IMAGE_EXTENSIONS,
    STANDARD_SPACES,
    BidsFile,
    join_entities,
    list_labels,
    run_entities,
    same_run,
    short_entities,
    without_echo,
)
from titan_neuro.data.bids.tree import DESCRIPTION, read_folders
from titan_neuro.errors import MetadataError, TitanNeuroError
from titan_neuro.files import read_json

_SKIPPED_FOLDERS = {"sourcedata", "models"}
_MAX_LISTED = 3
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

    Attributes
    ----------
    uninstalled : list of Path
        Subdatasets at or below the folders that are not installed: what they hold is not known.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.uninstalled = [path for folder in folders for path in uninstalled_subdatasets(folder)]
        # By suffix and subject: most files of a whole fMRIPrep tree are figures and surfaces, which are never searched.
        self._files: dict[str, dict[str, list[BidsFile]]] = {}
        for folder in folders:
            for file in _files_of_subjects(folder) if folder.is_dir() else ():
                by_subject = self._files.setdefault(file.suffix, {})
                by_subject.setdefault(file.entities["sub"], []).append(file)

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
        by_subject = self._files.get(suffix, {})
        subject = entities.get("sub")
        files = [file for each in by_subject.values() for file in each] if subject is None else by_subject.get(subject)
        return [
            file
            for file in files or ()
            if file.extension in extensions
            and all(file.entities.get(name.rstrip("_")) == label for name, label in entities.items())
        ]

    def find_for_run(
        self, run: Mapping[str, str], suffix: str, extensions: Sequence[str], **entities: str | None
    ) -> list[BidsFile]:
        """List files of one kind that belong to a run, given by its entities; ``run-1`` is ``run-01``.

        What belongs to one echo alone comes first; else it is what belongs to all echoes of the run: they share their
        head motion.
        """
        candidates = self.find(suffix, extensions, sub=short_entities(run)["sub"], **entities)
        of_echo = [file for file in candidates if same_run(run, file.entities)]
        return of_echo or [file for file in candidates if same_run(without_echo(run), file.entities)]

    def preprocessed_images(self, run: Mapping[str, str]) -> list[BidsFile]:
        """Preprocessed BOLD images of a run, of volumes in any space and on surfaces."""
        subject = short_entities(run)["sub"]
        volumes = self.find("bold", IMAGE_EXTENSIONS, sub=subject, desc="preproc")
        # fMRIPrep gives its surfaces no desc.
        surfaces = join_hemispheres(
            [
                file
                for desc in (None, "preproc")
                for file in self.find("bold", SURFACE_EXTENSIONS, sub=subject, desc=desc)
            ]
        )
        return [image for image in (*volumes, *surfaces) if same_run(run, image.entities)]

    @property
    def have_recordings(self) -> bool:
        """Whether the derivatives have preprocessed images, or head-motion transforms, of any run."""
        images = self.find("bold", IMAGE_EXTENSIONS, desc="preproc") or self.find("bold", SURFACE_EXTENSIONS)
        return bool(images or self.find("xfm", (".txt",), from_="orig", to="boldref"))

    def describe(self, subject: str) -> str:
        """Say what the derivatives have of a subject's runs, for a message."""
        images = self.find("bold", (*IMAGE_EXTENSIONS, *SURFACE_EXTENSIONS), sub=subject)
        names = [file.path.name for file in images or self.find("xfm", (".txt",), sub=subject)]
        if names:
            return f"of sub-{subject}: {', '.join(names[:_MAX_LISTED])}{', ...' if len(names) > _MAX_LISTED else ''}"
        subjects = [{"sub": name} for by_subject in self._files.values() for name in by_subject]
        return f"nothing of sub-{subject}; subjects: {list_labels(subjects, 'sub') or 'none'}"

    def confounds(self, run: Mapping[str, str]) -> Path | None:
        """Table of confounds of a run, under fMRIPrep's new name or its old one (``regressors``); None if missing."""
        for suffix in ("timeseries", "regressors"):
            tables = self.find_for_run(run, suffix, (".tsv",), desc="confounds")
            if tables:
                return _single(tables, "table of confounds", run).path
        return None

    def brain_masks(self, subject: str) -> list[BidsFile]:
        """Brain masks of a subject's functional images; those of anatomical images lie on another grid."""
        masks = self.find("mask", IMAGE_EXTENSIONS, sub=subject, desc="brain")
        return [file for file in masks if file.datatype == "func"]

    def has_standard_transform(self, run: Mapping[str, str]) -> bool:
        """Whether the run's subject has a transform to the template: then a run without images is resampled by it."""
        return bool(self._standard_transforms(short_entities(run)["sub"]))

    def _standard_transforms(self, subject: str) -> list[BidsFile]:
        return self.find("xfm", _WARP_EXTENSIONS, sub=subject, from_="T1w", to=STANDARD_SPACES[0])

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
        subject = short_entities(run)["sub"]
        anatomical = {
            "standard": self._standard_transforms(subject),
            "brain": self.find("mask", IMAGE_EXTENSIONS, sub=subject, desc="brain", space=None),
            "white_matter": self.find("probseg", IMAGE_EXTENSIONS, sub=subject, label="WM", space=None),
            "csf": self.find("probseg", IMAGE_EXTENSIONS, sub=subject, label="CSF", space=None),
        }
        for role, files in anatomical.items():
            # Fieldmaps, references and diffusion images have brain masks, too.
            in_anat = [file for file in files if file.datatype == "anat"]
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


def _files_of_subjects(folder: Path) -> Iterator[BidsFile]:
    outputs: set[Path] = set()

    def is_searched(above: Path, name: str) -> bool:
        is_data = not (name.startswith(".") or name.endswith(".zarr") or name in _SKIPPED_FOLDERS)
        return is_data and above not in outputs

    for parent, files in read_folders(folder, is_searched):
        if any(file.path.name == DESCRIPTION for file in files) and _is_prepare_output(parent):
            outputs.add(parent)
        else:
            yield from (file for file in files if "sub" in file.entities and not file.problem)


def _is_prepare_output(folder: Path) -> bool:
    """Whether a dataset was made by `prepare`; our synthetic datasets name us, too, but have no source dataset."""
    try:
        description = read_json(folder / DESCRIPTION)
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
