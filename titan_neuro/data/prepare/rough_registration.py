"""Rough registration: head motion and an affine to the template, estimated by ANTs from the recording alone."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import ROUGH_SPACE
from titan_neuro.data.prepare.brain_mask import compute_brain_mask
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM, grid_points, standard_grid, template_brain
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.resampling import Resampler, antialiasing
from titan_neuro.data.prepare.spatial_mapping import SpatialMapping, field_of_view, narrow_mask
from titan_neuro.data.prepare.transforms import apply_affine
from titan_neuro.data.prepare.workers import end_with_parent
from titan_neuro.data.space import Space
from titan_neuro.errors import ConfigError, ImageError

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Settings of a registration, under the names of ``antsRegistration``.

    Attributes
    ----------
    transform, convergence, shrink_factors, smoothing_sigmas : str
    sampling : float
        Fraction of the voxels from which mutual information is estimated.
    initial : str
        ``Identity``, or ``center`` to align the centers of mass first.
    """

    transform: str
    sampling: float
    convergence: str
    shrink_factors: str
    smoothing_sigmas: str
    initial: str


# One level at half the resolution: on volumes of 96 x 96 x 48 at 2.5 mm the error is 0.04 mm and the time 0.9 s. A
# second level at full resolution takes five times as long, and is no more accurate.
RIGID = Registration(
    transform="Rigid[0.25]",
    sampling=0.5,
    convergence="[20,1e-6,10]",
    shrink_factors="2",
    smoothing_sigmas="1",
    initial="Identity",
)
AFFINE = Registration(
    transform="Affine[0.25]",
    sampling=0.2,
    convergence="[2100x1200x1200x10,1e-6,10]",
    shrink_factors="6x4x2x1",
    smoothing_sigmas="3x2x1x0",
    initial="center",
)


def map_by_registration(image: BoldImage, resolution_mm: float | None, first: range) -> SpatialMapping:
    """Estimate head motion and the transform to the template.

    Each volume is registered rigidly to the mean of the first ones, and that mean affinely to the MNI152 template of
    nilearn. So no later volume changes what an earlier one becomes, beyond the volumes of that mean; which voxels are
    kept depends on the head motion of all volumes (`field_of_view`). Neither
    susceptibility distortion nor the nonlinear shape of the brain is corrected.

    Parameters
    ----------
    image : BoldImage
    resolution_mm : float, optional
        2 by default.
    first : range
        First volumes, of the steady state, whose mean is the reference.

    Returns
    -------
    SpatialMapping

    Raises
    ------
    ConfigError
        ANTs is not installed.
    ImageError
        A volume is not finite or can't be registered; no brain is found; the registered brain lies outside the field of
        view.
    """
    if importlib.util.find_spec("ants") is None:
        raise ConfigError(
            "prepare.rough_registration: ANTs is not installed, which registers recordings without transforms.",
            "Install it with `pip install 'titan-neuro[raw]'`.",
        )
    resolution_mm = resolution_mm or DEFAULT_RESOLUTION_MM
    head_motion, to_reference = _estimate_transforms(image, first)
    shape, affine = standard_grid(resolution_mm)
    template = template_brain(shape, affine)
    points = apply_affine(to_reference, grid_points(template, affine))
    smoothing = antialiasing(image.affine, resolution_mm)
    resampler = Resampler(points, image.affine, head_motion=head_motion, smoothing_voxels=smoothing)
    view = field_of_view(resampler, image, "The registration failed: use transforms of fMRIPrep instead.")
    return SpatialMapping(
        space=Space(kind="volume", name=ROUGH_SPACE, mask=narrow_mask(template, view.is_kept), affine=affine),
        resampler=resampler.select(view.is_kept),
        resolution_mm=resolution_mm,
        head_motion=head_motion,
        steps=("head motion (estimated)", "affine registration to the template (estimated)"),
        details=view.details,
    )


