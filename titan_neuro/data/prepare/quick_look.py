"""Motion correction and registration to the template from a recording alone, with ANTs: enough for a quick look."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.prepare.geometry import Geometry
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM, grid_points, standard_grid, template_brain
from titan_neuro.data.prepare.sources import Volumes
from titan_neuro.data.prepare.spatial import Resampler, antialiasing, apply_affine
from titan_neuro.data.preprocessed import QUICK_LOOK_SPACE
from titan_neuro.data.space import Space
from titan_neuro.errors import ConfigError, ImageError


def from_recording(volumes: Volumes, resolution_mm: float | None, reference_frames: int) -> Geometry:
    """Estimate head motion and the way to the template.

    Each volume is registered rigidly to the mean of the first ones, and that mean affinely to the MNI152 template that
    nilearn ships: nothing that a later frame shows changes what an earlier one becomes. Neither the distortion nor the
    fine shape of the brain is corrected.

    Parameters
    ----------
    volumes : Volumes
    resolution_mm : float, optional
        2 by default.
    reference_frames : int
        First volumes that make the reference.

    Raises
    ------
    ConfigError
        ANTs is not installed.
    ImageError
        The brain ends up outside the field of view.
    """
    ants = _ants()
    resolution_mm = resolution_mm or DEFAULT_RESOLUTION_MM
    count = min(reference_frames, volumes.n_frames)
    reference = volumes.read(0, count).astype(np.float32).mean(axis=-1)
    with _one_thread(), tempfile.TemporaryDirectory() as scratch:
        fixed = _to_ants(ants, reference, volumes.affine, Path(scratch))
        head_motion = np.stack([_rigid(ants, fixed, volume, volumes, Path(scratch)) for volume in _each(volumes)])
        to_reference = _to_template(ants, reference, volumes.affine, Path(scratch))
    shape, affine = standard_grid(resolution_mm)
    mask = template_brain(shape, affine)
    points = apply_affine(to_reference, grid_points(mask, affine))
    smoothing = antialiasing(volumes.affine, resolution_mm)
    inside = Resampler(points, volumes.affine).inside(volumes.shape)
    if not inside.any():
        raise ImageError(
            f"{volumes.path}: registered to the template, no voxel of the brain lies in the field of view.",
            "The registration failed: use transforms of fMRIPrep instead.",
        )
    mask[mask] = inside
    return Geometry(
        space=Space(kind="volume", name=QUICK_LOOK_SPACE, mask=mask, affine=affine),
        resampler=Resampler(points[inside], volumes.affine, head_motion=head_motion, smoothing_voxels=smoothing),
        resolution_mm=resolution_mm,
        head_motion=head_motion,
        steps=("head motion (estimated)", "affine registration to the template (estimated)"),
    )


def _ants() -> Any:
    try:
        import ants
    except ImportError as error:
        raise ConfigError(
            "prepare.quick_look: ANTs is not installed, with which recordings without transforms are registered.",
            "Install it with `pip install 'titan-neuro[raw]'`.",
        ) from error
    return ants


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """ANTs adds up in the order in which its threads finish: with one the result is the same each time."""
    import os

    names = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _each(volumes: Volumes) -> Iterator[np.ndarray]:
    for index in range(volumes.n_frames):
        yield volumes.read(index, index + 1)[..., 0].astype(np.float32)


def _to_ants(ants: Any, data: np.ndarray, affine: np.ndarray, scratch: Path) -> Any:
    import nibabel as nib

    # By way of a file, whose header both sides read alike.
    path = scratch / "image.nii"
    nib.save(nib.Nifti1Image(np.ascontiguousarray(data, dtype=np.float32), affine), path)
    return ants.image_read(str(path))


def _rigid(ants: Any, fixed: Any, volume: np.ndarray, volumes: Volumes, scratch: Path) -> np.ndarray:
    moving = _to_ants(ants, volume, volumes.affine, scratch)
    found = ants.registration(
        fixed,
        moving,
        type_of_transform="Rigid",
        outprefix=str(scratch / "motion"),
        random_seed=1,
        aff_metric="GC",
        aff_iterations=(20, 20),
        aff_shrink_factors=(2, 1),
        aff_smoothing_sigmas=(1, 0),
    )
    return _as_affine(ants, found["fwdtransforms"][0])


def _to_template(ants: Any, reference: np.ndarray, affine: np.ndarray, scratch: Path) -> np.ndarray:
    import nibabel as nib
    from nilearn.datasets import load_mni152_template
    from nilearn.masking import compute_epi_mask

    brain = np.asarray(compute_epi_mask(nib.Nifti1Image(reference, affine)).dataobj) > 0
    moving = _to_ants(ants, np.where(brain, reference, 0), affine, scratch)
    template = load_mni152_template(resolution=2)
    fixed = _to_ants(ants, np.asarray(template.dataobj), template.affine, scratch)
    found = ants.registration(
        fixed, moving, type_of_transform="Affine", outprefix=str(scratch / "template"), random_seed=1
    )
    return _as_affine(ants, found["fwdtransforms"][0])


def _as_affine(ants: Any, path: str) -> np.ndarray:
    """Matrix ``(4, 4)``, mm, RAS, of a linear transform of any kind that ANTs wrote."""
    transform = ants.read_transform(path)
    lps = np.diag([-1.0, -1.0, 1.0])
    # Kinds differ in their parameters; where four points go says all.
    origin, *ends = (lps @ transform.apply_to_point(tuple(point)) for point in np.vstack([np.zeros(3), lps]))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([end - origin for end in ends], axis=1)
    affine[:3, 3] = origin
    return affine
