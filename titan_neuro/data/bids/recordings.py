"""The recordings of a BIDS dataset: each run's image or table, repetition time, events, brain mask and derivatives."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.choice import choose_image, choose_mask, most_specific
from titan_neuro.data.bids.continuous import ContinuousFile, find_continuous
from titan_neuro.data.bids.dataset import DatasetIndex
from titan_neuro.data.bids.derivatives import DerivativeFiles
from titan_neuro.data.bids.filters import RecordingFilter, read_filter
from titan_neuro.data.bids.kinds import kind_of, of_one_kind
from titan_neuro.data.bids.names import (
    STANDARD_SPACES,
    BidsFile,
    join_entities,
    long_entities,
    printable,
    run_entities,
    short_entities,
    sidecar_path,
    without_echo,
)
from titan_neuro.data.bids.selection import SelectedRun, select_runs
from titan_neuro.errors import OF_ONE_RUN, InputNotFoundError, MetadataError, NoMatchError, TitanNeuroError, list_names
from titan_neuro.files import read_json

logger = logging.getLogger(__name__)
_MAX_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run of one subject as the datasets describe it; the image itself has not been opened yet.

    Attributes
    ----------
    path : Path
        The 4D image (``*_bold.nii.gz``); the time series on surfaces (``*_bold.dtseries.nii``; of GIFTI files the first
        of `hemispheres`); or the table of parcel time series (``*_timeseries.tsv``, ``*_timeseries.ptseries.nii``).
    kind : {"volume", "surface", "parcels"}
    route : {"parcels", "surface", "native", "preprocessed", "transforms"}
        How it is prepared. ``parcels``: a table is read. ``surface``: a time series on surfaces is read. ``native``: an
        image is used as recorded. ``preprocessed``: an image that fMRIPrep brought to a standard space is read.
        ``transforms``: an image as recorded is resampled to a standard space by fMRIPrep's transforms.
    entities : dict of str
        BIDS entities of the name, by their long names; run numbers keep their zero padding.
    sidecar : mapping
        The sidecar's content without values that are objects, unchecked.
    events, mask, confounds : Path or None
        The events table, the brain mask and the confounds table that apply to this run.
    transforms : mapping of str to Path
        The files of the route ``transforms``, as :meth:`DerivativeFiles.transforms` returns them.
    continuous : tuple of ContinuousFile
        The tables of stimuli, ratings and physiology that apply to this run.
    hemispheres : mapping of str to Path
        The GIFTI files (``*_hemi-L_*_bold.func.gii``) of a recording on surfaces, by ``L`` and ``R``.
    missing_sidecars : tuple of Path
        Sidecars that the run inherits from and that are not on this machine: `sidecar` lacks their content.
    uninstalled : tuple of Path
        Subdatasets that are not installed, and that may hold the derivatives of this run, which has none otherwise.
    notes : tuple of str
        What was left out, and what of the choice of files is not usual.
    surrogate : {"white", "phase"}, optional
        What kind of noise the file holds instead of the recording, in a null control.
    failure : TitanNeuroError or None
        Why the run can't be prepared, where that is known already: a broken sidecar, two files for one purpose. The
        other attributes are then incomplete.
    """

    path: Path
    kind: Literal["volume", "surface", "parcels"]
    route: Literal["parcels", "surface", "native", "preprocessed", "transforms"]
    entities: Mapping[str, str]
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    events: Path | None
    mask: Path | None
    confounds: Path | None = None
    transforms: Mapping[str, Path] = field(default_factory=dict)
    continuous: tuple[ContinuousFile, ...] = ()
    hemispheres: Mapping[str, Path] = field(default_factory=dict)
    missing_sidecars: tuple[Path, ...] = ()
    uninstalled: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    surrogate: Literal["white", "phase"] | None = None
    failure: TitanNeuroError | None = None

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
        others = {f"hemi-{side}": path for side, path in self.hemispheres.items() if path != self.path}
        return {**{role: path for role, path in by_role.items() if path is not None}, **self.transforms, **others}


