"""Open a run by the route that it was found on: its volumes, their grid, and what is known to confound them."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import ROUGH_SPACE, STANDARD_SPACES
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare import rough_registration
from titan_neuro.data.prepare.atlas import read_atlas
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.confounds import (
    ConfoundModel,
    ConfoundTable,
    check_rows,
    compute_confounds,
    read_confounds,
    select,
)
from titan_neuro.data.prepare.geometry import Geometry, from_standard, from_transforms
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM
from titan_neuro.data.prepare.images import read_volume
from titan_neuro.data.prepare.motion import center_of_mass, motion_parameters
from titan_neuro.data.prepare.scratch import Scratch
from titan_neuro.data.prepare.slice_timing import shift_slices
from titan_neuro.data.prepare.sources import MaskedVolumes, Parcels, ResampledVolumes, Source, Stored, Table, Volumes
from titan_neuro.data.prepare.timing import repetition_time
from titan_neuro.data.space import Space
from titan_neuro.errors import ConfigError, ImageError, MetadataError

logger = logging.getLogger(__name__)
# Presets that need columns which only fMRIPrep's own tables have, and those that need white matter and CSF.
_NOT_COMPUTED = {"scrubbing", "ica_aroma"}
_NEED_TISSUES = {"simple", "compcor", "budapest2020"}


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenRun:
    """A run, ready to be read once.

    Attributes
    ----------
    source : Source
        Its volumes on the output grid, before anything is done along time.
    repetition_time : float
        Seconds.
    route : str
        ``parcels``, ``native``, ``preprocessed``, ``transforms`` or ``quick look``.
    spatial : dict
        How the grid was come by, for the record.
    mask : str or None
        Where the mask is from, in words.
    confounds : ConfoundModel
        What is regressed out.
    computed : ConfoundTable or None
        The table of confounds, where it was computed here.
    framewise_displacement : numpy.ndarray or None
        ``(series,)``, mm; NaN in the first.
    """

    source: Source
    repetition_time: float
    route: str
    spatial: dict[str, Any] = field(default_factory=dict)
    mask: str | None = None
    confounds: ConfoundModel
    computed: ConfoundTable | None = None
    framewise_displacement: np.ndarray | None = None


def output_space(recording: Recording, config: PrepareConfig) -> tuple[str | None, float | None]:
    """Space and resolution (mm) that the output is named after; None where those of the recording stay.

    Raises
    ------
    ConfigError
        Settings that do not go with what the recording is.
    """
    if recording.route == "transforms":
        return STANDARD_SPACES[0], config.resolution_mm or DEFAULT_RESOLUTION_MM
    if recording.route == "native" and config.rough_registration:
        return ROUGH_SPACE, config.resolution_mm or DEFAULT_RESOLUTION_MM
    in_standard_space = recording.entities.get("space") in STANDARD_SPACES
    if config.resolution_mm is not None and not (recording.route == "preprocessed" and in_standard_space):
        raise ConfigError(
            f"{recording.key}: prepare.resolution_mm: {config.resolution_mm:g} mm were asked for, but "
            + (
                "parcels have no grid."
                if recording.kind == "parcels"
                else "the recording lies in its own space and no transforms to a standard one were found."
            ),
            "Leave --resolution out, give the transforms of fMRIPrep (--derivatives; titan-neuro fetch ... --with "
            "transforms), or register roughly with --rough-registration.",
        )
    return None, config.resolution_mm


def open_run(recording: Recording, config: PrepareConfig, scratch_dir: Path, stack: ExitStack) -> OpenRun:
    """Open a run.

    Parameters
    ----------
    recording : Recording
    config : PrepareConfig
    scratch_dir : Path
        Folder of this run for what is needed between two passes.
    stack : contextlib.ExitStack
        Closes and removes that.

    Raises
    ------
    ImageError, MetadataError, ConfigError
    """
    if recording.kind == "parcels":
        return _open_table(recording, config)
    _check_settings(recording, config)
    volumes = Volumes(recording.path)
    tr = repetition_time(recording, volumes.header_repetition_time)
    if config.slice_timing:
        volumes = shift_slices(volumes, recording, tr, stack.enter_context(Scratch(scratch_dir / "slices")))
    # What makes a mask or a reference is fed to a model and never scored.
    first_time_points = max(1, min(config.mask_time_points, int(config.warmup_s / tr)))
    geometry, route = _geometry(recording, volumes, config, first_time_points)
    mask = "the template's brain, the subject's and the field of view" if geometry else None
    source: Source
    if geometry is None:
        space, mask = _own_space(recording, volumes, first_time_points)
        source = MaskedVolumes(volumes, space)
        if config.resolution_mm is not None:
            geometry = from_standard(space, volumes, config.resolution_mm)
    if geometry is not None:
        source = ResampledVolumes(volumes, geometry.space, geometry.resampler)
    computed = None
    if geometry is not None and geometry.head_motion is not None:
        series = stack.enter_context(Scratch(scratch_dir / "series"))
        computed = _compute(source, geometry, volumes, tr, config, series)
        source = Stored(series, geometry.space, source.n_time_points)
    table = computed or _given_table(recording, source.n_time_points)
    if config.atlas is not None:
        atlas = read_atlas(config.atlas, source.space)
        source = Parcels(source, atlas.labels, atlas.names, atlas.name)
    return OpenRun(
        source=source,
        repetition_time=tr,
        route=route,
        spatial={"steps": list(geometry.steps), "resolution_mm": geometry.resolution_mm} if geometry else {},
        mask=mask,
        confounds=_select(table, config, recording, source.n_time_points),
        computed=computed,
        framewise_displacement=_framewise_displacement(table),
    )


def _check_settings(recording: Recording, config: PrepareConfig) -> None:
    """Refuse what can't come right before hours are spent on it."""
    if config.slice_timing and recording.route == "preprocessed":
        raise ConfigError(
            f"{recording.key}: prepare.slice_timing: a preprocessed image no longer has the slices of the scan.",
            "Leave it out; fMRIPrep corrects slice timing itself.",
        )
    rough = recording.route == "native" and config.rough_registration
    lacking = _NOT_COMPUTED | (_NEED_TISSUES if rough else set())
    if (rough or recording.route == "transforms") and config.confounds in lacking:
        raise ConfigError(
            f"{recording.key}: prepare.confounds: {config.confounds} needs what can't be computed from "
            + ("a rough registration (tissue maps)." if rough else "transforms and tissue maps."),
            f"Choose another preset: {'none or motion24' if rough else 'motion24, simple, compcor or budapest2020'}.",
        )


