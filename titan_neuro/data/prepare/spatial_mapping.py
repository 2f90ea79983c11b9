"""Which point of a recording each output voxel shows: head motion, distortion, coregistration and template warp.

An output voxel at the point ``x`` (mm) of the template shows what was recorded in volume ``t`` at the voxel ::

    p = coregistration(template_warp(x))          point of the undistorted reference (boldref)
    v = A^-1 H_t p + s * readout * B0(p) * e      voxel of volume t

with ``A`` the affine of the recording, ``H_t`` its head motion, ``B0`` the fieldmap in Hz, `readout` the total readout
time in seconds, ``e`` the voxel axis of phase encoding and ``s`` its sign, as BIDS defines ``PhaseEncodingDirection``.
The transforms are composed once per run, and each volume is interpolated once (`resampling.Resampler`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import STANDARD_SPACES
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.brain_mask import mask_threshold
from titan_neuro.data.prepare.distortion_correction import DistortionShift, PhaseEncoding, distortion_shift
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM, grid_points, regrid_mask, standard_grid, template_brain
from titan_neuro.data.prepare.images import BoldImage, read_volume
from titan_neuro.data.prepare.motion import read_head_motion
from titan_neuro.data.prepare.resampling import Resampler, antialiasing, sample_image
from titan_neuro.data.prepare.transforms import apply_affine, load_affine, load_composite
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError

logger = logging.getLogger(__name__)
# An output voxel is left out if it lies outside the field of view in a larger fraction of the volumes.
_MAX_FRACTION_OUT_OF_VIEW = 0.01
# A larger fraction of lost voxels is worth a warning.
_MAX_FRACTION_LOST = 0.01
# fMRIPrep's threshold; on coarse grids few voxels reach it.
_TISSUE_PROBABILITY = 0.99
_MIN_TISSUE_VOXELS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class SpatialMapping:
    """How a recording is resampled to the output grid.

    Attributes
    ----------
    space : Space
        The output; its mask holds the voxels inside the brain and inside the field of view of the recording.
    resampler : Resampler
    resolution_mm : float
        Edge of an output voxel.
    head_motion : numpy.ndarray or None
        ``(volumes, 4, 4)``, points of the reference to points of each volume, mm.
    white_matter, csf : numpy.ndarray or None
        bool ``(voxels,)``: output voxels whose probability of that tissue is highest (threshold 0.99).
    steps : tuple of str
        What the one interpolation corrects, in words, for the store's record.
    details : mapping
        Further values for the store's record.
    """

    space: Space
    resampler: Resampler
    resolution_mm: float
    head_motion: np.ndarray | None = None
    white_matter: np.ndarray | None = None
    csf: np.ndarray | None = None
    steps: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldOfView:
    """Which output voxels a recording shows.

    Attributes
    ----------
    is_kept : numpy.ndarray
        bool ``(voxels,)``: inside the reference, and inside at least 99 % of the volumes.
    details : dict
        For the store's record: ``voxels_lost_by_motion``, inside the reference but outside more than 1 % of the
        volumes; ``values_held_at_edge``, of kept voxels in the volumes that they lie outside of.
    """

    is_kept: np.ndarray
    details: dict[str, int]


def map_by_transforms(recording: Recording, image: BoldImage, resolution_mm: float | None) -> SpatialMapping:
    """Compose the transforms of fMRIPrep's minimal output.

    Parameters
    ----------
    recording : Recording
        Of the route ``transforms``.
    image : BoldImage
        The raw image of the recording.
    resolution_mm : float, optional
        2 by default.

    Returns
    -------
    SpatialMapping

    Raises
    ------
    ImageError, MetadataError
        A file can't be read; there are more or fewer head-motion transforms than volumes; the sidecar of a run with a
        fieldmap gives no readout time.
    """
    files, resolution_mm = recording.transforms, resolution_mm or DEFAULT_RESOLUTION_MM
    head_motion = _read_head_motion(files["head_motion"], image)
    shape, affine = standard_grid(resolution_mm)
    template = template_brain(shape, affine)
    t1w_points = load_composite(files["standard"]).map(grid_points(template, affine))
    brain = _inside_mask(files["brain"], t1w_points)
    if not brain.any():
        raise ImageError(f"{files['brain']}: the brain mask is empty where the template's brain lies.")
    mask, t1w_points = narrow_mask(template, brain), t1w_points[brain]
    reference_points = apply_affine(load_affine(files["coregistration"]), t1w_points)
    phase_encoding = phase_encoding_of(recording, image)
    distortion = _distortion(recording, phase_encoding, reference_points)
    resampler = Resampler(
        reference_points,
        image.affine,
        head_motion=head_motion,
        distortion=distortion,
        smoothing_voxels=antialiasing(image.affine, resolution_mm),
    )
    view = field_of_view(resampler, image, "Do the transforms belong to this run?")
    t1w_points = t1w_points[view.is_kept]
    return SpatialMapping(
        space=Space(kind="volume", name=STANDARD_SPACES[0], mask=narrow_mask(mask, view.is_kept), affine=affine),
        resampler=resampler.select(view.is_kept),
        resolution_mm=resolution_mm,
        head_motion=head_motion,
        white_matter=_tissue_mask(files["white_matter"], t1w_points),
        csf=_tissue_mask(files["csf"], t1w_points),
        steps=(
            "head motion",
            *(["susceptibility distortion"] if distortion else []),
            "coregistration",
            "template warp",
        ),
        details=view.details | _distortion_details(phase_encoding, distortion, view.is_kept),
    )


def field_of_view(resampler: Resampler, image: BoldImage, hint: str) -> FieldOfView:
    """Find the output voxels that a recording shows in (nearly) all volumes.

    What head motion carries out of the field of view was not recorded. As in SPM and AFNI, such voxels are left out of
    the whole run. An exception are up to 1 % of the volumes, lest a single cough cost a slab of cortex in every run of
    a study: there a voxel takes the value of the edge.

    Parameters
    ----------
    resampler : Resampler
        Of all output voxels.
    image : BoldImage
    hint : str
        What to do where nothing is left, for the message.

    Returns
    -------
    FieldOfView

    Raises
    ------
    ImageError
        No voxel lies inside the reference, or head motion carries all out of the field of view.
    """
    is_inside = resampler.in_field_of_view(image.shape)
    if not is_inside.any():
        raise ImageError(f"{image.path}: no voxel of the template's brain lies in its field of view.", hint)
    n_volumes, _ = resampler.select(is_inside).count_out_of_view(image.shape)
    stays = n_volumes <= _MAX_FRACTION_OUT_OF_VIEW * image.n_volumes
    n_lost = int((~stays).sum())
    if not stays.any():
        raise ImageError(f"{image.path}: head motion carries the whole brain out of its field of view.", hint)
    if n_lost > _MAX_FRACTION_LOST * len(stays):
        logger.warning(
            "%s: head motion carries %d of %d voxels of the brain out of the field of view; they are left out.",
            image.path,
            n_lost,
            len(stays),
        )
    return FieldOfView(
        is_kept=narrow_mask(is_inside, stays),
        details={"voxels_lost_by_motion": n_lost, "values_held_at_edge": int(n_volumes[stays].sum())},
    )


def map_to_resolution(space: Space, image: BoldImage, resolution_mm: float) -> SpatialMapping:
    """Map an image that is in a standard space already to a grid of another resolution.

    Parameters
    ----------
    space : Space
        The grid and the brain mask of the image.
    image : BoldImage
    resolution_mm : float

    Returns
    -------
    SpatialMapping

    Raises
    ------
    ImageError
        The image has no grid, or its brain mask lies outside the standard space.
    """
    shape, affine = standard_grid(resolution_mm)
    if space.mask is None or space.affine is None:
        raise ImageError(f"{image.path}: has no grid that could be resampled to {resolution_mm} mm.")
    mask = regrid_mask(space.mask, space.affine, shape, affine)
    if not mask.any():
        raise ImageError(
            f"{image.path}: no voxel of its brain mask lies on the grid of {STANDARD_SPACES[0]}: is it in that space?"
        )
    return SpatialMapping(
        space=Space(kind="volume", name=space.name, mask=mask, affine=affine),
        resampler=Resampler(
            grid_points(mask, affine), image.affine, smoothing_voxels=antialiasing(image.affine, resolution_mm)
        ),
        resolution_mm=resolution_mm,
        steps=("grid",),
    )


def narrow_mask(mask: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Restrict a mask, bool of any shape, to those of its voxels where `keep`, bool ``(voxels,)``, is true."""
    narrowed = mask.copy()
    narrowed[mask] = keep
    return narrowed