def find_recordings(
    bids_dir: Path,
    *,
    subjects: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    filter_file: Path | None = None,
    derivatives: Sequence[Path] = (),
    resolution_mm: float | None = None,
    allow_missing: bool = False,
) -> list[Recording]:
    """List the recordings of a dataset, sorted by name.

    Images (``*_bold.nii.gz``) are listed where the dataset has any, else parcel time series, else surfaces (`kinds`).
    What is left out (phase images, what ``.bidsignore`` hides) is logged, or is among the recording's notes.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset (the folder that holds ``dataset_description.json``).
    subjects, tasks, runs : sequence of str, optional
        Labels to select, with or without their ``sub-``, ``task-``, ``run-``; run ``1`` is run ``01``.
    exclude : sequence of str
        Runs to leave out, by their entities: ``sub-01_task-movie_run-2``, or ``run-2`` for run 2 of everybody.
    filter_file : Path, optional
        See `read_filter`. In a raw dataset space, resolution and desc choose among the preprocessed images.
    derivatives : sequence of Path
        Folders searched for preprocessed images, brain masks, confounds and transforms; by default the dataset's own
        ``derivatives`` folder. A raw run for which named folders hold nothing is an error.
    resolution_mm : float, optional
        Of preprocessed images in several resolutions, that one is taken.
    allow_missing : bool
        Warn of a label that no run has, and leave out runs for which the named derivatives hold nothing.

    Raises
    ------
    InputNotFoundError, NotBIDSError, NotFetchedError
        See `DatasetIndex`; a file of a run can't be opened.
    NoMatchError, ConfigError
        No recording matches a label or the filter; nothing is derived from a run; the filter file can't be used.
    ImageError, MetadataError
        A name is broken; one file serves two runs; all images are band-pass filtered. Where it is true of all runs
        (else it is the recording's `failure`): two candidates for one thing, a broken sidecar, one of several echoes.
    """
    index = DatasetIndex(bids_dir)
    given = read_filter(filter_file)
    labels = {"subject": subjects, "task": tasks, "run": runs}
    of_images = given if index.is_derivative else given.of_raw()
    selected = select_runs(index, labels, of_images, exclude=exclude, allow_missing=allow_missing)
    sources = _open_sources(index, derivatives, given.of_derivatives(), resolution_mm)
    recordings, failed = _complete_all(selected, sources)
    if not index.is_derivative:
        recordings = _require_derivatives(recordings, sources.derivatives, derivatives, allow_missing=allow_missing)
    _require_one_kind(recordings)
    _require_own_files(recordings)
    _warn_of_other_spaces(recordings)
    return sorted([*recordings, *failed], key=lambda recording: recording.key)


def _complete_all(selected: Sequence[SelectedRun], sources: _Sources) -> tuple[list[Recording], list[Recording]]:
    """Complete the runs, and return those that can be prepared and those that can't; raise if none can."""
    found = [_complete(run, sources) for run in selected]
    failed = [recording for recording in found if recording.failure is not None]
    if len(failed) == len(found) and failed[0].failure is not None:
        raise failed[0].failure
    return [recording for recording in found if recording.failure is None], failed


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """Where the files of runs are found, and what chooses among them."""

    index: DatasetIndex
    events: Mapping[str | None, Sequence[BidsFile]]
    continuous: Mapping[Path, Sequence[BidsFile]]
    derivatives: DerivativeFiles
    choice: RecordingFilter
    resolution_mm: float | None


def _open_sources(
    index: DatasetIndex, named: Sequence[Path], choice: RecordingFilter, resolution_mm: float | None
) -> _Sources:
    for folder in named:
        if not folder.is_dir():
            raise InputNotFoundError(f"{folder}: no such folder (named with --derivatives).")
    folders = named or [index.bids_dir / "derivatives"]
    return _Sources(
        index=index,
        events=_by_subject(index.events()),
        continuous=index.continuous(),
        derivatives=DerivativeFiles([*folders, *([index.bids_dir] if index.is_derivative else [])]),
        choice=choice,
        resolution_mm=resolution_mm,
    )


def _by_subject(files: Sequence[BidsFile]) -> dict[str | None, list[BidsFile]]:
    by_subject: dict[str | None, list[BidsFile]] = {}
    for file in files:
        by_subject.setdefault(file.entities.get("sub"), []).append(file)
    return by_subject


def _complete(run: SelectedRun, sources: _Sources) -> Recording:
    """Find all files of a run; what is wrong with them is said of this run alone."""
    try:
        return _add_derivatives(_recording(run, sources), run, sources)
    except OF_ONE_RUN as error:
        file = run.images[0]
        recording = _named(file, without_echo(file.entities), is_derivative=sources.index.is_derivative)
        return replace(recording, failure=error)


