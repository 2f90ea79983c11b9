"""The recordings of a BIDS dataset: each run's image or table, repetition time, events, brain mask and derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.continuous import ContinuousFile, find_continuous
from titan_neuro.data.bids.dataset import DatasetIndex, IndexedFile
from titan_neuro.data.bids.derivatives import DerivativeFiles
from titan_neuro.data.bids.names import (
    STANDARD_SPACES,
    applies_to,
    has_label,
    join_entities,
    list_labels,
    long_entities,
    parse_name,
    run_entities,
    sidecar_path,
)
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError, NoMatchError
from titan_neuro.files import read_json


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run of one subject as the datasets describe it; the image itself has not been opened yet.

    Attributes
    ----------
    path : Path
        The 4D image (``*_bold.nii.gz``), or the table of parcel time series (``*_timeseries.tsv``).
    kind : {"volume", "parcels"}
    route : {"parcels", "native", "preprocessed", "transforms"}
        How it is prepared. ``parcels``: a table is read. ``native``: an image is used as recorded. ``preprocessed``: an
        image that fMRIPrep brought to a standard space is read. ``transforms``: an image as recorded is resampled to a
        standard space by fMRIPrep's transforms.
    entities : dict of str
        BIDS entities of the name, by their long names; run numbers keep their zero padding.
    repetition_time : float or None
        Seconds from one volume to the next according to the sidecar; None where the sidecar does not contain it.
    sidecar : mapping
        The sidecar's content, unchecked.
    events, mask, confounds : Path or None
        The events table, the brain mask and the confounds table that apply to this run.
    transforms : mapping of str to Path
        The files of the route ``transforms``, as :meth:`DerivativeFiles.transforms` returns them.
    continuous : tuple of ContinuousFile
        The tables of stimuli, ratings and physiology that apply to this run.
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
    continuous: tuple[ContinuousFile, ...] = ()

    @property
    def key(self) -> str:
        """Name of the run: ``sub-01_task-movie_run-02``."""
        return join_entities(self.run_entities)

    @property
    def run_entities(self) -> dict[str, str]:
        """The entities that distinguish runs, by their long names: not space, resolution or description."""
        return run_entities(self.entities)

    @property
    def subject(self) -> str:
        """Label of the subject, without ``sub-``."""
        return self.entities["subject"]

    @property
    def files(self) -> dict[str, Path]:
        """Every file that the run may be prepared from, by its role."""
        by_role = {"recording": self.path, "mask": self.mask, "events": self.events, "confounds": self.confounds}
        for table in self.continuous:
            by_role[table.name] = table.path
            by_role |= {f"{table.name} sidecar {number}": path for number, path in enumerate(table.sidecars, start=1)}
        return {**{role: path for role, path in by_role.items() if path is not None}, **self.transforms}


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

    Images (``*_bold.nii.gz``) are listed where the dataset has any, else parcel time series (``*_timeseries.tsv``).

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset (the folder that holds ``dataset_description.json``).
    subjects, tasks, runs : sequence of str, optional
        Labels to select, with or without their ``sub-``, ``task-``, ``run-``; run ``1`` is run ``01``.
    filter_file : Path, optional
        JSON in fMRIPrep's form, ``{"bold": {"session": "02", ...}}``: entities that a file must have.
    derivatives : sequence of Path
        Folders searched for preprocessed images, brain masks, confounds and transforms; by default the dataset's own
        ``derivatives`` folder.

    Raises
    ------
    InputNotFoundError, NotBIDSError, NotFetchedError
        No such folder; no ``dataset_description.json``; the content of that file is not on this machine.
    NoMatchError
        No recording matches the labels and the filter.
    ConfigError
        The filter file can't be used.
    ImageError, MetadataError
        Two files are candidates for one run, or for one of its parts; a sidecar is broken; all images are band-pass
        filtered.
    """
    index = DatasetIndex(bids_dir)
    for folder in derivatives:
        if not folder.is_dir():
            raise InputNotFoundError(f"{folder}: no such folder (named with --derivatives).")
    selected = _select(bids_dir, index.recordings(filter_file), {"subject": subjects, "task": tasks, "run": runs})
    derivative_folders = derivatives or [bids_dir / "derivatives"]
    files = DerivativeFiles([*derivative_folders, *([bids_dir] if index.is_derivative else [])])
    events, continuous = index.events(), index.continuous()
    recordings = _in_standard_space([_recording(file, index, events, continuous) for file in selected])
    _require_one_file_per_run(recordings)
    completed = (_add_derivatives(recording, files) for recording in recordings)
    return sorted(completed, key=lambda recording: recording.key)


def _select(
    bids_dir: Path, files: Sequence[IndexedFile], wanted: Mapping[str, Sequence[str] | None]
) -> list[IndexedFile]:
    selected = [
        file for file in files if all(has_label(file.entities, entity, labels) for entity, labels in wanted.items())
    ]
    if not selected:
        query = ", ".join(f"{entity} {' '.join(labels)}" for entity, labels in wanted.items() if labels)
        names = [file.entities for file in files]
        available = "; ".join(f"{entity}: {list_labels(names, entity)}" for entity in wanted)
        raise NoMatchError(f"{bids_dir}: no run matches {query}.", f"The dataset has: {available}.")
    return selected


