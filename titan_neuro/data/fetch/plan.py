"""The files of a cloned dataset that later stages need, selected by their names."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_neuro.data.bids.continuous import CONTINUOUS_EXTENSION, CONTINUOUS_SUFFIXES
from titan_neuro.data.bids.names import (
    IMAGE_EXTENSIONS,
    STANDARD_SPACES,
    canonical_label,
    list_labels,
    parse_name,
    strip_prefix,
)
from titan_neuro.data.fetch.tree import TreeFile
from titan_neuro.errors import NoMatchError

_FILTERS = {"sub": "participant", "task": "task", "run": "run"}
# No BIDS dataset has recordings in these folders.
_SKIPPED_FOLDERS = {"sourcedata", "code"}
# Continuous tables in these folders belong to recordings of another kind.
_OTHER_DATA_TYPES = {"anat", "beh", "dwi", "eeg", "ieeg", "meg", "motion", "mrs", "nirs", "perf", "pet"}
_RECORDING_NAMES = {"bold": "BOLD image", "timeseries": "time series", "xfm": "head-motion transform"}
_TISSUES = {"CSF", "WM"}


@dataclass(frozen=True, kw_only=True)
class WantedFile(TreeFile):
    """A file that later stages may need.

    Attributes
    ----------
    path, name, key, missing
        As in :class:`TreeFile`.
    entities : dict of str
        BIDS entities of its name, by their short names (``sub``, ``task``, ``run``).
    suffix, extension : str
        The end of its name: ``bold``, ``.nii.gz``.
    recording : bool
        Whether it is the recording of a run: its BOLD image, or what the dataset has instead.
    """

    entities: Mapping[str, str]
    suffix: str
    extension: str
    recording: bool = False

    @property
    def is_image(self) -> bool:
        """Whether the file is a NIfTI image."""
        return self.extension in IMAGE_EXTENSIONS

    @property
    def run_key(self) -> tuple[str, ...]:
        """Subject, session, task and run; equal for ``run-1`` and ``run-01``."""
        return tuple(canonical_label(name, self.entities.get(name, "")) for name in ("sub", "ses", "task", "run"))


def find_wanted(
    directory: Path,
    tree: Sequence[TreeFile],
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
) -> list[WantedFile]:
    """List the recordings of a dataset, with the masks, transforms, tables and sidecars that belong to them.

    The recordings are the first of these that the dataset has:

    1. raw BOLD images (outside ``derivatives/``);
    2. preprocessed BOLD images in the space ``MNI152NLin2009cAsym``;
    3. any other BOLD images;
    4. parcel time series;
    5. the head-motion transforms of fMRIPrep's minimal output. With them belong the other transforms of each run, and
       each subject's warp, brain mask, tissue maps and fieldmap.

    Parameters
    ----------
    directory : Path
        Root of the working tree, for messages.
    tree : sequence of TreeFile
        Files of the working tree.
    subjects, tasks, runs : sequence of str, optional
        Labels to select, with or without ``sub-``, ``task-``, ``run-``; run ``1`` is run ``01``.

    Raises
    ------
    NoMatchError
        The dataset has no recording, or none with one of the labels.
    """
    candidates = list(_candidates(tree))
    is_recording, belongs = _kind(directory, candidates)
    recordings = [_as_recording(file) for file in candidates if is_recording(file)]
    belonging = [file for file in candidates if belongs(file) and not is_recording(file)]
    labels = {"sub": subjects, "task": tasks, "run": runs}
    # By their canonical forms: a thousand labels are looked up, not compared one by one.
    filters = {
        entity: {canonical_label(entity, strip_prefix(label, entity)): strip_prefix(label, entity) for label in wanted}
        for entity, wanted in labels.items()
        if wanted
    }
    names = [file.entities for file in recordings]
    listed = "; ".join(f"{word} {list_labels(names, entity)}" for entity, word in _FILTERS.items())
    available = f"The dataset has: {listed}."
    kind = _RECORDING_NAMES[recordings[0].suffix]
    for entity, label in _unmatched(recordings, filters):
        raise NoMatchError(f"{directory}: no {kind} of {_FILTERS[entity]} {label!r}.", available)
    selected = [
        file
        for file in sorted([*recordings, *belonging], key=lambda file: file.path)
        if all(_matches(file, entity, wanted) for entity, wanted in filters.items())
    ]
    if not any(file.recording for file in selected):
        parts = (f"{_FILTERS[entity]} {' '.join(wanted.values())}" for entity, wanted in filters.items())
        raise NoMatchError(f"{directory}: no {kind} of {' and '.join(parts)} together.", available)
    return selected


def _unmatched(recordings: Sequence[WantedFile], filters: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the labels that no recording has, with their entities."""
    for entity, wanted in filters.items():
        present = {_label(file, entity) for file in recordings}
        for canonical, label in wanted.items():
            if canonical not in present:
                yield entity, label


_Rule = Callable[[WantedFile], bool]


