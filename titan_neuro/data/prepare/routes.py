"""Open a run by its route: parcels, surfaces, image in its own space or preprocessed, transforms, rough registration.

Each route ends in the run's time series on the output grid (or its parcels), and in the confounds to regress out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import ROUGH_SPACE, STANDARD_SPACES
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas import Atlas, read_atlas
from titan_neuro.data.prepare.brain_mask import mask_image
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.confound_presets import ConfoundModel, no_confounds, select_confounds
from titan_neuro.data.prepare.confound_table import (
    ConfoundSources,
    ConfoundTable,
    check_rows,
    compute_confounds,
    read_confounds,
)
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.motion import center_of_mass, motion_parameters
from titan_neuro.data.prepare.rough_registration import map_by_registration
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.slice_timing import correct_slice_timing
from titan_neuro.data.prepare.spatial_mapping import SpatialMapping, map_by_transforms, map_to_resolution
from titan_neuro.data.prepare.steady_state import (
    SteadyState,
    detected_steady_state,
    examined_length,
    marked_steady_state,
    read_first_volumes,
)
from titan_neuro.data.prepare.surfaces import SurfaceSeries
from titan_neuro.data.prepare.time_series import (
    MaskedVolumes,
    ParcelMeans,
    ParcelTable,
    ResampledVolumes,
    StoredSeries,
    TimeSeries,
    warn_of_lost_parcels,
)
from titan_neuro.data.prepare.timing import repetition_time
from titan_neuro.data.prepare.voxel_scaling import WithSignal, scale_causally, scale_over_run
from titan_neuro.errors import ConfigError, MetadataError

logger = logging.getLogger(__name__)
# Presets that need columns which only fMRIPrep's own tables have, and those that need tissue maps.
_NOT_COMPUTED = {"scrubbing", "ica_aroma"}
_NEED_TISSUES = {"simple", "compcor", "budapest2020"}
REALIGNED_MASK = "brain of the template, brain of the subject, and field of view of the volumes"
"""Mask of a run that is realigned here, in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenRun:
    """A run, ready to be read once.

    Attributes
    ----------
    series : TimeSeries
        Its time series on the output grid (or of its parcels), before temporal cleaning.
    repetition_time : float
        Seconds.
    route : str
        ``parcels``, ``native``, ``preprocessed``, ``transforms`` or ``rough registration``.
    spatial : dict
        What the interpolation corrected, and the resolution, for the store's record.
    mask : str or None
        Where the mask is from, in words.
    steady_state : SteadyState
        The volumes before it set no statistic.
    confounds : ConfoundModel
        Regressed out.
    computed : ConfoundTable or None
        The table of confounds, where it was computed here.
    framewise_displacement : numpy.ndarray or None
        float32 ``(time,)``, mm; NaN at time point 0.
    """

    series: TimeSeries
    repetition_time: float
    route: str
    spatial: dict[str, Any] = field(default_factory=dict)
    mask: str | None = None
    steady_state: SteadyState
    confounds: ConfoundModel
    computed: ConfoundTable | None = None
    framewise_displacement: np.ndarray | None = None


def output_route(recording: Recording, config: PrepareConfig) -> str:
    """Return the route by which a recording is prepared: its own, or ``rough registration`` where that is asked for."""
    if recording.route == "native" and config.rough_registration:
        return "rough registration"
    return recording.route


def is_realigned(recording: Recording, config: PrepareConfig) -> bool:
    """Whether volumes are realigned here: then the mask and the confounds are made here, too."""
    return output_route(recording, config) in ("transforms", "rough registration")


def output_space(recording: Recording, config: PrepareConfig) -> tuple[str | None, float | None]:
    """Return the space and the resolution (mm) of the output; None for those of the recording.

    Parameters
    ----------
    recording : Recording
    config : PrepareConfig

    Returns
    -------
    space : str or None
    resolution_mm : float or None

    Raises
    ------
    ConfigError
        A resolution is asked for, but the recording has no grid in a standard space and no way to one.
    """
    route = output_route(recording, config)
    if route == "transforms":
        return STANDARD_SPACES[0], config.resolution_mm or DEFAULT_RESOLUTION_MM
    if route == "rough registration":
        return ROUGH_SPACE, config.resolution_mm or DEFAULT_RESOLUTION_MM
    in_standard_space = recording.entities.get("space") in STANDARD_SPACES
    if config.resolution_mm is not None and not (route == "preprocessed" and in_standard_space):
        raise _no_resolution(recording, config.resolution_mm)
    return None, config.resolution_mm