def _open_table(recording: Recording, config: PrepareConfig) -> OpenRun:
    for setting in ("atlas", "slice_timing"):
        if getattr(config, setting):
            raise ConfigError(f"{recording.key}: prepare.{setting}: parcels are no images.", "Leave it out.")
    source = Table(recording)
    table = _given_table(recording, source.n_time_points)
    tr = repetition_time(recording, None)
    return OpenRun(
        source=source,
        repetition_time=tr,
        route="parcels",
        confounds=_select(table, config, recording, source.n_time_points),
        framewise_displacement=_framewise_displacement(table),
    )


def _geometry(
    recording: Recording, volumes: Volumes, config: PrepareConfig, first_time_points: int
) -> tuple[Geometry | None, str]:
    if recording.route == "transforms":
        return from_transforms(recording, volumes, config.resolution_mm), "transforms"
    if recording.route == "native" and config.rough_registration:
        logger.warning(
            "%s: QUICK LOOK: motion and position are estimated roughly, distortion is not corrected.", recording.key
        )
        return rough_registration.from_recording(volumes, config.resolution_mm, first_time_points), "rough registration"
    return None, recording.route


def _own_space(recording: Recording, volumes: Volumes, first_time_points: int) -> tuple[Space, str]:
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    name = recording.entities.get("space", "native")
    if recording.mask is None:
        logger.warning("%s: no brain mask in the dataset: computed from its first volumes.", recording.key)
        first = volumes.read(0, first_time_points).astype(np.float32).mean(axis=-1)
        mask = np.asarray(compute_epi_mask(nib.Nifti1Image(first, volumes.affine)).dataobj) > 0
        if not mask.any():
            raise ImageError(
                f"{volumes.path}: no brain was found in its first {first_time_points} volumes.",
                "Give a brain mask (*_desc-brain_mask.nii.gz) with --derivatives.",
            )
        where = f"computed from {first_time_points} first volumes"
    else:
        mask, where = _given_mask(recording.mask, volumes), recording.mask.name
    return Space(kind="volume", name=name, mask=mask, affine=volumes.affine), where