def _named(file: BidsFile, entities: Mapping[str, str], *, is_derivative: bool) -> Recording:
    """What the name of a run's file says of it; `entities` are those of the run."""
    kind = kind_of(file)
    return Recording(
        path=file.path,
        kind=kind,
        route=kind if kind != "volume" else "preprocessed" if is_derivative else "native",
        entities=long_entities({name: label for name, label in entities.items() if name != "hemi"}),
        events=None,
        mask=None,
        hemispheres=file.hemispheres,
    )


def _recording(run: SelectedRun, sources: _Sources) -> Recording:
    file = run.images[0] if run.is_multi_echo else choose_image(run.images, sources.resolution_mm)
    sidecar, missing = sources.index.sidecar(file)
    entities = without_echo(file.entities) if run.is_multi_echo else file.entities
    others = [other.path.name for other in (*run.images, *run.left_out) if other is not file and not run.is_multi_echo]
    events = [*sources.events.get(None, ()), *sources.events.get(file.entities["sub"], ())]
    return replace(
        _named(file, entities, is_derivative=sources.index.is_derivative),
        sidecar=sidecar,
        missing_sidecars=tuple(missing),
        events=most_specific(entities, events, file.path),
        continuous=find_continuous(file, sources.continuous),
        notes=tuple(f"left out: {name}" for name in others),
    )


def _add_derivatives(recording: Recording, run: SelectedRun, sources: _Sources) -> Recording:
    """Add what the derivatives have for a run: its preprocessed image or transforms, its mask and its confounds."""
    derivatives = sources.derivatives
    if recording.route == "native":
        recording = _standard_route(recording, run, sources)
    mask = None
    if recording.route in {"native", "preprocessed"}:
        masks = derivatives.brain_masks(recording.subject)
        mask = choose_mask(short_entities(recording.entities), masks, recording.path)
    return replace(recording, mask=mask, confounds=derivatives.confounds(recording.entities))


def _standard_route(recording: Recording, run: SelectedRun, sources: _Sources) -> Recording:
    """Replace a raw image by its preprocessed one, or add the transforms to a standard space, where there are any.

    An image in a standard space is preferred to transforms, and transforms to an image in another space.
    """
    derivatives, entities = sources.derivatives, recording.entities
    images = [image for image in derivatives.preprocessed_images(entities) if sources.choice.matches(image)]
    # A filter that the raw image itself does not fit asks for one of the preprocessed images.
    in_standard_space = any(image.entities.get("space") in STANDARD_SPACES for image in images)
    is_chosen = not sources.choice.matches(run.images[0])
    if images and (is_chosen or in_standard_space or not derivatives.has_standard_transform(entities)):
        image = choose_image(of_one_kind(images)[0], sources.resolution_mm)
        return _preprocessed(recording, image, [other for other in images if other is not image])
    if is_chosen:
        raise NoMatchError(
            f"{recording.key}: no preprocessed image matches the filter {sources.choice.source}.",
            f"The derivatives have {derivatives.describe(recording.subject)}.",
        )
    if run.is_multi_echo:
        raise _uncombined(run)
    if "echo" in entities and derivatives.preprocessed_images(without_echo(entities)):
        raise MetadataError(
            f"{recording.path}: is one of several echoes of a run; the derivatives contain their combination.",
            "Leave the echo out of the filter: then the combination is used.",
        )
    if transforms := derivatives.transforms(entities):
        return replace(recording, route="transforms", transforms=transforms)
    return recording


def _preprocessed(recording: Recording, image: BidsFile, others: Sequence[BidsFile]) -> Recording:
    if image.problem:
        raise MetadataError(f"{image.path}: is no valid recording: {image.problem}.", "Fetch or rename the file.")
    of_run = run_entities(image.entities)
    added = {name: label for name, label in image.entities.items() if name not in {*of_run, "desc", "hemi"}}
    # The preprocessed image's own sidecar says what was done to it; the rest of the raw one's still applies.
    own_sidecar = sidecar_path(image.path)
    changed = read_json(own_sidecar) if own_sidecar.exists() and not is_missing(own_sidecar) else {}
    return replace(
        recording,
        path=image.path,
        kind=kind_of(image),
        route="preprocessed" if kind_of(image) == "volume" else "surface",
        hemispheres=image.hemispheres,
        entities={**recording.entities, **long_entities(added)},
        sidecar={**recording.sidecar, **changed},
        notes=(*recording.notes, *(f"left out: {other.path.name}" for other in others)),
    )


