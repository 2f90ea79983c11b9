"""Runs that can't be prepared: the others are, and each later stage says which are missing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from titan_neuro.data.bids.names import parse_entities
from titan_neuro.errors import MetadataError, TitanNeuroError
from titan_neuro.files import file_lock, read_json, write_json, writing_to

if TYPE_CHECKING:
    from titan_neuro.study.output import OutputFolder
    from titan_neuro.study.selection import Selection

logger = logging.getLogger(__name__)


def failures_in_one(failures: Mapping[str, TitanNeuroError], n_runs: int) -> TitanNeuroError:
    """Return one error for all runs that can't be prepared: of the class, and so the exit code, of the first.

    Parameters
    ----------
    failures : mapping of str to TitanNeuroError
        By the run's key.
    n_runs : int
        How many runs were to be prepared.
    """
    first = next(iter(failures.values()))
    if n_runs == 1:
        return first
    reasons = [f"  {key}: {error.message}\n    {error.hint}".rstrip() for key, error in failures.items()]
    return type(first)(
        f"{len(failures)} of {n_runs} runs can't be prepared; the other {n_runs - len(failures)} are prepared.\n"
        + "\n".join(reasons),
        "Correct these and run the same command again, which prepares only what is missing; or leave them out: "
        f"--exclude {' '.join(failures)}",
    )


def record_failures(output: OutputFolder, attempted: Sequence[str], failures: Mapping[str, TitanNeuroError]) -> None:
    """Record why runs can't be prepared, for the stages that follow; runs that are prepared are removed from there.

    Parameters
    ----------
    output : OutputFolder
    attempted : sequence of str
        Keys of all runs that were to be prepared: several jobs may prepare other runs at the same time.
    failures : mapping of str to TitanNeuroError
        By the run's key.
    """
    _update(output, set(attempted), {key: error.message for key, error in failures.items()})


def forget_failures(output: OutputFolder, selection: Selection) -> None:
    """Remove runs from the record that are now left out on purpose (``--exclude``)."""
    excluded = {key for key in recorded_failures(output) if selection.excludes(parse_entities(key))}
    if excluded:
        _update(output, excluded, {})


def warn_of_failures(output: OutputFolder, prepared: Collection[str]) -> None:
    """Say which runs are missing, or outdated, because they could not be prepared.

    Parameters
    ----------
    output : OutputFolder
    prepared : collection of str
        Keys of the runs that lie in the output folder.
    """
    failures = recorded_failures(output)
    lines = [
        f"  {key}{' (an earlier preparation of it is used)' if key in prepared else ''}: {reason}"
        for key, reason in sorted(failures.items())
    ]
    if lines:
        logger.warning("%d runs are missing, which could not be prepared:\n%s", len(lines), "\n".join(lines))


def recorded_failures(output: OutputFolder) -> dict[str, str]:
    """Return why runs could not be prepared, by their keys; nothing where the record is damaged."""
    if not output.failed_runs.is_file():
        return {}
    try:
        return {key: str(reason) for key, reason in read_json(output.failed_runs).items()}
    except MetadataError as error:
        logger.warning("%s Which runs could not be prepared is said by `titan-neuro prepare` again.", error.message)
        return {}


def _update(output: OutputFolder, remove: set[str], add: Mapping[str, str]) -> None:
    if not (add or output.failed_runs.is_file()):
        return
    with file_lock(output.failed_runs, work_dir=output.work_dir):
        left = {key: reason for key, reason in recorded_failures(output).items() if key not in remove}
        if left or add:
            write_json(output.failed_runs, {**left, **add})
        else:
            with writing_to(output.failed_runs):
                output.failed_runs.unlink(missing_ok=True)
