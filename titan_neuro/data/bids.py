"""Find the recordings of a BIDS dataset: which files, with which repetition time, events and brain mask."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from titan_neuro.errors import ConfigError, ImageError, InputNotFoundError, MetadataError, NoMatchError, NotBIDSError

_RUN_ENTITIES = ("subject", "session", "task", "acquisition", "reconstruction", "direction", "run", "echo", "part")
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


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run of one subject as the dataset describes it; the image itself has not been opened yet.

    Attributes
    ----------
    path : Path
        The 4D image (``*_bold.nii.gz``), or the table of parcel time series (``*_timeseries.tsv``).
    kind : {"volume", "parcels"}
    entities : dict of str
        BIDS entities of the name, by their long names; a run keeps its zero padding.
    repetition_time : float or None
        Seconds from one volume to the next according to the sidecar; None where it says nothing.
    events, mask : Path or None
        The events table and the brain mask that apply to this run.
    """

    path: Path
    kind: Literal["volume", "parcels"]
    entities: Mapping[str, str]
    repetition_time: float | None
    events: Path | None
    mask: Path | None

    @property
    def key(self) -> str:
        """Name of the run: ``sub-01_task-movie_run-02``."""
        return join_entities({name: self.entities[name] for name in _RUN_ENTITIES if name in self.entities})

    @property
    def subject(self) -> str:
        """Label of the subject, without ``sub-``."""
        return self.entities["subject"]


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
        Folders searched for brain masks; by default the dataset itself and its own ``derivatives`` folder.

    Raises
    ------
    InputNotFoundError, NotBIDSError, NoMatchError, MetadataError, ConfigError
        No such folder; no ``dataset_description.json``; nothing matches; two files for one run; bad filter file.
    """
    import bids

    _check_is_dataset(bids_dir)
    for folder in derivatives:
        if not folder.is_dir():
            raise InputNotFoundError(f"{folder}: no such folder (named with --derivatives).")
    description = read_json(bids_dir / "dataset_description.json")
    is_derivative = description.get("DatasetType") == "derivative"
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
    masks = _find_masks(bids_dir, derivatives)
    events = [(file.path, _entities(file)) for file in layout.get(suffix="events", extension=".tsv")]
    recordings = [_recording(file, masks, events) for file in chosen]
    _check_one_file_a_run(recordings)
    return sorted(recordings, key=lambda recording: recording.key)


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


def strip_prefix(label: str, prefix: str) -> str:
    """Take ``sub-`` (or ``run-``, ...) off a label that was given with it."""
    return label.removeprefix(f"{prefix}-")


def _check_is_dataset(bids_dir: Path) -> None:
    if not bids_dir.exists():
        raise InputNotFoundError(f"{bids_dir}: no such folder.", "Check the path of the BIDS dataset.")
    if not bids_dir.is_dir():
        raise InputNotFoundError(f"{bids_dir}: is a file; expected the root folder of a BIDS dataset.")
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
    for query in (
        {"suffix": "bold", "extension": [".nii.gz", ".nii"]},
        {"suffix": "timeseries", "extension": ".tsv"},
    ):
        found = layout.get(**{**query, **filters})
        # Confounds share the suffix, and are no recordings.
        found = [file for file in found if file.entities.get("desc") != "confounds" and "subject" in file.entities]
        if found:
            return list(found)
    return []


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


def _same_label(name: str, one: str, other: str) -> bool:
    if name in {"run", "echo"} and one.isdecimal() and other.isdecimal():
        return int(one) == int(other)
    return one == other


def matches(entities: Mapping[str, str], name: str, labels: Sequence[str] | None) -> bool:
    """Whether an entity has one of the labels, with or without ``sub-``, ``run-``; without labels any will do."""
    if not labels:
        return True
    have = entities.get(name)
    prefix = _SHORT.get(name, name)
    return have is not None and any(_same_label(name, have, strip_prefix(label, prefix)) for label in labels)


def _labels(files: Iterable[Any], name: str) -> str:
    labels = sorted({_entities(file).get(name, "(none)") for file in files})
    return " ".join(labels[:12]) + (f" ... ({len(labels)} in all)" if len(labels) > 12 else "")


def _find_masks(bids_dir: Path, derivatives: Sequence[Path]) -> list[tuple[Path, dict[str, str]]]:
    from bids.layout import parse_file_entities

    name = "func/*_desc-brain_mask.nii.gz"
    # The dataset may itself be a derivative. Of it, only the subjects' folders are walked: its annex is large.
    found = [path for folder in derivatives or [bids_dir / "derivatives"] for path in folder.glob(f"**/{name}")]
    if not derivatives:
        found += bids_dir.glob(f"sub-*/**/{name}")
    return [
        (path, {k: str(v) for k, v in parse_file_entities(str(path)).items() if k not in {"suffix", "extension"}})
        for path in sorted(found)
    ]


def _best_match(entities: Mapping[str, str], candidates: Sequence[tuple[Path, Mapping[str, str]]]) -> Path | None:
    """Return the most specific file whose entities all apply to the run (BIDS's inheritance principle)."""
    best: tuple[int, str] | None = None
    for path, have in candidates:
        have = {name: value for name, value in have.items() if name not in {"desc", "datatype"}}
        if all(name in entities and _same_label(name, value, entities[name]) for name, value in have.items()):
            best = max(best or (-1, ""), (len(have), str(path)))
    return Path(best[1]) if best else None


def _recording(
    file: Any, masks: Sequence[tuple[Path, Mapping[str, str]]], events: Sequence[tuple[str, Mapping[str, str]]]
) -> Recording:
    entities = _entities(file)
    path = Path(file.path)
    metadata = file.get_metadata()
    repetition_time = metadata.get("RepetitionTime")
    if repetition_time is None and metadata.get("SamplingFrequency"):
        repetition_time = 1 / float(metadata["SamplingFrequency"])
    return Recording(
        path=path,
        kind="volume" if entities_suffix(path) == "bold" else "parcels",
        entities=entities,
        repetition_time=None if repetition_time is None else float(repetition_time),
        events=_best_match(entities, [(Path(path_), have) for path_, have in events]),
        mask=_best_match(entities, masks),
    )


def entities_suffix(path: Path) -> str:
    """Return the suffix of a BIDS name: ``bold`` of ``sub-01_task-x_bold.nii.gz``."""
    return path.name.split(".")[0].rsplit("_", 1)[-1]


def _check_one_file_a_run(recordings: Sequence[Recording]) -> None:
    by_key: dict[str, Recording] = {}
    for recording in recordings:
        other = by_key.setdefault(recording.key, recording)
        if other is not recording:
            raise ImageError(
                f"{recording.key}: two files for one run: {other.path.name} and {recording.path.name}.",
                'Choose one with --bids-filter-file, for example {"bold": {"space": "MNI152NLin2009cAsym"}}.',
            )
