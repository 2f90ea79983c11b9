"""What other programs have made of a recording: fMRIPrep's images, confounds and transforms, found by their names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_neuro.errors import MetadataError

# The template that is registered to; of several spaces the first of these is taken.
STANDARD_SPACES = ("MNI152NLin2009cAsym", "MNI152NLin6Asym")
# Every file and table made of roughly registered runs bears this instead of the template's name.
ROUGH_SPACE = "MNI152RoughRegistration"
# Entities that tell one run from another, in the order of BIDS names.
RUN_ENTITIES = ("sub", "ses", "task", "acq", "rec", "dir", "run", "echo", "part")
_IMAGE = (".nii.gz", ".nii")
_SKIPPED = {"sourcedata", "models"}
# Where the long name of an entity is another.
LONG_NAMES = {
    "sub": "subject",
    "ses": "session",
    "acq": "acquisition",
    "rec": "reconstruction",
    "dir": "direction",
    "res": "resolution",
    "seg": "segmentation",
    "den": "density",
}


@dataclass(frozen=True, kw_only=True)
class NamedFile:
    """A file and what its BIDS name says; entities by their short names (``sub``, ``run``, ``space``)."""

    path: Path
    entities: Mapping[str, str]
    suffix: str
    extension: str

    @property
    def long_entities(self) -> dict[str, str]:
        """Entities by their long names, without ``desc``."""
        return {LONG_NAMES.get(name, name): value for name, value in self.entities.items() if name != "desc"}


def parse_name(path: Path) -> NamedFile:
    """Take a BIDS name apart: ``sub-1_run-2_bold.nii.gz`` is sub 1, run 2, suffix ``bold``, extension ``.nii.gz``."""
    stem, dot, extension = path.name.partition(".")
    *parts, suffix = stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return NamedFile(path=path, entities=entities, suffix=suffix, extension=dot + extension)


class DerivativeFiles:
    """All files of the subjects in some folders, looked up by what their names say.

    Parameters
    ----------
    folders : sequence of Path
        Derivative datasets, or folders that hold them; one that does not exist holds nothing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        # By suffix: of a whole fMRIPrep tree most files are figures and surfaces, which nobody asks for.
        self._files: dict[str, list[NamedFile]] = {}
        for folder in folders:
            for where, subfolders, names in os.walk(folder):
                subfolders[:] = sorted(
                    name
                    for name in subfolders
                    if not (name.startswith(".") or name.endswith(".zarr") or name in _SKIPPED)
                )
                if "dataset_description.json" in names and _is_ours(Path(where, "dataset_description.json")):
                    # What we have written is no input of ours, though the output may lie in the dataset's derivatives.
                    subfolders.clear()
                    continue
                for name in sorted(names):
                    if name.startswith("sub-"):
                        file = parse_name(Path(where, name))
                        self._files.setdefault(file.suffix, []).append(file)

    def find(self, suffix: str, extensions: Sequence[str], **entities: str | None) -> list[NamedFile]:
        """Files of one kind: each entity given must have that value; None means that the name must not have it."""
        return [
            file
            for file in self._files.get(suffix, ())
            if file.extension in extensions
            and all(file.entities.get(name.rstrip("_")) == value for name, value in entities.items())
        ]

    def of_run(self, run: Mapping[str, str], files: Sequence[NamedFile]) -> list[NamedFile]:
        """Those of `files` that belong to a run, given by its entities (long names); ``run-1`` is ``run-01``."""
        wanted = {name: run[LONG_NAMES.get(name, name)] for name in RUN_ENTITIES if LONG_NAMES.get(name, name) in run}
        return [file for file in files if _same_run(wanted, file.entities)]

    def preprocessed_image(self, run: Mapping[str, str]) -> NamedFile | None:
        """Preprocessed BOLD of a run in a standard space; None where there is none.

        Raises
        ------
        MetadataError
            There are several in the same space (of different resolutions, or of different programs).
        """
        for space in STANDARD_SPACES:
            found = self.of_run(run, self.find("bold", _IMAGE, desc="preproc", space=space))
            if found:
                return _one(found, f"preprocessed image in {space}", run)
        return None

    def confounds(self, run: Mapping[str, str]) -> Path | None:
        """Table of confounds of a run, under fMRIPrep's new name or its old one (``regressors``)."""
        for suffix in ("timeseries", "regressors"):
            found = self.of_run(run, self.find(suffix, (".tsv",), desc="confounds"))
            if found:
                return _one(found, "table of confounds", run).path
        return None

    def transforms(self, run: Mapping[str, str]) -> dict[str, Path]:
        """Return what fMRIPrep's minimal output has of a run; empty where it has no head motion.

        Returns
        -------
        dict
            ``head_motion`` (boldref to volume), ``coregistration`` (T1w to boldref), ``standard`` (template to T1w),
            ``brain``, ``white_matter``, ``csf`` (images in T1w space); with a fieldmap also ``fieldmap`` (Hz) and
            ``to_fieldmap`` (fieldmap to boldref). Each transform takes points of the space named first to the second.

        Raises
        ------
        MetadataError
            A part is missing, or is there twice.
        """
        head_motion = self.of_run(run, self._transform("orig", "boldref"))
        if not head_motion:
            return {}
        found = {
            "head_motion": _one(head_motion, "head motion transform", run).path,
            "coregistration": self._needed(run, self._transform("boldref", "T1w"), "from-boldref_to-T1w transform"),
        }
        subject = {name: run[name] for name in ("subject", "session") if name in run}
        anatomical = {
            "standard": self.find("xfm", (".h5",), from_="T1w", to=STANDARD_SPACES[0]),
            "brain": self.find("mask", _IMAGE, desc="brain", space=None),
            "white_matter": self.find("probseg", _IMAGE, label="WM", space=None),
            "csf": self.find("probseg", _IMAGE, label="CSF", space=None),
        }
        for role, files in anatomical.items():
            # Brain masks are also made of fieldmaps, references and diffusion images.
            of_anatomy = [file for file in files if "anat" in file.path.parts]
            found[role] = self._anatomical(subject, of_anatomy, role)
        found.update(self._fieldmap(run, subject))
        return found

    def _transform(self, source: str, target: str) -> list[NamedFile]:
        return self.find("xfm", (".txt",), from_=source, to=target)

    def _needed(self, run: Mapping[str, str], files: Sequence[NamedFile], what: str) -> Path:
        found = self.of_run(run, files)
        if not found:
            raise MetadataError(
                f"{_name(run)}: its head motion transforms are there, but no {what}.",
                "Fetch the whole derivative dataset (`titan-neuro fetch ... --with transforms`).",
            )
        return _one(found, what, run).path

    def _anatomical(self, subject: Mapping[str, str], files: Sequence[NamedFile], role: str) -> Path:
        of_subject = [file for file in files if file.entities.get("sub") == subject["subject"]]
        same_session = [file for file in of_subject if file.entities.get("ses") == subject.get("session")]
        # One anatomy serves all sessions.
        found = same_session or of_subject
        if not found:
            what = f"transform from T1w to {STANDARD_SPACES[0]} (.h5)" if role == "standard" else f"{role} image"
            raise MetadataError(
                f"{_name(subject)}: its head motion transforms are there, but no {what}.",
                "Fetch the whole derivative dataset (`titan-neuro fetch ... --with transforms`).",
            )
        return _one(found, f"{role} image", subject).path

    def _fieldmap(self, run: Mapping[str, str], subject: Mapping[str, str]) -> dict[str, Path]:
        targets = ("orig", "boldref", "T1w")
        files = [file for file in self.find("xfm", (".txt",), from_="boldref") if file.entities["to"] not in targets]
        found = self.of_run(run, files)
        if not found:
            return {}
        to_fieldmap = _one(found, "transform to a fieldmap", run)
        name = to_fieldmap.entities["to"]
        maps = self.find("fieldmap", _IMAGE, desc="preproc", fmapid=name)
        return {"fieldmap": self._anatomical(subject, maps, f"fieldmap {name}"), "to_fieldmap": to_fieldmap.path}