def _no_resolution(recording: Recording, resolution_mm: float) -> ConfigError:
    """Say why a recording can't be resampled, and what can be done."""
    asked = f"{recording.key}: prepare.resolution_mm: {resolution_mm:g} mm were asked for, but"
    if recording.kind != "volume":
        kind = "parcels" if recording.kind == "parcels" else "surfaces"
        return ConfigError(f"{asked} {kind} have no grid.", "Omit --resolution.")
    if recording.entities.get("space", "T1w") != "T1w":
        why = f"the grid of space {recording.entities['space']} is not known here."
    else:
        why = "the recording is in its own space, and no transforms to a standard space were found."
    return ConfigError(
        f"{asked} {why}",
        "Omit --resolution, give the transforms of fMRIPrep (--derivatives; titan-neuro fetch ... --with "
        "transforms), or use --rough-registration.",
    )


def open_run(recording: Recording, config: PrepareConfig, scratch_dir: Path, stack: ExitStack) -> OpenRun:
    """Open a run by its route.

    Parameters
    ----------
    recording : Recording
    config : PrepareConfig
    scratch_dir : Path
        Folder for the scratch files of this run.
    stack : contextlib.ExitStack
        Closes and removes the scratch files.

    Returns
    -------
    OpenRun

    Raises
    ------
    ImageError, MetadataError, ConfigError
        A file can't be used, or a setting does not fit the recording.
    """
    check_settings(recording, config)
    if recording.kind == "parcels":
        return _open_parcels(recording, config)
    if recording.kind == "surface":
        return _open_surfaces(recording, config, scratch_dir, stack)
    image = BoldImage(recording.path)
    tr = repetition_time(recording, image.header_repetition_time, image.n_volumes, config.repetition_time_from)
    table = given_confounds(recording, image.n_volumes)
    n_examined = examined_length(int(config.warmup_s / tr), image.n_volumes)
    steady_state = _steady_state(recording, table, lambda: read_first_volumes(image, n_examined))
    n_before = steady_state.n_volumes_before
    if config.slice_timing:
        slices = stack.enter_context(ScratchSeries(scratch_dir / "slices"))
        image = correct_slice_timing(image, recording, tr, slices, n_before)
    series, mapping, mask = _open_image(recording, image, config, tr, n_before)
    computed = None
    if mapping is not None and mapping.head_motion is not None:
        scratch = stack.enter_context(ScratchSeries(scratch_dir / "series"))
        computed = _compute_confounds(series, mapping, image, tr, config, scratch, n_before)
        series = StoredSeries(scratch, mapping.space)
    table = computed or table
    if config.atlas is not None:
        atlas = _read_atlas(config.atlas, series, recording)
        series = ParcelMeans(_scale_voxels(series, recording, config, scratch_dir, stack, n_before), atlas)
    return OpenRun(
        series=series,
        repetition_time=tr,
        route=output_route(recording, config),
        spatial=_spatial_record(mapping) if mapping else {},
        mask=mask,
        steady_state=steady_state,
        confounds=confound_model(table, config, recording, series.n_time_points, n_before),
        computed=computed,
        framewise_displacement=_framewise_displacement(table),
    )


def _spatial_record(mapping: SpatialMapping) -> dict[str, Any]:
    return {"steps": list(mapping.steps), "resolution_mm": mapping.resolution_mm, **mapping.details}


def check_settings(recording: Recording, config: PrepareConfig) -> None:
    """Refuse settings that can't work, before hours are spent on them.

    Parameters
    ----------
    recording : Recording
    config : PrepareConfig

    Raises
    ------
    ConfigError
        A setting does not fit the route of the recording.
    """
    if config.slice_timing and recording.kind != "volume":
        raise ConfigError(
            f"{recording.key}: prepare.slice_timing: {recording.path.name} is no image of slices.", "Omit it."
        )
    if config.voxel_scaling != "none" and (config.atlas is None or recording.kind == "parcels"):
        why = "there is no atlas" if config.atlas is None else f"{recording.path.name} is a table of parcels"
        raise ConfigError(
            f"{recording.key}: prepare.voxel_scaling: {config.voxel_scaling}: expected voxels or vertices that an "
            f"atlas averages, but {why}.",
            "Give an atlas (--atlas), or omit this setting.",
        )
    route = output_route(recording, config)
    if config.slice_timing and route == "preprocessed":
        raise ConfigError(
            f"{recording.key}: prepare.slice_timing: a preprocessed image no longer has the slices of the scan.",
            "Omit it; fMRIPrep corrects slice timing itself.",
        )
    is_rough = route == "rough registration"
    not_computed = _NOT_COMPUTED | (_NEED_TISSUES if is_rough else set())
    if is_realigned(recording, config) and config.confounds in not_computed:
        raise ConfigError(
            f"{recording.key}: prepare.confounds: {config.confounds} can't be computed from "
            + ("a rough registration, which has no tissue maps." if is_rough else "transforms and tissue maps."),
            "Choose another preset: "
            + ("none or motion24." if is_rough else "none, motion24, simple, compcor or budapest2020."),
        )


