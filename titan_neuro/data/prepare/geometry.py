"""Where the output's voxels lie in a recording, and which of them are brain, white matter and CSF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_neuro.data.bids.names import STANDARD_SPACES
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM, grid_points, regrid_mask, standard_grid, template_brain
from titan_neuro.data.prepare.motion import read_head_motion
from titan_neuro.data.prepare.sources import Volumes
from titan_neuro.data.prepare.spatial import (
    PhaseEncoding,
    Resampler,
    antialiasing,
    apply_affine,
    load_affine,
    load_composite,
    sample_image,
)
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError

# fMRIPrep's probability; on coarse grids hardly a voxel reaches it.
_TISSUE_PROBABILITY = 0.99
_MIN_TISSUE_VOXELS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """How a recording is brought to the output grid.

    Attributes
    ----------
    space : Space
        The output: its mask holds what is brain and in the recording's field of view.
    resampler : Resampler
    resolution_mm : float
    head_motion : numpy.ndarray or None
        ``(volumes, 4, 4)``, points of the reference to points of each volume, mm.
    white_matter, csf : numpy.ndarray or None
        bool ``(voxels,)``: voxels of the output that are surely of that tissue.
    steps : tuple of str
        What the one interpolation undoes, in words, for the record.
    """

    space: Space
    resampler: Resampler
    resolution_mm: float
    head_motion: np.ndarray | None = None
    white_matter: np.ndarray | None = None
    csf: np.ndarray | None = None
    steps: tuple[str, ...]


def from_transforms(recording: Recording, volumes: Volumes, resolution_mm: float | None) -> Geometry:
    """Compose the transforms of fMRIPrep's minimal output.

    Parameters
    ----------
    recording : Recording
        Of the route ``transforms``.
    volumes : Volumes
        Its image.
    resolution_mm : float, optional
        2 by default.

    Raises
    ------
    ImageError, MetadataError
        A file can't be read; another number of head motion transforms than of volumes; a fieldmap without readout.
    """
    files, resolution_mm = recording.transforms, resolution_mm or DEFAULT_RESOLUTION_MM
    head_motion = read_head_motion(files["head_motion"])
    if len(head_motion) != volumes.n_time_points:
        raise ImageError(
            f"{files['head_motion']}: expected {volumes.n_time_points} transforms, one for each volume of "
            f"{volumes.path.name}, found {len(head_motion)}.",
            "Do the transforms belong to this run? Fetch both again.",
        )
    shape, affine = standard_grid(resolution_mm)
    mask = template_brain(shape, affine)
    in_t1w = load_composite(files["standard"]).map(grid_points(mask, affine))
    brain = sample_image(files["brain"], in_t1w, "brain mask") >= 0.5
    if not brain.any():
        raise ImageError(f"{files['brain']}: the brain mask is empty where the template's brain lies.")
    mask, in_t1w = _narrow(mask, brain), in_t1w[brain]
    in_reference = apply_affine(load_affine(files["coregistration"]), in_t1w)
    shift, axis, steps = None, 0, ["head motion", "coregistration", "template warp"]
    if "fieldmap" in files:
        encoding = PhaseEncoding.from_sidecar(recording.sidecar, recording.path)
        in_fieldmap = apply_affine(np.linalg.inv(load_affine(files["to_fieldmap"])), in_reference)
        shift = encoding.readout_s * sample_image(files["fieldmap"], in_fieldmap, "fieldmap").astype(np.float64)
        axis = encoding.axis
        steps.insert(1, "susceptibility distortion")
    options = {"shift_axis": axis, "smoothing_voxels": antialiasing(volumes.affine, resolution_mm)}
    inside = Resampler(in_reference, volumes.affine, shift_voxels=shift, **options).inside(volumes.shape)
    if not inside.any():
        raise ImageError(
            f"{recording.key}: no voxel of the template's brain lies in the field of view of {volumes.path.name}.",
            "Do the transforms belong to this run?",
        )
    shift = None if shift is None else shift[inside]
    in_t1w = in_t1w[inside]
    return Geometry(
        space=Space(kind="volume", name=STANDARD_SPACES[0], mask=_narrow(mask, inside), affine=affine),
        resampler=Resampler(
            in_reference[inside], volumes.affine, head_motion=head_motion, shift_voxels=shift, **options
        ),
        resolution_mm=resolution_mm,
        head_motion=head_motion,
        white_matter=_tissue(files["white_matter"], in_t1w),
        csf=_tissue(files["csf"], in_t1w),
        steps=tuple(steps),
    )


def from_standard(space: Space, volumes: Volumes, resolution_mm: float) -> Geometry:
    """Bring an image that lies in a standard space already to a grid of another resolution.

    Parameters
    ----------
    space : Space
        The image's own grid and brain mask.
    volumes : Volumes
    resolution_mm : float
    """
    shape, affine = standard_grid(resolution_mm)
    if space.mask is None or space.affine is None:
        raise ImageError(f"{volumes.path}: has no grid that could be brought to {resolution_mm} mm.")
    mask = regrid_mask(space.mask, space.affine, shape, affine)
    if not mask.any():
        raise ImageError(
            f"{volumes.path}: none of its brain mask lies on the grid of {STANDARD_SPACES[0]}: is it in that space?"
        )
    return Geometry(
        space=Space(kind="volume", name=space.name, mask=mask, affine=affine),
        resampler=Resampler(
            grid_points(mask, affine), volumes.affine, smoothing_voxels=antialiasing(volumes.affine, resolution_mm)
        ),
        resolution_mm=resolution_mm,
        steps=("grid",),
    )


def _narrow(mask: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Mask with those of its voxels that `keep` ``(voxels,)`` keeps."""
    narrowed = mask.copy()
    narrowed[mask] = keep
    return narrowed


def _tissue(path: Path, points: np.ndarray) -> np.ndarray:
    """Voxels that are surely of a tissue, or the 20 surest where so few are that sure: bool ``(voxels,)``."""
    probability = sample_image(path, points, "tissue map")
    surest = np.sort(probability)[-min(_MIN_TISSUE_VOXELS, len(probability))]
    return np.asarray((probability >= min(surest, _TISSUE_PROBABILITY)) & (probability > 0))