def _recording(
    file: IndexedFile,
    index: DatasetIndex,
    events: Sequence[IndexedFile],
    continuous: Mapping[Path, Sequence[Path]],
) -> Recording:
    sidecar = index.sidecar(file)
    is_volume = parse_name(file.path).suffix == "bold"
    return Recording(
        path=file.path,
        kind="volume" if is_volume else "parcels",
        route="parcels" if not is_volume else "preprocessed" if index.is_derivative else "native",
        entities=file.entities,
        repetition_time=_sidecar_repetition_time(file.path, sidecar),
        sidecar=sidecar,
        events=_most_specific(file.entities, [(events.path, events.entities) for events in events], file.path),
        mask=None,
        continuous=find_continuous(file.path, continuous),
    )


def _most_specific(
    run: Mapping[str, str], candidates: Sequence[tuple[Path, Mapping[str, str]]], image: Path
) -> Path | None:
    """Return the candidate that applies to the run (BIDS's inheritance principle) with the most entities."""
    n_entities: dict[Path, int] = {}
    for path, labels in candidates:
        entities = {name: label for name, label in labels.items() if name != "desc"}
        if applies_to(entities, run):
            n_entities[path] = len(entities)
    most = max(n_entities.values(), default=0)
    best = [path for path, count in n_entities.items() if count == most]
    # Several programs may have made the same thing: the file of the program that made the image is preferred.
    best = [path for path in best if path.parent == image.parent] or best
    if len(best) > 1:
        raise MetadataError(
            f"{image}: two files apply equally well: {best[0]} and {best[1]}.",
            "Name the one to use with --derivatives.",
        )
    return best[0] if best else None


def _sidecar_repetition_time(path: Path, sidecar: Mapping[str, Any]) -> float | None:
    repetition_time, frequency = sidecar.get("RepetitionTime"), sidecar.get("SamplingFrequency")
    try:
        # Some programs write the word "TR" instead of a frequency.
        if repetition_time is None and isinstance(frequency, int | float) and frequency:
            return 1 / float(frequency)
        return None if repetition_time is None else float(repetition_time)
    except (TypeError, ValueError) as error:
        raise MetadataError(
            f"{path}: expected a RepetitionTime in seconds in its sidecar, found {repetition_time!r}.",
            "Correct the sidecar.",
        ) from error


def _in_standard_space(recordings: Sequence[Recording]) -> list[Recording]:
    """Of a run that a derivative dataset has in several spaces, keep the preprocessed image in the standard space."""
    by_run: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_run.setdefault(recording.key, []).append(recording)
    chosen = []
    for files in by_run.values():
        preprocessed = [file for file in files if file.entities.get("desc") == "preproc"]
        by_space = ([file for file in preprocessed if file.entities.get("space") == space] for space in STANDARD_SPACES)
        chosen += files if len(files) == 1 else next(filter(None, by_space), files)
    return chosen


def _require_one_file_per_run(recordings: Sequence[Recording]) -> None:
    by_key: dict[str, Recording] = {}
    for recording in recordings:
        other = by_key.setdefault(recording.key, recording)
        if other is not recording:
            raise ImageError(
                f"{recording.key}: two files for one run: {other.path.name} and {recording.path.name}.",
                'Choose one with --bids-filter-file, for example {"bold": {"space": "MNI152NLin2009cAsym"}}.',
            )


def _add_derivatives(recording: Recording, derivatives: DerivativeFiles) -> Recording:
    """Add what the derivatives have for a run: its preprocessed image or transforms, its mask and its confounds."""
    run = recording.entities
    if recording.route == "native":
        recording = _standard_route(recording, derivatives)
    mask = None
    if recording.route in {"native", "preprocessed"}:
        masks = [(file.path, file.entities) for file in derivatives.brain_masks()]
        mask = _most_specific(recording.entities, masks, recording.path)
    return replace(recording, mask=mask, confounds=derivatives.confounds(run))


def _standard_route(recording: Recording, derivatives: DerivativeFiles) -> Recording:
    """Replace a raw image by its preprocessed one, or add the transforms to a standard space, where there are any."""
    run = recording.entities
    preprocessed = derivatives.preprocessed_image(run)
    if preprocessed is not None:
        of_run = run_entities(preprocessed.entities)
        others = {name: label for name, label in preprocessed.entities.items() if name not in {*of_run, "desc"}}
        # The preprocessed image's own sidecar says what was done to it; the rest of the raw one's still applies.
        own_sidecar = sidecar_path(preprocessed.path)
        changed = read_json(own_sidecar) if own_sidecar.is_file() and not is_missing(own_sidecar) else {}
        return replace(
            recording,
            path=preprocessed.path,
            route="preprocessed",
            entities={**run, **long_entities(others)},
            sidecar={**recording.sidecar, **changed},
        )
    if transforms := derivatives.transforms(run):
        return replace(recording, route="transforms", transforms=transforms)
    _refuse_single_echo(recording, derivatives)
    return recording


def _refuse_single_echo(recording: Recording, derivatives: DerivativeFiles) -> None:
    """Refuse one echo (or part) of a run whose combination is among the derivatives: it is no run of its own."""
    combined = {name: label for name, label in recording.entities.items() if name not in {"echo", "part"}}
    if len(combined) == len(recording.entities):
        return
    if derivatives.preprocessed_image(combined) or derivatives.transforms(combined):
        raise MetadataError(
            f"{recording.path}: is one of several echoes (or parts) of a run; the derivatives contain their "
            "combination.",
            "Name that derivative dataset as BIDS_DIR.",
        )