def _given_mask(path: Path, volumes: Volumes) -> np.ndarray:
    data, affine = read_volume(path, "brain mask")
    if data.shape != volumes.shape or not np.allclose(affine, volumes.affine, atol=1e-3):
        raise ImageError(
            f"{path}: expected the grid of {volumes.path.name}, {volumes.shape} with the affine "
            f"{volumes.affine.tolist()}; found {data.shape} with {affine.tolist()}.",
            "Give a mask on the grid of the run (--derivatives).",
        )
    mask = data > 0
    if not mask.any():
        raise ImageError(f"{path}: the brain mask is empty.", "Make it anew, or remove it: then one is computed.")
    return mask


def _given_table(recording: Recording, n_time_points: int) -> ConfoundTable | None:
    if recording.confounds is None:
        return None
    table = read_confounds(recording.confounds)
    check_rows(table, n_time_points)
    return table


def _select(
    table: ConfoundTable | None, config: PrepareConfig, recording: Recording, n_time_points: int
) -> ConfoundModel:
    if config.confounds == "none":
        return ConfoundModel(
            names=(), values=np.zeros((n_time_points, 0)), whole_run=(), excluded=np.zeros(n_time_points, dtype=bool)
        )
    if table is None:
        raise MetadataError(
            f"{recording.key}: the confounds preset {config.confounds} was asked for, but the run has no table of "
            "confounds (*_desc-confounds_timeseries.tsv or _regressors.tsv), and no transforms to compute one from.",
            "Name fMRIPrep's output with --derivatives, or leave prepare.confounds at none.",
        )
    return select(table, config.confounds, recording.path.name)


def _compute(
    source: Source, geometry: Geometry, volumes: Volumes, tr: float, config: PrepareConfig, series: Scratch
) -> ConfoundTable:
    """Compute the confounds of a run while its volumes go to `series`, so that no volume is interpolated twice."""
    tissues = {"csf": geometry.csf, "white_matter": geometry.white_matter}
    kept: dict[str, list[np.ndarray]] = {name: [] for name, mask in tissues.items() if mask is not None and mask.any()}
    global_signal = np.empty(source.n_time_points)
    for index in range(source.n_time_points):
        volume = source.block(index, index + 1)
        series.append(volume)
        global_signal[index] = volume.mean(dtype=np.float64)
        for name, collected in kept.items():
            collected.append(volume[0, tissues[name]])
    center_mm = center_of_mass(volumes.read(0, 1)[..., 0], volumes.affine)
    # A run that is shorter than the calibration is calibrated on its first half.
    calibration_time_points = min(max(2, round(config.calibration_s / tr)), source.n_time_points // 2)
    return compute_confounds(
        motion_parameters(geometry.head_motion, volumes.affine, center_mm),
        global_signal,
        *(np.stack(kept[name]) if name in kept else None for name in tissues),
        repetition_time=tr,
        calibration_time_points=calibration_time_points if config.estimation == "causal" else None,
        source=f"{volumes.path} (computed)",
    )


def _framewise_displacement(table: ConfoundTable | None) -> np.ndarray | None:
    if table is None or "framewise_displacement" not in table.columns:
        return None
    return table.columns["framewise_displacement"].to_numpy(dtype=np.float32)
