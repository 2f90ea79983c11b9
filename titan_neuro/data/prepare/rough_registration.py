"""Motion correction and registration to the template from a recording alone, with ANTs: enough for a rough
registration.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.names import ROUGH_SPACE
from titan_neuro.data.prepare.geometry import Geometry
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM, grid_points, standard_grid, template_brain
from titan_neuro.data.prepare.sources import Volumes, finite_volume
from titan_neuro.data.prepare.spatial import Resampler, antialiasing, apply_affine
from titan_neuro.data.prepare.workers import end_with_parent
from titan_neuro.data.space import Space
from titan_neuro.errors import ConfigError, ImageError

_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How two images are registered, in the words of ``antsRegistration``.

    Attributes
    ----------
    transform, sampling, convergence, shrink_factors, smoothing_sigmas : str
        `sampling` is the share of the voxels from which mutual information is estimated.
    initial : str
        ``Identity``, or ``center`` for the centers of mass laid on each other.
    """

    transform: str
    sampling: float
    convergence: str
    shrink_factors: str
    smoothing_sigmas: str
    initial: str


# One level at half the resolution: on volumes of 96 x 96 x 48 at 2.5 mm 0.04 mm off, in 0.9 s; a second level at full
# resolution takes five times as long and gains nothing.
RIGID = Stage(
    transform="Rigid[0.25]",
    sampling=0.5,
    convergence="[20,1e-6,10]",
    shrink_factors="2",
    smoothing_sigmas="1",
    initial="Identity",
)
AFFINE = Stage(
    transform="Affine[0.25]",
    sampling=0.2,
    convergence="[2100x1200x1200x10,1e-6,10]",
    shrink_factors="6x4x2x1",
    smoothing_sigmas="3x2x1x0",
    initial="center",
)


def from_recording(volumes: Volumes, resolution_mm: float | None, reference_time_points: int) -> Geometry:
    """Estimate head motion and the way to the template.

    Each volume is registered rigidly to the mean of the first ones, and that mean affinely to the MNI152 template that
    nilearn ships: beyond the volumes of that mean, nothing that a later volume shows changes what an earlier one
    becomes. Neither the distortion nor the fine shape of the brain is corrected.

    Parameters
    ----------
    volumes : Volumes
    resolution_mm : float, optional
        2 by default.
    reference_time_points : int
        First volumes that make the reference.

    Raises
    ------
    ConfigError
        ANTs is not installed.
    ImageError
        A volume is not finite or can't be registered; no brain is found, or it ends up outside the field of view.
    """
    if importlib.util.find_spec("ants") is None:
        raise ConfigError(
            "prepare.rough_registration: ANTs is not installed, with which recordings without transforms are registered.",
            "Install it with `pip install 'titan-neuro[raw]'`.",
        )
    resolution_mm = resolution_mm or DEFAULT_RESOLUTION_MM
    head_motion, to_reference = _estimate(volumes, min(reference_time_points, volumes.n_time_points))
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
        space=Space(kind="volume", name=ROUGH_SPACE, mask=mask, affine=affine),
        resampler=Resampler(points[inside], volumes.affine, head_motion=head_motion, smoothing_voxels=smoothing),
        resolution_mm=resolution_mm,
        head_motion=head_motion,
        steps=("head motion (estimated)", "affine registration to the template (estimated)"),
    )


def _estimate(volumes: Volumes, n_reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the reference to those of each volume ``(volumes, 4, 4)``; points of the template to the reference."""
    reference = np.mean([_volume(volumes, index) for index in range(n_reference)], axis=0, dtype=np.float64)
    scan = reference.astype(np.float32), volumes.affine
    with _ants_process(volumes.path) as ants_process:
        to_reference = ants_process.submit(register, *_template(), *_brain_of(*scan, volumes.path), AFFINE).result()
        # One after the other: a queue would hold the whole run.
        head_motion = [
            ants_process.submit(register, *scan, _volume(volumes, index), volumes.affine, RIGID).result()
            for index in range(volumes.n_time_points)
        ]
    return np.stack(head_motion), to_reference


def _volume(volumes: Volumes, index: int) -> np.ndarray:
    volume = finite_volume(volumes, index)
    if not np.ptp(volume):
        # ANTs would call it registered.
        raise ImageError(
            f"{volumes.path}: volume {index} is the same everywhere: nothing that could be registered.",
            "Leave the run out.",
        )
    return volume


def _template() -> tuple[np.ndarray, np.ndarray]:
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=2)
    return np.asarray(template.dataobj, dtype=np.float32), template.affine


def _brain_of(reference: np.ndarray, affine: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Computed an empty mask")
        brain = np.asarray(compute_epi_mask(nib.Nifti1Image(reference, affine)).dataobj) > 0
    if not brain.any():
        raise ImageError(f"{path}: found no brain in the mean of the first volumes.")
    return np.where(brain, reference, np.float32(0)), affine


@contextmanager
def _ants_process(path: Path) -> Iterator[ProcessPoolExecutor]:
    """Start a process of its own for ANTs.

    ANTs adds up in the order in which its threads finish, so that only with one thread the result is the same each
    time. ITK reads how many to use once in the life of a process, which may be behind us in this one.
    """
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_one_thread) as pool:
            yield pool
    except RuntimeError as error:
        raise ImageError(
            f"{path}: ANTs could not register it: {error}.", "Use transforms of fMRIPrep instead (--derivatives)."
        ) from error


def _one_thread() -> None:
    end_with_parent()
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"


def register(
    fixed: np.ndarray, fixed_affine: np.ndarray, high_motion: np.ndarray, moving_affine: np.ndarray, stage: Stage
) -> np.ndarray:
    """Register one image to another by mutual information.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        float32 ``(x, y, z)``.
    fixed_affine, moving_affine : numpy.ndarray
        ``(4, 4)``, voxels to mm, RAS.
    stage : Stage

    Returns
    -------
    numpy.ndarray
        float64 ``(4, 4)``: points of the fixed image to points of the moving one, mm, RAS.
    """
    import ants

    images = [_to_ants(fixed, fixed_affine), _to_ants(high_motion, moving_affine)]
    pointers = ",".join(ants.internal.get_pointer_string(image) for image in images)
    with tempfile.TemporaryDirectory() as folder:
        # All arguments, because the short form of `ants.registration` knows no seed.
        arguments = {
            "--dimensionality": "3",
            "--initial-moving-transform": f"[{pointers},1]" if stage.initial == "center" else "Identity",
            "--metric": f"MI[{pointers},1,32,Regular,{stage.sampling}]",
            "--transform": stage.transform,
            "--convergence": stage.convergence,
            "--shrink-factors": stage.shrink_factors,
            "--smoothing-sigmas": stage.smoothing_sigmas,
            "--collapse-output-transforms": "1",
            "--float": "1",
            "--random-seed": "1",
            "--output": f"{folder}/",
        }
        ants.registration([part for argument in arguments.items() for part in argument], None)
        transform = ants.read_transform(f"{folder}/0GenericAffine.mat")
    # Kinds differ in their parameters; where four points go says all.
    origin, *ends = (_LPS @ transform.apply_to_point(tuple(point)) for point in np.vstack([np.zeros(3), _LPS]))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([end - origin for end in ends], axis=1)
    affine[:3, 3] = origin
    return affine


def _to_ants(data: np.ndarray, affine: np.ndarray) -> Any:
    import ants

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return ants.from_numpy(
        np.asarray(data, dtype=np.float32),
        origin=tuple(_LPS @ affine[:3, 3]),
        spacing=tuple(spacing),
        direction=_LPS @ affine[:3, :3] / spacing,
    )