def _estimate_transforms(image: BoldImage, first: range) -> tuple[np.ndarray, np.ndarray]:
    """Points of the reference to points of each volume, ``(volumes, 4, 4)``; of the template to the reference."""
    volumes = [_read_structured_volume(image, index) for index in first]
    reference = np.asarray(np.mean(volumes, axis=0, dtype=np.float64), dtype=np.float32)
    brain = _extract_brain(reference, image)
    template, template_affine = _load_template()
    with _ants_process(image.path) as ants_process:
        to_reference: np.ndarray = ants_process.submit(
            register, template, template_affine, brain, image.affine, AFFINE
        ).result()
        # One volume at a time: a queue would hold the whole run in memory.
        head_motion: list[np.ndarray] = [
            ants_process.submit(
                register, reference, image.affine, _read_structured_volume(image, index), image.affine, RIGID
            ).result()
            for index in range(image.n_volumes)
        ]
    return np.stack(head_motion), to_reference


def _read_structured_volume(image: BoldImage, index: int) -> np.ndarray:
    """Read a volume and check that it is not constant: ANTs would report a successful registration."""
    volume = image.read_finite_volume(index)
    if not np.ptp(volume):
        raise ImageError(f"{image.path}: volume {index} is constant and can't be registered.", "Exclude the run.")
    return volume


def _load_template() -> tuple[np.ndarray, np.ndarray]:
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=2)
    return np.asarray(template.dataobj, dtype=np.float32), template.affine


def _extract_brain(reference: np.ndarray, image: BoldImage) -> np.ndarray:
    brain = compute_brain_mask(reference, image.affine)
    if not brain.any():
        raise ImageError(f"{image.path}: found no brain in the mean of the first volumes.")
    return np.where(brain, reference, np.float32(0))


@contextmanager
def _ants_process(path: Path) -> Iterator[ProcessPoolExecutor]:
    """Start a separate process for ANTs.

    ANTs sums in the order in which its threads finish, so that the result is reproducible only with a single thread.
    ITK reads the number of threads once in the life of a process, which may have happened already in this process.
    """
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_use_one_thread) as pool:
            yield pool
    except RuntimeError as error:
        raise ImageError(
            f"{path}: ANTs could not register it: {error}.", "Use transforms of fMRIPrep instead (--derivatives)."
        ) from error


def _use_one_thread() -> None:
    end_with_parent()
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"


def register(
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    moving: np.ndarray,
    moving_affine: np.ndarray,
    registration: Registration,
) -> np.ndarray:
    """Register one image to another by mutual information.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        float32 ``(x, y, z)``.
    fixed_affine, moving_affine : numpy.ndarray
        ``(4, 4)``, voxel indices to mm, RAS.
    registration : Registration

    Returns
    -------
    numpy.ndarray
        float64 ``(4, 4)``: points of the fixed image to points of the moving image, mm, RAS.
    """
    import ants

    images = [_to_ants(fixed, fixed_affine), _to_ants(moving, moving_affine)]
    pointers = ",".join(ants.internal.get_pointer_string(image) for image in images)
    with tempfile.TemporaryDirectory() as folder:
        # All arguments, because the short form of `ants.registration` has no seed.
        arguments = {
            "--dimensionality": "3",
            "--initial-moving-transform": f"[{pointers},1]" if registration.initial == "center" else "Identity",
            "--metric": f"MI[{pointers},1,32,Regular,{registration.sampling}]",
            "--transform": registration.transform,
            "--convergence": registration.convergence,
            "--shrink-factors": registration.shrink_factors,
            "--smoothing-sigmas": registration.smoothing_sigmas,
            "--collapse-output-transforms": "1",
            "--float": "1",
            "--random-seed": "1",
            "--output": f"{folder}/",
        }
        ants.registration([part for argument in arguments.items() for part in argument], None)
        transform = ants.read_transform(f"{folder}/0GenericAffine.mat")
    # Kinds of transforms have different parameters; the images of four points define any affine.
    corners = np.vstack([np.zeros(3), _RAS_TO_LPS])
    origin, *ends = (_RAS_TO_LPS @ transform.apply_to_point(tuple(point)) for point in corners)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([end - origin for end in ends], axis=1)
    affine[:3, 3] = origin
    return affine


def _to_ants(data: np.ndarray, affine: np.ndarray) -> Any:
    import ants

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return ants.from_numpy(
        np.asarray(data, dtype=np.float32),
        origin=tuple(_RAS_TO_LPS @ affine[:3, 3]),
        spacing=tuple(spacing),
        direction=_RAS_TO_LPS @ affine[:3, :3] / spacing,
    )