def _is_ours(description: Path) -> bool:
    """Whether a dataset is an output of `prepare`: made by us from another one (a synthetic dataset has no source)."""
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        makers = [maker["Name"] for maker in content["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError):
        # Not fetched, broken, or without a maker: then it is not one that we wrote.
        return False
    return "Titan-Neuro" in makers and "SourceDatasets" in content


def same_label(name: str, one: str, other: str) -> bool:
    """Whether two labels of an entity mean the same: runs and echoes are counted, ``1`` is ``01``."""
    if name in {"run", "echo"} and one.isdecimal() and other.isdecimal():
        return int(one) == int(other)
    return one == other


def _same_run(wanted: Mapping[str, str], have: Mapping[str, str]) -> bool:
    names = [name for name in RUN_ENTITIES if name in wanted or name in have]
    return all(name in wanted and name in have and same_label(name, wanted[name], have[name]) for name in names)


def _one(found: Sequence[NamedFile], what: str, run: Mapping[str, str]) -> NamedFile:
    if len(found) > 1:
        raise MetadataError(
            f"{_name(run)}: two files for one {what}: {found[0].path} and {found[1].path}.",
            "Name the one derivative dataset to use with --derivatives; of several resolutions keep one there.",
        )
    return found[0]


def _name(entities: Mapping[str, str]) -> str:
    named = {name: entities.get(LONG_NAMES.get(name, name)) for name in RUN_ENTITIES}
    return "_".join(f"{name}-{value}" for name, value in named.items() if value is not None)
