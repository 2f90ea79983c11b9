"""Transforms of a recorded synthetic dataset: read by other programs, they undo exactly what the scanner did."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nitransforms.io.itk import ITKCompositeH5, ITKLinearTransform, ITKLinearTransformArray
from scipy.ndimage import binary_erosion, map_coordinates

from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.fields import smooth_fields
from titan_neuro.data.simulate.files import template_brain
from titan_neuro.data.simulate.head import draw_head, draw_position
from titan_neuro.data.simulate.memory_content import plan_memory_content
from titan_neuro.data.simulate.scanner import Scanner, SubjectAnatomy
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents

# Only the movie, so that the noiseless volumes are known; large head motion, so that its correction matters.
CONFIG = SimulateConfig(
    n_subjects=1,
    n_runs=1,
    volume_scale=0.1,
    voxel_size_mm=6,
    stimulus_fraction=1,
    spontaneous_fraction=0,
    drift_fraction=0,
    signal_sd_percent=5,
    transforms=True,
    motion_sd_mm=1.5,
    motion_sd_degrees=1.5,
)
NAME = "sub-sid000005"
LPS = np.array([-1, -1, 1])


def recorder(brain):
    """Head, position and run of the one recording."""
    (run,) = run_designs(CONFIG)
    head = draw_head(CONFIG, 0, brain.coordinates_mm())
    return head, draw_position(CONFIG, 0, run, head)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    """One run of one subject, recorded."""
    root = tmp_path_factory.mktemp("recorded") / "synthetic"
    simulate(root, CONFIG)
    return root


@pytest.fixture(scope="module")
def brain():
    """The template's brain, which has the simulated signal."""
    return template_brain(CONFIG)


def minimal(root: Path, name: str) -> Path:
    kind = "anat" if "MPRAGE" in name else "fmap" if "fmapid" in name else "func"
    return root / "derivatives" / "ds003017-fmriprep" / NAME / kind / f"{NAME}_{name}"


