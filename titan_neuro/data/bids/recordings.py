"""Find the recordings of a BIDS dataset: which files, with which repetition time, events and brain mask."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.derivatives import (
    LONG_NAMES,
    RUN_ENTITIES,
    STANDARD_SPACES,
    DerivativeFiles,
    parse_name,
    same_label,
)
from titan_neuro.errors import (
    ConfigError,
    ImageError,
    InputNotFoundError,
    MetadataError,
    NoMatchError,
    NotBIDSError,
    NotFetchedError,
)

_RUN_ENTITIES = tuple(LONG_NAMES.get(name, name) for name in RUN_ENTITIES)
_NAME_ORDER = (*_RUN_ENTITIES, "space", "resolution", "res", "density", "den", "segmentation", "atlas")
_SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "direction": "dir",
    "segmentation": "seg",
    "resolution": "res",
    "statistic": "stat",
}
# XCP-D's names of what it has filtered: denoised, denoisedSmoothed.
_DENOISED = "denoised"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run of one subject as the datasets describe it; the image itself has not been opened yet.

    Attributes
    ----------
    path : Path
        The 4D image (``*_bold.nii.gz``), or the table of parcel time series (``*_timeseries.tsv``).
    kind : {"volume", "parcels"}
    route : {"parcels", "native", "preprocessed", "transforms"}
        What can be prepared from it: a table; an image as it was recorded; an image that fMRIPrep brought to a standard
        space; an image as it was recorded, with the transforms that bring it there.
    entities : dict of str
        BIDS entities of the name, by their long names; a run keeps its zero padding.
    repetition_time : float or None
        Seconds from one volume to the next according to the sidecar; None where it says nothing.
    sidecar : mapping
        The sidecar's content, whatever it says.
    events, mask, confounds : Path or None
        The events table, the brain mask and the confounds table that apply to this run.
    transforms : mapping of str to Path
        The parts of the route ``transforms``: `titan_neuro.data.bids.derivatives.DerivativeFiles.transforms`.
    """

    path: Path
    kind: Literal["volume", "parcels"]
    route: Literal["parcels", "native", "preprocessed", "transforms"]
    entities: Mapping[str, str]
    repetition_time: float | None
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    events: Path | None
    mask: Path | None
    confounds: Path | None = None
    transforms: Mapping[str, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of the run: ``sub-01_task-movie_run-02``."""
        return join_entities(self.run_entities)

    @property
    def run_entities(self) -> dict[str, str]:
        """Those of the entities that tell runs apart, whatever was made of them."""
        return {name: self.entities[name] for name in _RUN_ENTITIES if name in self.entities}

    @property
    def subject(self) -> str:
        """Label of the subject, without ``sub-``."""
        return self.entities["subject"]

    @property
    def files(self) -> dict[str, Path]:
        """Every file that the run may be prepared from, by what it is."""
        named = {"recording": self.path, "mask": self.mask, "events": self.events, "confounds": self.confounds}
        return {**{role: path for role, path in named.items() if path is not None}, **self.transforms}


def join_entities(entities: Mapping[str, str]) -> str:
    """Join entities, in BIDS's order, to the stem of a name: ``{"task": "x", "subject": "1"}`` is ``sub-1_task-x``."""
    rank = {name: position for position, name in enumerate(_NAME_ORDER)}
    entities = dict(sorted(entities.items(), key=lambda item: rank.get(item[0], len(rank))))
    return "_".join(f"{_SHORT.get(name, name)}-{value}" for name, value in entities.items())


def find_recordings(
    bids_dir: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    filter_file: Path | None = None,
    derivatives: Sequence[Path] = (),
) -> list[Recording]:
    """List the recordings of a dataset, sorted by name.

    Images (``*_bold.nii.gz``) are taken where the dataset has any, else parcel time series (``*_timeseries.tsv``).

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset (the folder that holds ``dataset_description.json``).
    subjects, tasks, runs : sequence of str, optional
        Labels to keep, with or without their ``sub-``, ``task-``, ``run-``; runs match by number (``1`` is ``01``).
    filter_file : Path, optional
        JSON in fMRIPrep's form, ``{"bold": {"session": "02", ...}}``: entities that a file must have.
    derivatives : sequence of Path
        Folders searched for preprocessed images, brain masks, confounds and transforms; by default the dataset's own
        ``derivatives`` folder.

    Raises
    ------
    InputNotFoundError, NotBIDSError, NotFetchedError, NoMatchError, MetadataError, ConfigError
        No such folder; no ``dataset_description.json``, or not its content; nothing matches; two files for one run; bad
        filter file.
    """
    import bids

    _check_is_dataset(bids_dir)
    for folder in derivatives:
        if not folder.is_dir():
            raise InputNotFoundError(f"{folder}: no such folder (named with --derivatives).")
    is_derivative = _is_derivative(bids_dir)
    try:
        layout = bids.BIDSLayout(bids_dir, validate=False, is_derivative=is_derivative, indexer=_indexer(bids))
    except OSError as error:  # pybids names the broken sidecar in an OSError
        raise MetadataError(f"{bids_dir}: {error}", "Mend the sidecar, or fetch it again.") from error
    found = _candidates(layout, _read_filter(filter_file))
    if not found:
        raise NoMatchError(
            f"{bids_dir}: holds no recording: looked for *_bold.nii.gz and *_timeseries.tsv"
            + (f" that match {filter_file}." if filter_file else "."),
            "Is this the root of the dataset? Are the files in sub-*/[ses-*/]func/?",
        )
    wanted = {"subject": subjects, "task": tasks, "run": runs}
    chosen = [file for file in found if all(matches(_entities(file), name, labels) for name, labels in wanted.items())]
    if not chosen:
        asked = ", ".join(f"{name} {' '.join(labels)}" for name, labels in wanted.items() if labels)
        there = "; ".join(f"{name}: {_labels(found, name)}" for name in wanted)
        raise NoMatchError(f"{bids_dir}: no run matches {asked}.", f"The dataset has: {there}.")
    index = DerivativeFiles([*(derivatives or [bids_dir / "derivatives"]), *([bids_dir] if is_derivative else [])])
    events = [(Path(file.path), _entities(file)) for file in layout.get(suffix="events", extension=".tsv")]
    recordings = _in_one_space([_recording(file, events, is_derivative) for file in chosen])
    _check_one_file_a_run(recordings)
    return sorted((_complete(recording, index) for recording in recordings), key=lambda recording: recording.key)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    MetadataError
        The file is not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MetadataError(f"{path}: is not valid JSON: {error}.", "Mend the file, or fetch it again.") from error
    if not isinstance(content, dict):
        raise MetadataError(f"{path}: expected a JSON object {{...}}, found {type(content).__name__}.")
    return content


def sidecar_path(file: Path) -> Path:
    """Return where the JSON beside a file lies, be it there or not."""
    return file.with_name(f"{file.name.partition('.')[0]}.json")


def strip_prefix(label: str, prefix: str) -> str:
    """Take ``sub-`` (or ``run-``, ...) off a label that was given with it."""
    return label.removeprefix(f"{prefix}-")


def _check_is_dataset(bids_dir: Path) -> None:
    if not bids_dir.exists():
        raise InputNotFoundError(f"{bids_dir}: no such folder.", "Check the path of the BIDS dataset.")
    if not bids_dir.is_dir():
        raise InputNotFoundError(f"{bids_dir}: is a file; expected the root folder of a BIDS dataset.")
    if is_missing(bids_dir / "dataset_description.json"):
        raise NotFetchedError(
            f"{bids_dir / 'dataset_description.json'}: its content is not on this machine.",
            f"Get it with `titan-neuro fetch {bids_dir}` (the folder of the clone).",
        )
    if not (bids_dir / "dataset_description.json").is_file():
        parent = next((p for p in bids_dir.parents if (p / "dataset_description.json").is_file()), None)
        hint = f"Did you mean {parent}?" if parent else "Name the folder that holds dataset_description.json."
        raise NotBIDSError(f"{bids_dir}: not a BIDS dataset: it has no dataset_description.json.", hint)


def _indexer(bids: Any) -> Any:
    # Sidecars are read for recordings alone: those of a whole fMRIPrep tree take minutes.
    return bids.layout.BIDSLayoutIndexer(
        validate=False, suffix=["bold", "timeseries"], extension=[".nii.gz", ".nii", ".tsv"]
    )


def _candidates(layout: Any, filters: dict[str, Any]) -> list[Any]:
    try:
        images = layout.get(**{"suffix": "bold", "extension": [".nii.gz", ".nii"], **filters})
    except Exception as error:  # pybids: ValueError for an entity that it doesn't know, its database's for a pattern
        if not filters:
            raise
        raise ConfigError(
            f"--bids-filter-file: {json.dumps(filters)} is no filter for this dataset: {error}",
            "Use the dataset's own entities: session, task, run, acquisition, space, desc, ...",
        ) from error
    usable = [file for file in images if not file.entities.get("desc", "").startswith(_DENOISED)]
    tables = layout.get(**{"suffix": "timeseries", "extension": ".tsv", **filters})
    # Confounds share the suffix, and are no recordings.
    tables = [file for file in tables if file.entities.get("desc") != "confounds" and "subject" in file.entities]
    if images and not usable and not tables:
        raise ImageError(
            f"{images[0].path}: is denoised: such images are band-passed, from which any later time point can be told "
            "(white noise gives an r2 of 0.99), and are refused for forecasting.",
            "Prepare the image that it was made from (desc-preproc).",
        )
    return list(usable or tables)


def _read_filter(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file (named with --bids-filter-file).")
    content = read_json(path)
    if set(content) - {"bold"} or not isinstance(content.get("bold", {}), dict):
        raise ConfigError(
            f'{path}: expected {{"bold": {{ENTITY: VALUE, ...}}}}, found the keys {", ".join(map(repr, content))}.',
            "Only recordings are filtered; write the filter under the key 'bold'.",
        )
    return dict(content.get("bold", {}))


def _entities(file: Any) -> dict[str, str]:
    skip = {"suffix", "extension", "datatype"}
    return {name: str(value) for name, value in file.get_entities(metadata=False).items() if name not in skip}


def matches(entities: Mapping[str, str], name: str, labels: Sequence[str] | None) -> bool:
    """Whether an entity has one of the labels, with or without ``sub-``, ``run-``; without labels any will do."""
    if not labels:
        return True
    have = entities.get(name)
    prefix = _SHORT.get(name, name)
    return have is not None and any(same_label(name, have, strip_prefix(label, prefix)) for label in labels)


def _labels(files: Iterable[Any], name: str) -> str:
    labels = sorted({_entities(file).get(name, "(none)") for file in files})
    return " ".join(labels[:12]) + (f" ... ({len(labels)} in all)" if len(labels) > 12 else "")


def _best_match(
    entities: Mapping[str, str], candidates: Sequence[tuple[Path, Mapping[str, str]]], beside: Path
) -> Path | None:
    """Return the most specific file whose entities all apply to the run (BIDS's inheritance principle)."""
    apply: list[tuple[int, Path]] = []
    for path, have in candidates:
        have = {name: value for name, value in have.items() if name not in {"desc", "datatype"}}
        if all(name in entities and same_label(name, value, entities[name]) for name, value in have.items()):
            apply.append((len(have), path))
    most = max((count for count, _ in apply), default=0)
    best = [path for count, path in apply if count == most]
    # Several programs may have made the same thing: theirs counts who made the image.
    best = [path for path in best if path.parent == beside.parent] or best
    if len(best) > 1:
        raise MetadataError(
            f"{beside}: two files apply alike: {best[0]} and {best[1]}.", "Name the one to use with --derivatives."
        )
    return best[0] if best else None


def _recording(file: Any, events: Sequence[tuple[Path, Mapping[str, str]]], is_derivative: bool) -> Recording:
    entities, path, sidecar = _entities(file), Path(file.path), file.get_metadata()
    volume = parse_name(path).suffix == "bold"
    return Recording(
        path=path,
        kind="volume" if volume else "parcels",
        route="parcels" if not volume else "preprocessed" if is_derivative else "native",
        entities=entities,
        repetition_time=_sidecar_repetition_time(path, sidecar),
        sidecar=sidecar,
        events=_best_match(entities, events, path),
        mask=None,
    )


def _sidecar_repetition_time(path: Path, sidecar: Mapping[str, Any]) -> float | None:
    found, frequency = sidecar.get("RepetitionTime"), sidecar.get("SamplingFrequency")
    try:
        # Some programs write the word "TR" for the frequency: that says nothing.
        if found is None and isinstance(frequency, int | float) and frequency:
            return 1 / float(frequency)
        return None if found is None else float(found)
    except (TypeError, ValueError) as error:
        raise MetadataError(
            f"{path}: expected a RepetitionTime in seconds in its sidecar, found {found!r}.", "Mend the sidecar."
        ) from error


def _in_one_space(recordings: Sequence[Recording]) -> list[Recording]:
    """Of a run that a derivative holds in several spaces, keep the preprocessed image in the standard one."""
    runs: dict[str, list[Recording]] = {}
    for recording in recordings:
        runs.setdefault(recording.key, []).append(recording)
    kept = []
    for files in runs.values():
        preprocessed = [file for file in files if file.entities.get("desc") == "preproc"]
        standard = ([f for f in preprocessed if f.entities.get("space") == space] for space in STANDARD_SPACES)
        kept += files if len(files) == 1 else next(filter(None, standard), files)
    return kept


def _complete(recording: Recording, index: DerivativeFiles) -> Recording:
    """Add what derivatives hold of a run: a better image, its mask, confounds, transforms."""
    run = recording.entities
    if recording.route == "native":
        better = index.preprocessed_image(run)
        if better is not None:
            entities = {**run, **{k: v for k, v in better.long_entities.items() if k not in _RUN_ENTITIES}}
            # What was done to the image stands in its own sidecar; that of the recording still holds.
            sidecar = {**recording.sidecar, **_own_sidecar(better.path)}
            recording = replace(recording, path=better.path, route="preprocessed", entities=entities, sidecar=sidecar)
        elif transforms := index.transforms(run):
            recording = replace(recording, route="transforms", transforms=transforms)
        elif _is_one_of_several(run):
            _refuse_echoes(recording, index)
    masks = [
        (file.path, file.long_entities)
        for file in index.find("mask", (".nii.gz", ".nii"), desc="brain")
        # Anatomical masks lie on another grid.
        if "func" in file.path.parts
    ]
    mask = (
        _best_match(recording.entities, masks, recording.path)
        if recording.route in {"native", "preprocessed"}
        else None
    )
    return replace(recording, mask=mask, confounds=index.confounds(run))


def _own_sidecar(image: Path) -> dict[str, Any]:
    path = sidecar_path(image)
    return read_json(path) if path.is_file() and not is_missing(path) else {}


def _is_one_of_several(run: Mapping[str, str]) -> bool:
    return "echo" in run or "part" in run


def _refuse_echoes(recording: Recording, index: DerivativeFiles) -> None:
    """Refuse an echo of a run of which derivatives hold the combination: three echoes are not three runs."""
    whole = {name: value for name, value in recording.entities.items() if name not in {"echo", "part"}}
    if index.preprocessed_image(whole) or index.transforms(whole):
        raise MetadataError(
            f"{recording.path}: is one of several echoes (or parts) of a run, of which the derivatives hold what was "
            "made of all of them.",
            "Name that derivative dataset as BIDS_DIR.",
        )


def _is_derivative(bids_dir: Path) -> bool:
    description = read_json(bids_dir / "dataset_description.json")
    # Before BIDS 1.4 a derivative was known by its pipeline.
    return description.get("DatasetType", "derivative" if "PipelineDescription" in description else "raw") != "raw"


def _check_one_file_a_run(recordings: Sequence[Recording]) -> None:
    by_key: dict[str, Recording] = {}
    for recording in recordings:
        other = by_key.setdefault(recording.key, recording)
        if other is not recording:
            raise ImageError(
                f"{recording.key}: two files for one run: {other.path.name} and {recording.path.name}.",
                'Choose one with --bids-filter-file, for example {"bold": {"space": "MNI152NLin2009cAsym"}}.',
            )
