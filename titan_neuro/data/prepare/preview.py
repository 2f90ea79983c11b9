"""What of a run's preparation can be known beforehand, from its sidecar, header and tables: for ``--dry-run``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas import require_kind
from titan_neuro.data.prepare.brain_mask import read_mask
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.routes import confound_model, given_confounds, is_realigned, output_space
from titan_neuro.data.prepare.spatial_mapping import phase_encoding_of
from titan_neuro.data.prepare.steady_state import marked_steady_state
from titan_neuro.data.prepare.surfaces import SurfaceSeries
from titan_neuro.data.prepare.time_series import ParcelTable
from titan_neuro.data.prepare.timing import events_within, read_events, repetition_time, sidecar_repetition_time
from titan_neuro.errors import OF_ONE_RUN


@dataclass(frozen=True)
class Preview:
    """What is known of a run's preparation beforehand.

    Attributes
    ----------
    notes : tuple of str
        What is decided from header, sidecar and tables; one line each.
    problem : str or None
        Why the run can't be prepared.
    """

    notes: tuple[str, ...] = ()
    problem: str | None = None


def preview_run(recording: Recording, config: PrepareConfig) -> Preview:
    """Say what will be decided from a run's header, sidecar and tables, and what is wrong with them.

    Files that are not on this machine are not looked at, and no volume of the recording is read.

    Parameters
    ----------
    recording : Recording
    config : PrepareConfig

    Returns
    -------
    Preview
    """
    notes: list[str] = []
    try:
        for note in _preview(recording, config):
            notes.append(note)  # noqa: PERF402 (what was yielded before an error is kept)
    except OF_ONE_RUN as error:
        return Preview(tuple(notes), error.message)
    return Preview(tuple(notes))


def _preview(recording: Recording, config: PrepareConfig) -> Iterator[str]:
    if any(map(is_missing, (recording.path, *recording.hemispheres.values()))):
        sidecar_repetition_time(recording)
        return
    if config.atlas is not None and recording.kind != "parcels":
        space_name = output_space(recording, config)[0] or recording.entities.get("space", "native")
        require_kind(config.atlas, recording.kind, space_name)
    image = BoldImage(recording.path) if recording.kind == "volume" else None
    if image is not None:
        n_time_points, header_s = image.n_volumes, image.header_repetition_time
    else:
        is_table = recording.kind == "parcels"
        series = ParcelTable(recording, _atlas_of(config)) if is_table else SurfaceSeries(recording)
        n_time_points, header_s = series.n_time_points, series.header_repetition_time
    seconds = repetition_time(recording, header_s, n_time_points, config.repetition_time_from)
    mask = None if is_realigned(recording, config) else recording.mask
    if image is not None and mask is not None and not is_missing(mask):
        # On which grid it lies, and whether it is binary, is said there.
        read_mask(mask, image)
    if image is not None and recording.route == "transforms":
        yield f"distortion: {_distortion_in_words(recording, image)}"
    yield f"volumes before the steady state: {_steady_state_in_words(recording, config, n_time_points)}"
    if recording.events is not None and not is_missing(recording.events):
        changed = events_within(read_events(recording.events), n_time_points * seconds, recording.events)[1]
        if changed:
            yield changed


def _atlas_of(config: PrepareConfig) -> Path | None:
    """The atlas, if it is on this machine."""
    return None if config.atlas is None or is_missing(config.atlas) else config.atlas


def _distortion_in_words(recording: Recording, image: BoldImage) -> str:
    phase_encoding = phase_encoding_of(recording, image)
    if phase_encoding is None:
        return "not corrected: the run has no fieldmap, and its readout time is not needed"
    readout = phase_encoding.readout
    return f"corrected by the fieldmap, with a total readout time of {readout.seconds:.4g} s, from {readout.source}"


def _steady_state_in_words(recording: Recording, config: PrepareConfig, n_time_points: int) -> str:
    """Say how many volumes the table of confounds marks; the preset's columns are checked on the way."""
    if recording.confounds is not None and is_missing(recording.confounds):
        return "as the table of confounds, which is not on this machine, marks them"
    table = given_confounds(recording, n_time_points)
    marked = marked_steady_state(table)
    if not is_realigned(recording, config):
        confound_model(table, config, recording, n_time_points, marked.n_volumes_before if marked else 0)
    if marked is None:
        why = "no table of confounds" if table is None else "the table of confounds marks none"
        return f"{why}; they are looked for in the first volumes"
    return f"{marked.n_volumes_before}, from {marked.rule}"
