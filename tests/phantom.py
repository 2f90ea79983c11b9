"""A known pattern on the template, recorded through known motion, distortion, coregistration and warp.

Everything is analytic, and written in the formats of fMRIPrep's minimal output without using the code under test: each
voxel of the recording is traced back to the template by fixed-point iteration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
READOUT_S = 0.05
STEM = "sub-01_task-movie_run-01"
ORIENTATIONS = {
    "RAS": np.eye(3),
    "LAS": np.diag([-1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "oblique": Rotation.from_euler("xyz", [12, -7, 5], degrees=True).as_matrix() @ np.diag([-1.0, 1.0, 1.0]),
}


def rigid(degrees, shift_mm) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def move(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass
class Phantom:
    """One run of some volumes; points are mm, RAS, ``(n, 3)``."""

    orientation: str = "LAS"
    direction: str = "j-"
    n_volumes: int = 3
    shape: tuple[int, int, int] = (44, 52, 40)
    voxel_mm: float = 4.0
    warp_spacing_mm: float = 4.0
    shortest_mm: float = 28.0
    seed: int = 0
    coregistration: np.ndarray = field(default_factory=lambda: rigid([3, -4, 2], [2.0, -5.0, 4.0]))
    to_fieldmap: np.ndarray = field(default_factory=lambda: rigid([-2, 1, 3], [1.5, 2.0, -1.0]))

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        directions = rng.normal(size=(12, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self._waves = directions * (2 * np.pi / rng.uniform(self.shortest_mm, 2 * self.shortest_mm, (12, 1)))
        self._phases = rng.uniform(0, 2 * np.pi, 12)
        self.head_motion = np.stack(
            [rigid(rng.normal(0, 1.5, 3), rng.normal(0, 2.0, 3)) for _ in range(self.n_volumes)]
        )
        self.affine = np.eye(4)
        self.affine[:3, :3] = ORIENTATIONS[self.orientation] * self.voxel_mm
        self.affine[:3, 3] = -self.affine[:3, :3] @ ((np.array(self.shape) - 1) / 2) + [0, -18, 18]
        self.linear = rigid([2, 3, -2], [3.0, 1.0, -4.0]) @ np.diag([1.06, 0.95, 1.04, 1.0])

    # ---- the truth ---------------------------------------------------------------------------------

    def pattern(self, points: np.ndarray) -> np.ndarray:
        """Values on the template."""
        return 1000 + 50 * np.cos(points @ self._waves.T + self._phases).sum(axis=1)

    def gradient(self, points: np.ndarray) -> np.ndarray:
        return -50 * np.sin(points @ self._waves.T + self._phases) @ self._waves

    def warp(self, points: np.ndarray) -> np.ndarray:
        """Displacement of template points before the linear part."""
        x, y, z = (points / 160.0 * 2 * np.pi).T
        return 5.0 * np.stack([np.sin(y) * np.cos(z), np.sin(z) * np.cos(x), np.sin(x) * np.cos(y)], axis=1)

    def field_hz(self, points: np.ndarray) -> np.ndarray:
        """Off-resonance at points of the reference: up to 2 voxels of shift at this readout time."""
        x, y, z = (points / 140.0 * 2 * np.pi).T
        return 40.0 * np.cos(x) * np.cos(y + 1) * np.cos(z - 0.5)

    # ---- the recording -----------------------------------------------------------------------------

    @property
    def shift(self) -> np.ndarray:
        """Voxels for each Hz, along each axis."""
        sign = -1 if self.direction.endswith("-") else 1
        return sign * READOUT_S * np.eye(3)["ijk".index(self.direction[0])]

    def template_points(self, volume: int) -> np.ndarray:
        """Where each voxel of a recorded volume comes from on the template."""
        voxels = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
        to_reference = np.linalg.inv(self.head_motion[volume]) @ self.affine
        reference = move(to_reference, voxels)
        for _ in range(25):
            reference = move(to_reference, voxels - self.field_hz(reference)[:, None] * self.shift)
        before_warp = move(np.linalg.inv(self.linear) @ np.linalg.inv(self.coregistration), reference)
        points = before_warp
        # The warp contracts by 0.2 a step, so that 12 steps leave less than 1e-7 mm.
        for _ in range(12):
            points = before_warp - self.warp(points)
        return points

    def record(self, volume: int) -> np.ndarray:
        return self.pattern(self.template_points(volume)).reshape(self.shape).astype(np.float32)

    # ---- the files ---------------------------------------------------------------------------------

    def write(self, root: Path, data: np.ndarray | None = None) -> Path:
        """Raw dataset at `root` with fMRIPrep's minimal output in its derivatives; `data` replaces the volumes."""
        func = root / "sub-01/func"
        func.mkdir(parents=True)
        (root / "dataset_description.json").write_text('{"Name": "Phantom", "BIDSVersion": "1.8.0"}')
        volumes = np.stack([self.record(t) for t in range(self.n_volumes)], axis=-1) if data is None else data
        save(func / f"{STEM}_bold.nii.gz", volumes.astype(np.float32), self.affine)
        sidecar = {
            "RepetitionTime": 1.0,
            "TaskName": "movie",
            "PhaseEncodingDirection": self.direction,
            "TotalReadoutTime": READOUT_S,
        }
        (func / f"{STEM}_bold.json").write_text(json.dumps(sidecar))
        self._write_derivative(root / "derivatives/minimal")
        return root

    def _write_derivative(self, root: Path) -> None:
        func, anat, fmap = (root / "sub-01" / name for name in ("func", "anat", "fmap"))
        for folder in (func, anat, fmap):
            folder.mkdir(parents=True)
        description = {"Name": "x", "BIDSVersion": "1.4.0", "DatasetType": "derivative"}
        (root / "dataset_description.json").write_text(json.dumps(description))
        write_itk(func / f"{STEM}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt", self.head_motion)
        write_itk(func / f"{STEM}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt", self.coregistration[None])
        # Points of the fieldmap to points of the reference.
        write_itk(func / f"{STEM}_from-boldref_to-auto00000_mode-image_xfm.txt", self.to_fieldmap[None])
        grid = np.diag([5.0, 5.0, 5.0, 1.0])
        grid[:3, 3] = -150
        points = move(grid, np.stack(np.meshgrid(*[np.arange(61)] * 3, indexing="ij"), axis=-1).reshape(-1, 3))
        hertz = self.field_hz(move(self.to_fieldmap, points)).reshape(61, 61, 61)
        save(fmap / "sub-01_fmapid-auto00000_desc-preproc_fieldmap.nii.gz", hertz.astype(np.float32), grid)
        # In T1w space: a ball of brain, white matter in its middle, CSF on one side.
        radius = np.linalg.norm(points - [0, -18, 18], axis=1)
        save(anat / "sub-01_desc-brain_mask.nii.gz", (radius < 68).reshape(61, 61, 61).astype(np.uint8), grid)
        for label, inside in {"WM": radius < 22, "CSF": (radius > 40) & (radius < 60) & (points[:, 1] > 0)}.items():
            probability = inside.reshape(61, 61, 61).astype(np.float32)
            save(anat / f"sub-01_label-{label}_probseg.nii.gz", probability, grid)
        write_composite(
            anat / "sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
            self.linear,
            self.warp,
            self.warp_spacing_mm,
        )


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def write_itk(path: Path, matrices: np.ndarray) -> None:
    """ITK's text format: RAS matrices are turned to LPS."""
    lines = ["#Insight Transform File V1.0"]
    for number, matrix in enumerate(matrices):
        lps = LPS @ matrix @ LPS
        values = " ".join(f"{value:.12g}" for value in [*lps[:3, :3].ravel(), *lps[:3, 3]])
        lines += [f"#Transform {number}", "Transform: MatrixOffsetTransformBase_double_3_3", f"Parameters: {values}"]
        lines += ["FixedParameters: 0 0 0", ""]
    path.write_text("\n".join(lines))