def _inside_mask(path: Path, points: np.ndarray) -> np.ndarray:
    threshold = mask_threshold(read_volume(path, "brain mask")[0])
    return np.asarray(sample_image(path, points, "brain mask") >= threshold)


def _read_head_motion(path: Path, image: BoldImage) -> np.ndarray:
    head_motion = read_head_motion(path)
    if len(head_motion) != image.n_volumes:
        raise ImageError(
            f"{path}: expected {image.n_volumes} transforms, one for each volume of {image.path.name}, found "
            f"{len(head_motion)}.",
            "Do the transforms belong to this run? Fetch both again.",
        )
    return head_motion


def phase_encoding_of(recording: Recording, image: BoldImage) -> PhaseEncoding | None:
    """Return the phase encoding of a recording as its sidecar gives it; None where the run has no fieldmap.

    Parameters
    ----------
    recording : Recording
    image : BoldImage
        Of the recording.

    Raises
    ------
    MetadataError
        The sidecar lacks the direction, or what the readout time is computed from.
    """
    if "fieldmap" not in recording.transforms:
        return None
    return PhaseEncoding.from_sidecar(recording.sidecar, image.shape, recording.path)


def _distortion(
    recording: Recording, phase_encoding: PhaseEncoding | None, reference_points: np.ndarray
) -> DistortionShift | None:
    if phase_encoding is None:
        return None
    files = recording.transforms
    return distortion_shift(files["fieldmap"], load_affine(files["to_fieldmap"]), phase_encoding, reference_points)


def _distortion_details(
    phase_encoding: PhaseEncoding | None, distortion: DistortionShift | None, is_kept: np.ndarray
) -> dict[str, Any]:
    if phase_encoding is None or distortion is None:
        return {}
    return {
        "total_readout_time_s": phase_encoding.readout.seconds,
        "total_readout_time_from": phase_encoding.readout.source,
        "voxels_outside_fieldmap": int((~distortion.is_covered[is_kept]).sum()),
    }


def _tissue_mask(path: Path, points: np.ndarray) -> np.ndarray:
    """Threshold a probability map at 0.99, or lower where that leaves fewer than 20 voxels: bool ``(voxels,)``."""
    probability = sample_image(path, points, "tissue map")
    nth_highest = np.sort(probability)[-min(_MIN_TISSUE_VOXELS, len(probability))]
    return np.asarray((probability >= min(nth_highest, _TISSUE_PROBABILITY)) & (probability > 0))
