"""What is written for a run: names of the files, header of the store, JSON sidecar, images of mean and temporal SNR."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import sidecar_path
from titan_neuro.data.bids.output import write_nifti
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas import atlas_name
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.confound_presets import ConfoundModel
from titan_neuro.data.prepare.continuous import resample_tables
from titan_neuro.data.prepare.inputs import recorded_settings
from titan_neuro.data.prepare.inspection import Inspection
from titan_neuro.data.prepare.routes import OpenRun, output_space
from titan_neuro.data.prepare.timing import events_within, read_event_columns, read_events, scored_time_points
from titan_neuro.data.prepare.voxel_scaling import SCALED
from titan_neuro.data.store import store_name
from titan_neuro.data.store.schema import Event, RunHeader
from titan_neuro.errors import MetadataError
from titan_neuro.files import write_json
from titan_neuro.provenance import versions
from titan_neuro.typing import HIGH_MOTION_MM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputFiles:
    """The files of one prepared run.

    Attributes
    ----------
    store : Path
        The Zarr store.
    """

    store: Path

    @property
    def sidecar(self) -> Path:
        """JSON that describes the store."""
        return self.store.with_suffix(".json")

    @property
    def confounds(self) -> Path:
        """Table of confounds, where it is computed here, under fMRIPrep's name."""
        return self.store.with_name(f"{self.store.name.split('_space-')[0]}_desc-confounds_timeseries.tsv")

    @property
    def mean_image(self) -> Path:
        """Mean over the run on the output grid."""
        return self.store.with_name(f"{self.store.name.split('_desc-prepared')[0]}_boldref.nii.gz")

    @property
    def snr_image(self) -> Path:
        """Temporal SNR of each voxel, or in each voxel that of its parcel."""
        return self.store.with_name(f"{self.store.name.split('_desc-prepared')[0]}_stat-tsnr_statmap.nii.gz")

    @property
    def all(self) -> tuple[Path, ...]:
        """All files that may be written, the store first."""
        tables = (self.confounds, self.confounds.with_suffix(".json"))
        images = (self.mean_image, self.snr_image)
        return (self.store, self.sidecar, *tables, *images, *map(sidecar_path, images))


def output_files(recording: Recording, output_dir: Path, config: PrepareConfig) -> OutputFiles:
    """Return the files that are written for a recording, below ``OUTPUT_DIR/sub-X/[ses-Y/]func/``."""
    folder = output_dir / f"sub-{recording.subject}"
    if "session" in recording.entities:
        folder /= f"ses-{recording.entities['session']}"
    entities = _output_entities(recording, config)
    return OutputFiles(folder / "func" / store_name(entities, "parcels" if config.atlas else recording.kind))


def manifest_of(store: Path) -> str:
    """Return the name of a store's manifest: ``prepare/sub-01_task-movie_run-1``."""
    return f"prepare/{store.name.split('_desc-prepared_')[0]}"


def _output_entities(recording: Recording, config: PrepareConfig) -> dict[str, str]:
    entities = {name: value for name, value in recording.entities.items() if name != "desc"}
    space, resolution_mm = output_space(recording, config)
    if space is not None:
        entities["space"] = space
    if resolution_mm is not None:
        # BIDS labels consist of letters and digits.
        entities["resolution"] = f"{resolution_mm:g}".replace(".", "p")
    # Of a table, the atlas only says where its parcels lie.
    if config.atlas is not None and recording.kind != "parcels":
        entities["segmentation"] = atlas_name(config.atlas)
    return entities