def _open_parcels(recording: Recording, config: PrepareConfig) -> OpenRun:
    series = ParcelTable(recording, config.atlas)
    return _open_series(recording, config, series, series.header_repetition_time, None)


def _open_surfaces(recording: Recording, config: PrepareConfig, scratch_dir: Path, stack: ExitStack) -> OpenRun:
    surfaces = SurfaceSeries(recording)
    atlas = None if config.atlas is None else _read_atlas(config.atlas, surfaces, recording)
    if atlas is None and recording.hemispheres and not surfaces.n_left_out:
        logger.warning(
            "%s: no vertex is 0 or NaN throughout: the medial wall is not marked, and is among the features.",
            recording.key,
        )
    mask = f"all vertices and voxels but {surfaces.n_left_out} that are 0 or NaN throughout"
    series = surfaces if atlas is None else ParcelMeans(surfaces, atlas)
    run = _open_series(recording, config, series, surfaces.header_repetition_time, mask)
    if atlas is None:
        return run
    scaled = _scale_voxels(surfaces, recording, config, scratch_dir, stack, run.steady_state.n_volumes_before)
    return replace(run, series=ParcelMeans(scaled, atlas))


def _scale_voxels(
    series: TimeSeries,
    recording: Recording,
    config: PrepareConfig,
    scratch_dir: Path,
    stack: ExitStack,
    n_before: int,
) -> TimeSeries:
    """Scale voxels as the settings say; `n_before` volumes before the steady state set no statistic."""
    if config.voxel_scaling == "none":
        return series
    if config.voxel_scaling == "psc":
        series = WithSignal(series, recording.key)
    if config.estimation == "causal":
        return scale_causally(series, config.voxel_scaling)
    scratch = stack.enter_context(ScratchSeries(scratch_dir / "voxels"))
    return scale_over_run(series, config.voxel_scaling, scratch, n_before)


def _read_atlas(path: Path, series: TimeSeries, recording: Recording) -> Atlas:
    atlas = read_atlas(path, series.space)
    n_parcels = len(atlas.names) + len(atlas.lost)
    what = "voxel in the mask" if series.space.kind == "volume" else "vertex"
    warn_of_lost_parcels(path, atlas.lost, n_parcels, f"without a {what} of {recording.key}")
    return atlas


def _open_series(
    recording: Recording, config: PrepareConfig, series: TimeSeries, header_s: float | None, mask: str | None
) -> OpenRun:
    """Open a run that needs no resampling; `header_s` is the repetition time in its header."""
    tr = repetition_time(recording, header_s, series.n_time_points, config.repetition_time_from)
    table = given_confounds(recording, series.n_time_points)
    n_examined = examined_length(int(config.warmup_s / tr), series.n_time_points)
    steady_state = _steady_state(recording, table, lambda: series.read(0, n_examined))
    n_before = steady_state.n_volumes_before
    return OpenRun(
        series=series,
        repetition_time=tr,
        route=output_route(recording, config),
        mask=mask,
        steady_state=steady_state,
        confounds=confound_model(table, config, recording, series.n_time_points, n_before),
        framewise_displacement=_framewise_displacement(table),
    )


def _steady_state(
    recording: Recording, table: ConfoundTable | None, read_first: Callable[[], np.ndarray]
) -> SteadyState:
    """Where the steady state begins: as the table marks it, or else as the first time points show it."""
    steady_state = marked_steady_state(table) or detected_steady_state(read_first())
    if steady_state.n_volumes_before:
        logger.warning(
            "%s: volumes before the steady state: %d (%s). They are stored as 0, and set no mean and no deviation.",
            *(recording.key, steady_state.n_volumes_before, steady_state.rule),
        )
    return steady_state


