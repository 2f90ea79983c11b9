"""Which recordings of a dataset are asked for, which are left out, and which files are candidates for one run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titan_neuro.data.bids.annex import install_command
from titan_neuro.data.bids.dataset import IGNORE_FILE, DatasetIndex
from titan_neuro.data.bids.filters import RecordingFilter
from titan_neuro.data.bids.kinds import of_one_kind
from titan_neuro.data.bids.names import (
    BidsFile,
    applies_to,
    has_label,
    join_entities,
    list_labels,
    long_name,
    parse_entities,
    printable,
    run_entities,
    unmatched_labels,
    without_echo,
)
from titan_neuro.errors import OF_ONE_RUN, MetadataError, NoMatchError, NotFetchedError, list_names

logger = logging.getLogger(__name__)
# Parts of a complex image that are no magnitude.
_PHASE_PARTS = {"phase", "real", "imag"}
# What scanners write into ImageType of phase and magnitude images.
_PHASE_TYPES, _MAGNITUDE_TYPES = {"P", "PHASE"}, {"M", "MAGNITUDE"}
_MAX_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class SelectedRun:
    """The files of one run that were asked for.

    Attributes
    ----------
    images : tuple of BidsFile
        Candidates for its image (or table); or, where `is_multi_echo`, its echoes.
    is_multi_echo : bool
        Whether the run has several echoes, and no combination of them among its images.
    left_out : tuple of BidsFile
        Echoes that are left out because the run has their combination; files of the run of another kind (`kinds`).
    """

    images: tuple[BidsFile, ...]
    is_multi_echo: bool = False
    left_out: tuple[BidsFile, ...] = ()


def select_runs(
    index: DatasetIndex,
    labels: Mapping[str, Sequence[str] | None],
    filter_: RecordingFilter,
    *,
    exclude: Sequence[str] = (),
    allow_missing: bool,
) -> list[SelectedRun]:
    """Select the runs of a dataset by labels and filter, and leave out what is no recording of its own.

    Parameters
    ----------
    index : DatasetIndex
    labels : mapping
        By long entity: labels that are asked for, with or without their prefix; None: all.
    filter_ : RecordingFilter
    exclude : sequence of str
        Runs to leave out, by their entities.
    allow_missing : bool
        Warn of a label that no run has, instead of refusing it.

    Raises
    ------
    NoMatchError, NotFetchedError
        No run has one of the labels; its subject is a subdataset that is not installed.
    MetadataError
        A selected recording has an invalid name.
    ConfigError, ImageError
        The filter names an unknown entity; see also :meth:`DatasetIndex.recordings`.
    """
    files = index.recordings()
    filter_.require_known(files)
    # With a filter, as the jobs of an array have one, a run that is left out may not be among the files at all.
    files = _leave_out(index, files, exclude, must_match=not filter_.values)
    chosen = [
        file
        for file in files
        if filter_.matches(file) and all(has_label(file.entities, name, wanted) for name, wanted in labels.items())
    ]
    chosen, others = of_one_kind(chosen)
    _require_valid_names(chosen)
    _mention_ignored(index, chosen)
    phases = [file for file in chosen if _is_phase(file, index)]
    if phases:
        logger.warning("Phase images are left out, because models read magnitudes: %s.", _list(phases))
    of_phase = {file.path for file in phases}
    chosen = [file for file in chosen if file.path not in of_phase]
    _require_labels(
        index, files, chosen, {name: wanted for name, wanted in labels.items() if wanted}, filter_, allow_missing
    )
    return _group(chosen, others)


def _leave_out(
    index: DatasetIndex, files: Sequence[BidsFile], exclude: Sequence[str], *, must_match: bool
) -> list[BidsFile]:
    left_out: set[Path] = set()
    for name in exclude:
        entities = parse_entities(name)
        matching = {file.path for file in files if applies_to(entities, file.entities)}
        if not entities or (must_match and not matching):
            raise NoMatchError(
                f"{index.bids_dir}: no run matches --exclude {name}.",
                "Name runs by their entities, as --dry-run lists them: sub-01_task-movie_run-2, or run-2 for all.",
            )
        left_out |= matching
    return [file for file in files if file.path not in left_out]


def _group(files: Sequence[BidsFile], others: Sequence[BidsFile]) -> list[SelectedRun]:
    by_run, others_by_run = _by_run(files), _by_run(others)
    if lost := [file for key, each in others_by_run.items() if key not in by_run for file in each]:
        logger.warning(
            "These runs are left out, because they have no %s, as the others have: %s. A filter file chooses another "
            'kind: {"bold": {"extension": "%s"}}.',
            *(f"*{files[0].suffix}{files[0].extension}", _list(lost), lost[0].extension),
        )
    runs = []
    for key, images in by_run.items():
        left_out = others_by_run.get(key, [])
        combined = [image for image in images if "echo" not in image.entities]
        echoes = [image for image in images if "echo" in image.entities]
        if combined:
            runs.append(SelectedRun(images=tuple(combined), left_out=(*echoes, *left_out)))
        else:
            is_multi_echo = len({image.entities["echo"] for image in echoes}) > 1
            runs.append(SelectedRun(images=tuple(echoes), is_multi_echo=is_multi_echo, left_out=tuple(left_out)))
    return runs


def _by_run(files: Sequence[BidsFile]) -> dict[str, list[BidsFile]]:
    by_run: dict[str, list[BidsFile]] = {}
    for file in files:
        by_run.setdefault(join_entities(run_entities(without_echo(file.entities))), []).append(file)
    return by_run


def _is_phase(file: BidsFile, index: DatasetIndex) -> bool:
    part = file.entities.get("part")
    if part is not None or file.suffix != "bold":
        return part in _PHASE_PARTS
    try:
        sidecar: dict[str, Any] = index.sidecar(file)[0]
    except OF_ONE_RUN:
        # A broken sidecar is said of its run, and stops no other.
        return False
    image_type = sidecar.get("ImageType")
    types = {str(each).upper() for each in image_type} if isinstance(image_type, list) else set()
    return sidecar.get("Units") == "rad" or bool(types & _PHASE_TYPES and not types & _MAGNITUDE_TYPES)


def _require_valid_names(files: Sequence[BidsFile]) -> None:
    invalid = [file for file in files if file.problem]
    if invalid:
        more = f" ({len(invalid) - 1} more names are not valid.)" if len(invalid) > 1 else ""
        path, problem = printable(str(invalid[0].path)), invalid[0].problem
        raise MetadataError(
            f"{path}: is no valid recording: {problem}.{more}",
            "Rename or replace it (labels consist of letters and digits); or leave it out with --bids-filter-file, or "
            f"in a raw dataset with {IGNORE_FILE}.",
        )


def _mention_ignored(index: DatasetIndex, chosen: Sequence[BidsFile]) -> None:
    if index.is_derivative:
        named = {file.path for file in index.ignored}
        ignored = [file for file in chosen if file.path in named]
        what = "is not applied to a derivative dataset, whose own files it names; it names"
    else:
        ignored = [file for file in index.ignored if file.suffix in {"bold", "timeseries", "events"}]
        what = "hides"
    if ignored:
        logger.warning("%s %s %s.", index.bids_dir / IGNORE_FILE, what, _list(ignored))


def _require_labels(
    index: DatasetIndex,
    files: Sequence[BidsFile],
    chosen: Sequence[BidsFile],
    labels: Mapping[str, Sequence[str]],
    filter_: RecordingFilter,
    allow_missing: bool,
) -> None:
    """Refuse each label that no chosen run has, or warn of it."""
    unmatched = unmatched_labels([file.entities for file in chosen], labels)
    unmatched += [(long_name(name), label) for name, label in filter_.unmatched(chosen)]
    query = ", ".join(f"{name} {label}" for name, label in unmatched)
    subjects = [label for name, label in unmatched if name == "subject"]
    _require_installed(index, subjects, is_warned=not labels.get("subject"))
    if chosen and not query:
        return
    if not chosen:
        query = ", ".join(f"{name} {' '.join(wanted)}" for name, wanted in labels.items())
        query = " and ".join(part for part in (query, filter_.source and f"the filter {filter_.source}") if part)
    message = f"{index.bids_dir}: no run matches {query or 'what was asked for'}."
    if chosen and allow_missing:
        logger.warning("%s", message)
        return
    names = [file.entities for file in files]
    available = "; ".join(f"{entity}: {list_labels(names, entity)}" for entity in ("subject", "task", "run"))
    instead = " --allow-missing makes this a warning." if chosen else ""
    raise NoMatchError(message, f"The dataset has: {available}.{instead}")


def _require_installed(index: DatasetIndex, unmatched: Iterable[str], *, is_warned: bool) -> None:
    """Refuse a subject that is a subdataset that is not installed; warn of those that were not asked for by name."""
    uninstalled = index.uninstalled_subjects()
    for path in uninstalled:
        folder = path.relative_to(index.bids_dir).parts[0]
        if folder.removeprefix("sub-") in {label.removeprefix("sub-") for label in unmatched}:
            raise NotFetchedError(
                f"{path}: is a subdataset that is not installed.",
                f"Install it, and run the same command again: `{install_command(path)}`.",
            )
    if uninstalled and is_warned:
        logger.warning(
            "%d subdatasets are not installed, and left out: %s. To install one: `%s`.",
            len(uninstalled),
            ", ".join(path.name for path in uninstalled[:_MAX_LISTED]),
            install_command(uninstalled[0]),
        )


def _list(files: Sequence[BidsFile]) -> str:
    return list_names([printable(file.path.name) for file in files], _MAX_LISTED)