def run_file(root: Path, name: str) -> Path:
    return minimal(root, f"task-movie_run-01_{name}")


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def sample(volume: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return map_coordinates(volume, through(np.linalg.inv(affine), points).T, order=1)


def through_composite(path: Path, points: np.ndarray) -> np.ndarray:
    """Map RAS points as ITK does: the last transform first; read by nitransforms."""
    for part in ITKCompositeH5.from_filename(path)[::-1]:
        if isinstance(part, ITKLinearTransform):
            points = through(part.to_ras(), points)
        else:
            field = np.asarray(part.dataobj)
            points = points + np.stack([sample(field[..., k], part.affine, points) for k in range(3)], axis=-1)
    return points


@dataclass
class Recorded:
    """Everything that resampling reads, from the files."""

    root: Path

    def __post_init__(self):
        bold = nib.load(self.root / NAME / "func" / f"{NAME}_task-movie_run-01_bold.nii.gz")
        self.data, self.affine = np.asarray(bold.dataobj).astype(float), bold.affine
        self.motion = ITKLinearTransformArray.from_filename(
            run_file(self.root, "from-orig_to-boldref_mode-image_desc-hmc_xfm.txt")
        ).to_ras()
        self.coreg, self.to_fieldmap = (
            ITKLinearTransform.from_filename(run_file(self.root, f"from-boldref_to-{name}_xfm.txt")).to_ras()
            for name in ("T1w_mode-image_desc-coreg", "auto00000_mode-image")
        )
        fieldmap = nib.load(minimal(self.root, "acq-25mm_fmapid-auto00000_desc-preproc_fieldmap.nii.gz"))
        self.hertz, self.fieldmap_affine = np.asarray(fieldmap.dataobj), fieldmap.affine
        sidecar = json.loads((self.root / NAME / "func" / f"{NAME}_task-movie_run-01_bold.json").read_text())
        assert sidecar["PhaseEncodingDirection"] == "j-"
        self.readout_time = sidecar["TotalReadoutTime"]

    def volumes(self, template_points: np.ndarray, *, still: bool = False, field_sign: float = 1) -> np.ndarray:
        """Values at the template's points in all volumes, by the convention that truth.json states."""
        h5 = minimal(self.root, "acq-MPRAGE_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5")
        boldref = through(self.coreg, through_composite(h5, template_points))
        hertz = sample(self.hertz, self.fieldmap_affine, through(np.linalg.inv(self.to_fieldmap), boldref))
        values = []
        for volume, motion in enumerate(self.motion):
            voxels = through(np.linalg.inv(self.affine), boldref if still else through(motion, boldref))
            voxels[:, 1] -= field_sign * self.readout_time * hertz
            values.append(map_coordinates(self.data[..., volume], voxels.T, order=1))
        return np.array(values)


@pytest.fixture(scope="module")
def truth(brain) -> np.ndarray:
    """The volumes in the template's space, before any scanner, ``(time, voxels)``."""
    (run,) = run_designs(CONFIG)
    stimulus = latents_at_volumes(stimulus_latents(CONFIG), run)
    volumes = simulate_run(CONFIG, 0, run, stimulus=stimulus, regions=brain.regions, baseline=brain.baseline)
    return np.array(list(volumes), dtype=float)


def of_regions(volumes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return np.stack([volumes[:, regions == region].mean(1) for region in range(12)], axis=-1)


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one - one.mean(0), other - other.mean(0)
    return (one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0))


# ---- the convention ------------------------------------------------------------------------------


def test_inverting_the_scanner_recovers_the_simulated_volumes(synthetic, brain, truth):
    inside = binary_erosion(brain.mask, iterations=2)[brain.mask]
    recovered = Recorded(synthetic).volumes(brain.coordinates_mm()[inside])
    stimulated = slice(4, -4)
    regions = brain.regions[inside]
    expected = truth[stimulated][:, inside]
    time_courses = correlations(of_regions(recovered[stimulated], regions), of_regions(expected, regions))
    # Interpolated twice: small regions mix with their neighbors.
    assert np.median(time_courses) > 0.995
    assert time_courses.min() > 0.975
    assert np.median(correlations(recovered[stimulated], expected)) > 0.95


@pytest.fixture(scope="module")
def smooth_recording(synthetic, brain):
    """A smooth image recorded from the same head in the same run; points and values of its voxels."""
    smooth = smooth_fields(np.random.default_rng(5), brain.coordinates_mm(), 40, 2)
    head, position = recorder(brain)
    scanner = Scanner(CONFIG, SubjectAnatomy(head, replace(brain, baseline=1000 + 100 * smooth[0])), position)
    recording = Recorded(synthetic)
    recording.data[:] = 0
    for volume in range(recording.data.shape[-1]):
        intensity, signal = scanner.acquire(volume, 0.1 * smooth[1])
        recording.data[scanner.grid.mask, volume] = intensity * (1 + signal)
    inside = binary_erosion(brain.mask, iterations=3)[brain.mask]
    expected = ((1000 + 100 * smooth[0]) * (1 + 0.1 * smooth[1]))[inside]
    return recording, brain.coordinates_mm()[inside], expected


def test_smooth_images_are_recovered(smooth_recording):
    recording, points, expected = smooth_recording
    recovered = recording.volumes(points)
    assert min(np.corrcoef(volume, expected)[0, 1] for volume in recovered) > 0.9999
    # Each part of the stated convention matters: without motion, or with another sign of the field, errors grow.
    moved = recording.volumes(points, still=True)
    assert moved.std(0).mean() > 5 * recovered.std(0).mean()
    error = np.abs(recovered.mean(0) - expected).mean()
    for sign in (0, -1):
        assert np.abs(recording.volumes(points, field_sign=sign).mean(0) - expected).mean() > 1.5 * error


def test_noise_belongs_to_the_scanners_voxels(brain):
    """Without a movie the variance is white noise of each recorded voxel, reduced where there is memory content."""
    noise = replace(
        CONFIG,
        stimulus_fraction=0,
        motion_sd_mm=0,
        motion_sd_degrees=0,
        volume_scale=0.5,
        delayed_response_fraction=0.75,
    )
    (run,) = run_designs(noise)
    head, _ = recorder(brain)
    scanner = Scanner(noise, SubjectAnatomy(head, brain), draw_position(noise, 0, run, head))
    content = plan_memory_content(noise, brain.regions, brain.coordinates_mm())
    fixation = replace(run, n_volumes=200, stimulus=0, fixation=200)
    volumes = simulate_run(
        *(noise, 0, fixation),
        stimulus=np.zeros((200, 12)),
        regions=brain.regions,
        baseline=brain.baseline,
        contents=[content],
        scanner=scanner,
    )
    volumes = np.array(list(volumes), dtype=float)
    bright = volumes.mean(0) > 500
    volumes = volumes[:, bright]
    sd = volumes.std(0) / volumes.mean(0)
    fraction = scanner.at_rest(content.variance_fraction)[bright]
    assert sd[fraction == 0].mean() == pytest.approx(0.05, rel=0.02)
    assert sd[fraction > 0.749].mean() == pytest.approx(0.05 * np.sqrt(0.25), rel=0.03)
    # Neighbors along the last axis.
    assert abs(correlations(volumes[:, ::2][:, :1000], volumes[:, 1::2][:, :1000]).mean()) < 0.01


# ---- the files, read by other programs -----------------------------------------------------------


@pytest.mark.parametrize("direction", ["from-T1w_to-MNI152NLin2009cAsym", "from-MNI152NLin2009cAsym_to-T1w"])
def test_composites_are_read_by_ants(synthetic, brain, direction):
    import ants

    path = minimal(synthetic, f"acq-MPRAGE_{direction}_mode-image_xfm.h5")
    points = brain.coordinates_mm()[::40]
    transform = ants.read_transform(str(path), precision="double")
    theirs = np.array([ants.apply_ants_transform_to_point(transform, point) for point in points * LPS]) * LPS
    np.testing.assert_allclose(through_composite(path, points), theirs, atol=1e-4)
    head, _ = recorder(brain)
    if direction.startswith("from-T1w"):
        np.testing.assert_allclose(head.t1w_from_template(points), theirs, atol=1e-4)
        assert np.linalg.norm(theirs - points, axis=1).mean() > 2
    else:
        # The inverse of a field that is linear between its nodes is not itself linear: errors of 0.1 mm.
        off = np.linalg.norm(head.template_from_t1w(points) - theirs, axis=1)
        assert off.mean() < 0.1
        assert off.max() < 0.5


def test_affines_are_read_by_ants(synthetic, brain):
    import ants

    _, position = recorder(brain)
    points = brain.coordinates_mm()[::200]
    for name, matrix in (
        ("from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt", position.boldref_from_t1w),
        ("from-boldref_to-auto00000_mode-image_xfm.txt", position.boldref_from_fieldmap),
    ):
        transform = ants.read_transform(str(run_file(synthetic, name)), precision="double")
        theirs = np.array([ants.apply_ants_transform_to_point(transform, point) for point in points * LPS]) * LPS
        np.testing.assert_allclose(through(matrix, points), theirs, atol=1e-6)
    hmc = run_file(synthetic, "from-orig_to-boldref_mode-image_desc-hmc_xfm.txt")
    theirs = ITKLinearTransformArray.from_filename(hmc).to_ras()
    np.testing.assert_allclose(theirs, position.volume_from_boldref, atol=1e-4)