def build_header(recording: Recording, run: OpenRun, config: PrepareConfig, origin: Mapping[str, Any]) -> RunHeader:
    """Return the header of a run's store.

    Parameters
    ----------
    recording : Recording
    run : OpenRun
        The recording, opened.
    config : PrepareConfig
    origin : mapping
        ``fingerprint`` and ``sources``, for the record.

    Returns
    -------
    RunHeader

    Raises
    ------
    MetadataError
        The events table is not valid, or no time point remains to be scored.
    """
    events, event_columns, events_note = _read_events(recording, run)
    scored, rule = _scored(recording, run, config, events)
    continuous, tables = resample_tables(recording, run.series.n_time_points, run.repetition_time)
    return RunHeader(
        key=recording.key,
        entities=_output_entities(recording, config),
        repetition_time=run.repetition_time,
        space=run.series.space,
        scored=scored,
        events=events,
        event_columns=event_columns,
        framewise_displacement=run.framewise_displacement,
        continuous=continuous,
        record={
            **origin,
            "route": run.route,
            "spatial": run.spatial,
            "mask": run.mask,
            "steady_state": {"volumes_before": run.steady_state.n_volumes_before, "rule": run.steady_state.rule},
            "normalizer": {"method": _normalization(config), "warmup_s": config.warmup_s},
            "confounds": {
                "preset": config.confounds,
                "columns": list(run.confounds.names),
                "table": "computed" if run.computed else "given" if recording.confounds else None,
            },
            "high_pass_hz": config.high_pass_hz,
            "slice_timing": config.slice_timing,
            "settings": recorded_settings(config),
            "whole_run": _whole_run_steps(recording, run.confounds, config),
            "scored": rule,
            "events": events_note,
            **({"continuous": tables} if tables else {}),
            **({} if recording.surrogate is None else {"surrogate": recording.surrogate}),
            "versions": versions(),
        },
    )


def _normalization(config: PrepareConfig) -> str:
    """Say how time points are scaled."""
    method = "z-score over the whole run" if config.estimation == "whole-run" else "causal expanding z-score"
    if config.voxel_scaling == "none":
        return method
    return f"{method} of means over parcels of voxels in {SCALED[config.voxel_scaling]}"


def _read_events(recording: Recording, run: OpenRun) -> tuple[list[Event], dict[str, list[str]], str | None]:
    """Events of the run, their further columns, and what was clipped or left out of the table, in words."""
    if recording.events is None:
        return [], {}, None
    duration_s = run.series.n_time_points * run.repetition_time
    events, note = events_within(read_events(recording.events), duration_s, recording.events)
    if note is not None:
        logger.warning("%s: %s: %s.", recording.key, recording.events.name, note)
    return events, read_event_columns(recording.events, duration_s), note


def _scored(
    recording: Recording, run: OpenRun, config: PrepareConfig, events: Sequence[Event]
) -> tuple[np.ndarray, str]:
    """Time points that are scored, bool ``(time,)``, and the rule in words."""
    n_time_points, n_before = run.series.n_time_points, run.steady_state.n_volumes_before
    # Running estimates begin with the steady state, and so does the warm-up.
    scored, rule = scored_time_points(
        events,
        n_time_points,
        run.repetition_time,
        n_before * run.repetition_time + config.warmup_s,
        config.scored_trial_types,
    )
    if n_before:
        rule += f", without the {n_before} before the steady state"
    n_excluded = int(run.confounds.excluded.sum())
    if n_excluded:
        scored &= ~run.confounds.excluded
        rule += f", without {n_excluded} time points that the {config.confounds} strategy censors"
    if not scored.any():
        raise MetadataError(
            f"{recording.key}: no time point remains to be scored: {n_time_points} time points, TR "
            f"{run.repetition_time} s, warm-up {config.warmup_s} s, scored: {rule}.",
            "Check the events table, or shorten the warm-up with --set prepare.warmup_s=...",
        )
    return scored, rule


def _whole_run_steps(recording: Recording, confounds: ConfoundModel, config: PrepareConfig) -> list[str]:
    """Steps by which later time points change earlier ones, in words; empty for a causal preparation."""
    steps = [f"confound {name}" for name in confounds.whole_run]
    if config.slice_timing:
        steps.append("slice timing (Fourier shift)")
    if recording.route in {"preprocessed", "surface"} and recording.sidecar.get("SliceTimingCorrected"):
        steps.append("slice timing (in the preprocessed image)")
    if config.estimation == "whole-run":
        steps.append("z-score")
        steps += ["voxel scaling"] if config.voxel_scaling != "none" else []
        steps += ["confound fit"] if confounds.names else []
        steps += ["high-pass"] if config.high_pass_hz is not None else []
    return steps