def _candidates(tree: Sequence[TreeFile]) -> Iterator[WantedFile]:
    for file in tree:
        parents = file.name.parts[:-1]
        if file.name.name.startswith(".") or any(part in _SKIPPED_FOLDERS or part.startswith(".") for part in parents):
            continue
        bids = parse_name(file.path)
        yield WantedFile(**vars(file), entities=bids.entities, suffix=bids.suffix, extension=bids.extension)


def _kind(directory: Path, candidates: Sequence[WantedFile]) -> tuple[_Rule, _Rule]:
    """Return the rules that decide which files are this dataset's recordings, and which belong to them."""
    has_transforms = any(map(_is_head_motion, candidates))
    kinds: list[tuple[_Rule, _Rule]] = [
        (_is_raw_bold, lambda file: _goes_with_bold(file) or (has_transforms and _is_transform(file))),
        (_is_standard_bold, _goes_with_standard_bold),
        (_is_bold, _goes_with_bold),
        (_is_parcels, _goes_with_bold),
        (_is_head_motion, _is_transform),
    ]
    for is_recording, belongs in kinds:
        if any(map(is_recording, candidates)):
            return is_recording, belongs
    raise NoMatchError(
        f"{directory}: holds no *_bold.nii.gz, no *_timeseries.tsv, and no *_desc-hmc_xfm.txt.",
        "Is this a BIDS dataset of functional MRI?",
    )


def _is_bold(file: WantedFile) -> bool:
    return file.suffix == "bold" and file.is_image and "sub" in file.entities


def _is_raw_bold(file: WantedFile) -> bool:
    return _is_bold(file) and not {"space", "desc"} & set(file.entities) and "derivatives" not in file.name.parts


def _is_standard_bold(file: WantedFile) -> bool:
    return _is_bold(file) and file.entities.get("desc") == "preproc" and _is_in_standard_space(file)


def _is_parcels(file: WantedFile) -> bool:
    is_table = file.suffix == "timeseries" and file.extension == ".tsv"
    return is_table and file.entities.get("desc") != "confounds" and "sub" in file.entities


def _is_head_motion(file: WantedFile) -> bool:
    return (
        file.suffix == "xfm"
        and file.extension == ".txt"
        and (file.entities.get("from"), file.entities.get("to")) == ("orig", "boldref")
        and "sub" in file.entities
    )


def _is_in_standard_space(file: WantedFile) -> bool:
    return file.entities.get("space") == STANDARD_SPACES[0]


def _is_description(file: WantedFile) -> bool:
    return file.name.name == "dataset_description.json"


def _goes_with_bold(file: WantedFile) -> bool:
    if file.suffix in {"events", "timeseries", "regressors"}:
        return file.extension in {".json", ".tsv"}
    if file.suffix in CONTINUOUS_SUFFIXES:
        of_other_data = _OTHER_DATA_TYPES.intersection(file.name.parts)
        return file.extension in {".json", CONTINUOUS_EXTENSION} and not of_other_data
    if file.suffix == "mask":
        return _is_brain_mask(file) and "func" in file.name.parts
    return (file.suffix == "bold" and file.extension == ".json") or _is_description(file)


def _goes_with_standard_bold(file: WantedFile) -> bool:
    if file.suffix in {"bold", "mask"}:
        return _is_in_standard_space(file) and _goes_with_bold(file)
    return _goes_with_bold(file)


def _is_transform(file: WantedFile) -> bool:
    """Whether a file is needed to resample raw BOLD to the standard space, by fMRIPrep's names."""
    entities = file.entities
    if "func" in file.name.parts:
        return file.suffix == "xfm" and entities.get("from") in {"orig", "boldref"}
    if "anat" in file.name.parts:
        if file.suffix == "xfm":
            return (entities.get("from"), entities.get("to")) == ("T1w", STANDARD_SPACES[0])
        is_tissue = file.suffix == "probseg" and entities.get("label") in _TISSUES
        return "space" not in entities and (is_tissue or _is_brain_mask(file))
    if "fmap" in file.name.parts:
        return file.suffix == "fieldmap" and entities.get("desc") == "preproc"
    return _is_description(file)


def _is_brain_mask(file: WantedFile) -> bool:
    return (
        file.suffix == "mask"
        and file.entities.get("desc") == "brain"
        and file.extension in {*IMAGE_EXTENSIONS, ".json"}
    )


def _as_recording(file: WantedFile) -> WantedFile:
    return WantedFile(**{**vars(file), "recording": True})


def _label(file: WantedFile, entity: str) -> str | None:
    label = file.entities.get(entity)
    return None if label is None else canonical_label(entity, label)


def _matches(file: WantedFile, entity: str, labels: Container[str | None]) -> bool:
    # A mask or sidecar without the entity applies to all of its labels. Anatomical images and fieldmaps count their
    # runs on their own.
    shared = entity != "sub" and "func" not in file.name.parts
    applies_to_all = not file.recording and (shared or entity not in file.entities)
    return applies_to_all or _label(file, entity) in labels