def _open_image(
    recording: Recording, image: BoldImage, config: PrepareConfig, tr: float, n_before: int
) -> tuple[TimeSeries, SpatialMapping | None, str]:
    """Return the time series of an image, how it is resampled (None: not at all), and where its mask is from."""
    route = output_route(recording, config)
    # Only time points that are never scored may contribute to a mask or to a reference.
    n_first = max(1, min(config.mask_time_points, int(config.warmup_s / tr)))
    first = range(n_before, min(n_before + n_first, image.n_volumes))
    mapping: SpatialMapping | None
    if route == "transforms":
        mapping = map_by_transforms(recording, image, config.resolution_mm)
    elif route == "rough registration":
        logger.warning(
            "%s: ROUGH REGISTRATION: head motion and position are estimated from the image alone, and distortion is "
            "not corrected.",
            recording.key,
        )
        mapping = map_by_registration(image, config.resolution_mm, first)
    else:
        space, mask = mask_image(recording, image, first)
        if config.resolution_mm is None:
            return MaskedVolumes(image, space), None, mask
        mapping = map_to_resolution(space, image, config.resolution_mm)
        return ResampledVolumes(image, mapping.space, mapping.resampler, space.mask), mapping, mask
    return ResampledVolumes(image, mapping.space, mapping.resampler), mapping, REALIGNED_MASK


def given_confounds(recording: Recording, n_time_points: int) -> ConfoundTable | None:
    """Read the table of confounds of a run; None where the dataset has none.

    Parameters
    ----------
    recording : Recording
    n_time_points : int
        Of the run.

    Raises
    ------
    MetadataError
        The table is not valid, or has another number of rows.
    """
    if recording.confounds is None:
        return None
    table = read_confounds(recording.confounds)
    check_rows(table, n_time_points)
    return table


def confound_model(
    table: ConfoundTable | None, config: PrepareConfig, recording: Recording, n_time_points: int, n_before: int
) -> ConfoundModel:
    """Return the confounds of the preset that was asked for.

    Parameters
    ----------
    table : ConfoundTable or None
    config : PrepareConfig
    recording : Recording
    n_time_points, n_before : int
        Of the run; before its steady state.

    Raises
    ------
    MetadataError, ConfigError
        There is no table, or it lacks a column of the preset.
    """
    if config.confounds == "none":
        return no_confounds(n_time_points)
    if table is None:
        raise MetadataError(
            f"{recording.key}: the confounds preset {config.confounds} was asked for, but the run has no table of "
            "confounds (*_desc-confounds_timeseries.tsv or _regressors.tsv), and no transforms to compute one from.",
            "Give fMRIPrep's output with --derivatives, or use --confounds none.",
        )
    return select_confounds(table, config.confounds, recording.path.name, n_before)


def _compute_confounds(
    series: TimeSeries,
    mapping: SpatialMapping,
    image: BoldImage,
    tr: float,
    config: PrepareConfig,
    scratch: ScratchSeries,
    n_before: int,
) -> ConfoundTable:
    """Compute the confounds of a run, and write its series to `scratch`, so that each volume is interpolated once."""
    tissue_maps = (("csf", mapping.csf), ("white_matter", mapping.white_matter))
    masks = {name: mask for name, mask in tissue_maps if mask is not None and mask.any()}
    n_time_points = series.n_time_points
    tissues = {name: np.empty((n_time_points, mask.sum()), dtype=np.float32) for name, mask in masks.items()}
    global_signal = np.empty(n_time_points)
    for index in range(n_time_points):
        volume = series.read(index, index + 1)
        scratch.append(volume)
        global_signal[index] = volume.mean(dtype=np.float64)
        for name, volumes in tissues.items():
            volumes[index] = volume[0, masks[name]]
    motion = None
    if mapping.head_motion is not None:
        center_mm = center_of_mass(image.read(n_before, n_before + 1)[..., 0], image.affine)
        motion = motion_parameters(mapping.head_motion, image.affine, center_mm)
    # A run that is shorter than the calibration is calibrated on its first half.
    calibration_time_points = min(max(2, round(config.calibration_s / tr)), (n_time_points - n_before) // 2)
    return compute_confounds(
        ConfoundSources(
            motion=motion,
            global_signal=global_signal,
            **tissues,
        ),
        repetition_time=tr,
        calibration_time_points=calibration_time_points if config.estimation == "causal" else None,
        n_before_steady_state=n_before,
        source=f"{image.path} (computed)",
    )


def _framewise_displacement(table: ConfoundTable | None) -> np.ndarray | None:
    if table is None or "framewise_displacement" not in table.columns:
        return None
    return table.columns["framewise_displacement"].to_numpy(dtype=np.float32)
