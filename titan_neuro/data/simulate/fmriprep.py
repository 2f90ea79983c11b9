"""fMRIPrep's minimal derivatives of a synthetic dataset, under fMRIPrep's names, and the raw anatomical images.

Nothing is estimated: these are the exact transforms that the simulated scanner used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.simulate.config import RunDesign, SimulateConfig
from titan_neuro.data.simulate.head import Head, Lattice, Position
from titan_neuro.data.simulate.images import Grid, write_image
from titan_neuro.data.simulate.itk import interpolate, map_points, write_affines, write_composite
from titan_neuro.data.simulate.names import MINIMAL, TARGET, TASK, description, run_stem, subject_name
from titan_neuro.data.simulate.scanner import Scanner, SubjectAnatomy
from titan_neuro.files import write_json

_ANATOMY = "acq-MPRAGE"
_FIELDMAP = "acq-25mm"
_FIELDMAP_ID = "fmapid-auto00000"
_ECHO_TIMES = (0.00492, 0.00738)
_GM, _WM, _CSF = 1, 2, 3


def write_fmriprep_description(root: Path) -> None:
    """Write the ``dataset_description.json`` of the derivatives of the synthetic dataset at `root`."""
    content = {**description("Minimal derivatives as fMRIPrep writes them, simulated", "derivative"), "License": "CC0"}
    write_json(root / "derivatives" / MINIMAL / "dataset_description.json", content)


def write_anatomy(root: Path, config: SimulateConfig, subject: int, anatomy: SubjectAnatomy) -> None:
    """Write a subject's T1w image, tissues and fieldmap, and the transforms to and from the template.

    Parameters
    ----------
    root : Path
        Root of the synthetic dataset.
    config : SimulateConfig
    subject : int
        Index of the subject, from 0.
    anatomy : SubjectAnatomy
    """
    head, name = anatomy.head, subject_name(subject)
    anat = root / "derivatives" / MINIMAL / name / "anat" / f"{name}_{_ANATOMY}"
    raw = root / name / "anat" / f"{name}_{_ANATOMY}_T1w"
    grid = _all_voxels(head.t1w)
    tissues = _tissues(head)
    t1w = np.rint(1000 * tissues.pop("T1w")).astype(np.int16)
    mask = tissues.pop("mask") > 0.5
    for path in (Path(f"{raw}.nii.gz"), Path(f"{anat}_desc-preproc_T1w.nii.gz")):
        write_image(path, grid, [t1w])
    write_json(
        Path(f"{raw}.json"), {"EchoTime": 0.00232, "RepetitionTime": 2.3, "InversionTime": 0.933, "FlipAngle": 8}
    )
    write_json(Path(f"{anat}_desc-preproc_T1w.json"), {"SkullStripped": True})
    write_image(Path(f"{anat}_desc-brain_mask.nii.gz"), grid, [mask.astype(np.uint8)])
    sources = [f"bids:raw:{raw.relative_to(root)}.nii.gz"]
    write_json(Path(f"{anat}_desc-brain_mask.json"), {"RawSources": sources, "Type": "Brain"})
    for tissue, probability in tissues.items():
        write_image(Path(f"{anat}_label-{tissue}_probseg.nii.gz"), grid, [probability.astype(np.float32)])
    most_likely = np.argmax([tissues["GM"], tissues["WM"], tissues["CSF"]], axis=0)
    labels = np.where(mask, np.array([_GM, _WM, _CSF])[most_likely], 0)
    write_image(Path(f"{anat}_dseg.nii.gz"), grid, [labels.astype(np.uint8)])
    write_composite(Path(f"{anat}_from-T1w_to-{TARGET}_mode-image_xfm.h5"), [head.affine, head.warp])
    inverse = head.warp.inverted(), np.linalg.inv(head.affine)
    write_composite(Path(f"{anat}_from-{TARGET}_to-T1w_mode-image_xfm.h5"), inverse)
    _write_fieldmap(root, config, subject, anatomy)


def _write_fieldmap(root: Path, config: SimulateConfig, subject: int, anatomy: SubjectAnatomy) -> None:
    head, name = anatomy.head, subject_name(subject)
    raw = root / name / "fmap" / f"{name}_{_FIELDMAP}"
    derived = root / "derivatives" / MINIMAL / name / "fmap" / f"{name}_{_FIELDMAP}_{_FIELDMAP_ID}"
    grid = _all_voxels(head.fieldmap)
    points = map_points(np.linalg.inv(head.fieldmap_from_t1w), head.fieldmap.points())
    magnitude = np.rint(interpolate(anatomy.baseline, anatomy.indices(points))).astype(np.int16)
    hertz = head.fieldmap_hz.ravel()
    # As the scanner stores a phase: a cycle has 4,096 steps, and phase 0 is 2,048.
    cycles = hertz * (_ECHO_TIMES[1] - _ECHO_TIMES[0])
    phase = (np.rint(2048 + 4096 * cycles) % 4096).astype(np.int16)
    intended = [f"func/{name}_task-{TASK}_run-{run + 1:02d}_bold.nii.gz" for run in range(config.n_runs)]
    shared = {"RepetitionTime": 0.675, "FlipAngle": 60, "IntendedFor": intended}
    times = {f"EchoTime{index + 1}": time for index, time in enumerate(_ECHO_TIMES)}
    raws: list[tuple[str, np.ndarray, dict[str, float]]] = [
        ("magnitude1", magnitude, {"EchoTime": _ECHO_TIMES[0]}),
        ("magnitude2", magnitude, {"EchoTime": _ECHO_TIMES[1]}),
        ("phasediff", phase, times),
    ]
    for suffix, values, timing in raws:
        write_image(Path(f"{raw}_{suffix}.nii.gz"), grid, [values])
        write_json(Path(f"{raw}_{suffix}.json"), {**timing, **shared})
    write_image(Path(f"{derived}_desc-magnitude_fieldmap.nii.gz"), grid, [magnitude])
    write_image(Path(f"{derived}_desc-preproc_fieldmap.nii.gz"), grid, [hertz])
    sidecar: dict[str, Any] = {
        "AnatomicalReference": f"{derived.name}_desc-magnitude_fieldmap.nii.gz",
        "B0FieldIdentifier": "auto_00000",
        "IntendedFor": intended,
        "RawSources": [f"bids:raw:{raw.relative_to(root)}_{suffix}.nii.gz" for suffix, _, _ in raws],
        "Units": "Hz",
    }
    write_json(Path(f"{derived}_desc-preproc_fieldmap.json"), sidecar)


def write_run_transforms(root: Path, subject: int, run: RunDesign, scanner: Scanner, position: Position) -> None:
    """Write a run's transforms and reference images.

    Parameters
    ----------
    root : Path
        Root of the synthetic dataset.
    subject : int
        Index of the subject, from 0.
    run : RunDesign
    scanner : Scanner
        The scanner in this run.
    position : Position
        Position and motion of the head in this run.
    """
    stem = run_stem(root / "derivatives" / MINIMAL, subject, run.run)
    recording = f"bids:raw:{run_stem(root, subject, run.run).relative_to(root)}_bold.nii.gz"
    all_voxels = Grid(mask=np.ones_like(scanner.grid.mask), affine=scanner.grid.affine, code=scanner.grid.code)
    for kind, grid, values in (
        ("hmc", scanner.grid, scanner.reference()),
        ("coreg", all_voxels, scanner.undistorted_reference()),
    ):
        write_image(Path(f"{stem}_desc-{kind}_boldref.nii.gz"), grid, [values.astype(np.float32)])
        write_json(Path(f"{stem}_desc-{kind}_boldref.json"), {"RawSources": [recording]})
    for name, matrices in (
        ("from-orig_to-boldref_mode-image_desc-hmc_xfm", position.volume_from_boldref),
        ("from-boldref_to-T1w_mode-image_desc-coreg_xfm", [position.boldref_from_t1w]),
        ("from-boldref_to-auto00000_mode-image_xfm", [position.boldref_from_fieldmap]),
    ):
        write_affines(Path(f"{stem}_{name}.txt"), list(matrices))
        write_json(Path(f"{stem}_{name}.json"), {"RawSources": [recording]})


def _tissues(head: Head) -> dict[str, np.ndarray]:
    """Return the template's T1w, mask and tissues at the voxels of a T1w image, each ``(voxels,)`` in 0 to 1."""
    volumes, affine = _template_tissues()
    indices = map_points(np.linalg.inv(affine), head.template_from_t1w(head.t1w.points()))
    return {name: np.clip(interpolate(volume, indices), 0, 1) for name, volume in volumes.items()}


@cache
def _template_tissues() -> tuple[dict[str, np.ndarray], np.ndarray]:
    from nilearn import datasets

    loaded = {
        "T1w": datasets.load_mni152_template(resolution=2),
        "mask": datasets.load_mni152_brain_mask(resolution=2),
        "GM": datasets.load_mni152_gm_template(resolution=2),
        "WM": datasets.load_mni152_wm_template(resolution=2),
    }
    volumes = {name: np.asarray(image.dataobj, dtype=float) for name, image in loaded.items()}
    # The tissues of a voxel of the brain add up to 1: the rest, neither grey nor white, is CSF.
    volumes["CSF"] = np.clip(volumes["mask"] - volumes["GM"] - volumes["WM"], 0, 1)
    return volumes, loaded["T1w"].affine


def _all_voxels(lattice: Lattice) -> Grid:
    return Grid(mask=np.ones(lattice.shape, dtype=bool), affine=lattice.affine, code="scanner")