def write_composite(path: Path, linear: np.ndarray, warp, spacing_mm: float) -> None:
    """ITK's composite in HDF5: an affine, then a displacement field, of which the last is applied first."""
    size = np.ceil(np.array([240, 280, 240]) / spacing_mm).astype(int)
    origin = np.array([-118.0, -155.0, -98.0])
    voxels = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1).reshape(-1, 3)
    displacement = warp(origin + spacing_mm * voxels) @ LPS[:3, :3]
    # The field's own axes run as in RAS; in LPS coordinates that is a direction matrix with two signs.
    parameters = np.moveaxis(displacement.reshape(*size, 3), -1, 0).ravel(order="F")
    fixed = np.concatenate([size, LPS[:3, :3] @ origin, [spacing_mm] * 3, LPS[:3, :3].ravel()])
    lps = LPS @ linear @ LPS
    with h5py.File(path, "w") as file:
        file["ITKVersion"], file["HDFVersion"] = [b"5.2.0"], [b"1.10"]
        group = file.create_group("TransformGroup")
        group["0/TransformType"] = [b"CompositeTransform_double_3_3"]
        group["1/TransformType"] = [b"AffineTransform_double_3_3"]
        group["1/TransformParameters"] = np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]])
        group["1/TransformFixedParameters"] = np.zeros(3)
        group["2/TransformType"] = [b"DisplacementFieldTransform_float_3_3"]
        group["2/TransformParameters"] = parameters.astype(np.float32)
        group["2/TransformFixedParameters"] = fixed