def _uncombined(run: SelectedRun) -> MetadataError:
    echo = run.images[len(run.images) // 2].entities["echo"]
    names = ", ".join(image.path.name for image in run.images)
    return MetadataError(
        f"{run.images[0].path.parent}: {len(run.images)} echoes of one run are not {len(run.images)} runs: {names}.",
        "Give their combination with --derivatives (fMRIPrep's preprocessed images, or tedana's under their names), or "
        f'choose one echo with --bids-filter-file: {{"bold": {{"echo": {echo}}}}}.',
    )


def _require_derivatives(
    recordings: Sequence[Recording], derivatives: DerivativeFiles, named: Sequence[Path], *, allow_missing: bool
) -> list[Recording]:
    """Refuse raw runs for which the named derivatives hold nothing; say of the others that they are not registered."""
    unregistered = [recording for recording in recordings if recording.route == "native"]
    if derivatives.uninstalled:
        uninstalled = tuple(derivatives.uninstalled)
        return [replace(each, uninstalled=uninstalled) if each.route == "native" else each for each in recordings]
    without = [each for each in unregistered if each.mask is None and each.confounds is None]
    if named and without:
        message = f"{', '.join(map(str, named))} (--derivatives): nothing there belongs to {_list(without)}."
        if not allow_missing or len(without) == len(recordings):
            raise NoMatchError(
                message,
                f"There is {derivatives.describe(without[0].subject)}. Name other derivatives, or leave these runs out "
                "(--allow-missing leaves out what has no derivatives).",
            )
        logger.warning("%s They are left out.", message)
        left_out = {each.key for each in without}
        return [each for each in recordings if each.key not in left_out]
    if unregistered and derivatives.have_recordings:
        logger.warning(
            "The derivatives hold no preprocessed image and no transforms of %s: the raw image is used, which is not "
            "registered. They hold %s.",
            _list(unregistered),
            derivatives.describe(unregistered[0].subject),
        )
    return list(recordings)


def _list(recordings: Sequence[Recording]) -> str:
    return list_names([recording.key for recording in recordings], _MAX_LISTED, of="runs")


def _warn_of_other_spaces(recordings: Sequence[Recording]) -> None:
    by_space: dict[str | None, list[Recording]] = {}
    for recording in recordings:
        if recording.route == "preprocessed":
            by_space.setdefault(recording.entities.get("space"), []).append(recording)
    for space, of_space in by_space.items():
        if space not in STANDARD_SPACES:
            logger.warning(
                "%s: the preprocessed images are in %s; none is in %s. Runs of one study need one grid%s.",
                _list(of_space),
                f"the space {space}" if space else "the space of the recording (their names have no space-)",
                " or ".join(STANDARD_SPACES),
                ", and subjects do not share this space" if space in (None, "T1w") else "",
            )


def _require_one_kind(recordings: Sequence[Recording]) -> None:
    """Refuse raw runs of which some have volumes, and others only surfaces among the derivatives."""
    first = recordings[0]
    for recording in recordings:
        if recording.kind != first.kind:
            raise MetadataError(
                f"{first.path.name} is a recording of kind {first.kind}, {recording.path.name} of kind "
                f"{recording.kind}.",
                "Choose one kind for all runs with --bids-filter-file, for example "
                f'{{"bold": {{"extension": "{"".join(recording.path.suffixes[-2:])}"}}}}, or leave runs out.',
            )


def _require_own_files(recordings: Sequence[Recording]) -> None:
    """Refuse an image of two runs, and files that can't be opened safely, whatever reads them.

    Reading a named pipe would wait for ever, and libraries for compressed files crash at names that are not UTF-8.
    """
    by_path: dict[Path, Recording] = {}
    for recording in recordings:
        other = by_path.setdefault(recording.path, recording)
        if other is not recording:
            raise MetadataError(
                f"{recording.path}: belongs to two runs, {other.key} and {recording.key}.",
                "Leave one of them out with --bids-filter-file.",
            )
        for role, path in recording.files.items():
            if printable(str(path)) != str(path):
                raise InputNotFoundError(
                    f"{printable(str(path))}: the {role.replace('_', ' ')} of {recording.key} has a path that is not "
                    "UTF-8.",
                    "Rename the file or folder.",
                )
            if not path.is_file() and not is_missing(path):
                what = "no file" if path.exists() else "a link to a file that is not there"
                raise InputNotFoundError(
                    f"{path}: the {role.replace('_', ' ')} of {recording.key} is {what}.", "Replace or remove it."
                )