def write_mean_image(files: OutputFiles, header: RunHeader, mean: np.ndarray) -> None:
    """Write the mean image of a run on its output grid, for a visual check of the registration; of volumes alone.

    Parameters
    ----------
    files : OutputFiles
    header : RunHeader
    mean : numpy.ndarray
        ``(features,)``.
    """
    if header.space.mask is None:
        return
    write_nifti(files.mean_image, header.space, iter([mean[None]]), n_time_points=1, repetition_time=None)
    sidecar = {"Description": "Mean over the run, before temporal cleaning", "Space": header.space.name}
    write_json(sidecar_path(files.mean_image), {**sidecar, "Route": header.record["route"]})


def write_snr_image(files: OutputFiles, header: RunHeader, temporal_snr: np.ndarray | None) -> None:
    """Write the temporal SNR of a run as an image, where its voxels or parcels lie in one.

    Parameters
    ----------
    files : OutputFiles
    header : RunHeader
    temporal_snr : numpy.ndarray or None
        As of `Inspection.temporal_snr`; nothing is written without it.
    """
    space, values, layout = header.space, temporal_snr, header.space.layout
    if values is not None and layout is not None:
        space, values = layout.space, layout.paint(space.parcels, values)
    if values is None or space.mask is None:
        return
    write_nifti(files.snr_image, space, iter([values[None]]), n_time_points=1, repetition_time=None, fill=np.nan)
    described = "Temporal SNR: mean over standard deviation in time, before temporal cleaning; drifts count as noise"
    write_json(sidecar_path(files.snr_image), {"Description": described, "Space": space.name})


def write_sidecar(files: OutputFiles, header: RunHeader, inspection: Inspection) -> None:
    """Write the JSON sidecar of a store; `inspection` has seen all time points of the recording."""
    record = header.record
    sidecar = {
        "Description": "Normalized time series (Zarr: one row a time point, one column a voxel, vertex or parcel)",
        "RepetitionTime": header.repetition_time,
        "Space": header.space.name,
        "Route": record["route"],
        "NumberOfTimePoints": len(header.scored),
        "NumberOfScoredTimePoints": int(header.scored.sum()),
        "NumberOfFeatures": header.space.n_features,
        "NumberOfConstantFeatures": inspection.n_constant,
        "LostParcels": list(header.space.lost_parcels),
        "Sources": [source["name"] for source in record["sources"].values()],
        "Normalizer": record["normalizer"],
        "Confounds": record["confounds"],
        "HighPassHz": record["high_pass_hz"],
        "WholeRun": record["whole_run"],
        "ScoredTimePoints": record["scored"],
        "VolumesBeforeSteadyState": record["steady_state"]["volumes_before"],
        "FramewiseDisplacement": _summarize_motion(header.framewise_displacement),
        "TemporalSNR": _summarize_snr(inspection.temporal_snr),
    }
    write_json(files.sidecar, sidecar)


def _summarize_motion(displacement_mm: np.ndarray | None) -> dict[str, float] | None:
    """Mean framewise displacement, and the fraction of time points with high motion; None where it is not known."""
    known = None if displacement_mm is None else displacement_mm[np.isfinite(displacement_mm)]
    if known is None or not known.size:
        return None
    return {"MeanMillimeters": _rounded(known.mean()), "FractionHigh": _rounded((known > HIGH_MOTION_MM).mean())}


def _summarize_snr(temporal_snr: np.ndarray | None) -> dict[str, float] | None:
    """Median temporal SNR of voxels or parcels with the 10th and 90th percentile; None where it has no meaning."""
    if temporal_snr is None:
        return None
    low, median, high = np.nanpercentile(temporal_snr, (10, 50, 90))
    return {"Median": _rounded(median), "Percentile10": _rounded(low), "Percentile90": _rounded(high)}


def _rounded(value: float) -> float:
    return round(float(value), 4)
