"""What of a run's preparation can be known beforehand, from its sidecar, header and tables: for ``--dry-run``."""

from __future__ import annotations

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.surfaces import SurfaceSeries
from titan_neuro.data.prepare.time_series import ParcelTable
from titan_neuro.data.prepare.timing import events_within, read_events, repetition_time, sidecar_repetition_time
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError


def preview_run(recording: Recording, config: PrepareConfig) -> str | None:
    """Say what is wrong with a run, or what will be left out of its events; None for nothing.

    Files that are not on this machine are not looked at, and no volume is read.

    Parameters
    ----------
    recording : Recording
    config : PrepareConfig

    Returns
    -------
    str or None
    """
    try:
        return _preview(recording, config)
    except (ImageError, InputNotFoundError, MetadataError) as error:
        return f"CAN'T BE PREPARED: {error.message}"


def _preview(recording: Recording, config: PrepareConfig) -> str | None:
    if is_missing(recording.path):
        sidecar_repetition_time(recording)
        return None
    if any(map(is_missing, recording.hemispheres.values())):
        return None
    if recording.kind != "volume":
        atlas = None if config.atlas is None or is_missing(config.atlas) else config.atlas
        series = ParcelTable(recording, atlas) if recording.kind == "parcels" else SurfaceSeries(recording)
        n_time_points, header_s = series.n_time_points, series.header_repetition_time
    else:
        image = BoldImage(recording.path)
        n_time_points, header_s = image.n_volumes, image.header_repetition_time
    seconds = repetition_time(recording, header_s, n_time_points, config.repetition_time_from)
    if recording.events is None or is_missing(recording.events):
        return None
    return events_within(read_events(recording.events), n_time_points * seconds, recording.events)[1]
