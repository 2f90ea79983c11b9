"""Layout of the synthetic dataset against the real one (names, sidecars, headers), and reproducible bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from titan_neuro.data.bids.annex import annex_key
from titan_neuro.data.simulate import SimulateConfig
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.files import write_dataset


def images(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*.nii.gz") if ".git" not in path.parts)


def digests(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256((root / path).read_bytes()).hexdigest() for path in images(root)}


# ---- layout --------------------------------------------------------------------------------------


def test_real_timing_at_scale_one(real_files):
    _, content = real_files
    for run in run_designs(SimulateConfig(n_runs=5, volume_scale=1)):
        stem = f"sub-sid000005/func/sub-sid000005_task-movie_run-{run.run:02d}"
        rows = [line.split("\t") for line in content[f"{stem}_events.tsv"].splitlines()[1:]]
        assert run.events() == [(float(onset), float(duration), kind) for onset, duration, kind in rows]
        assert run.n_volumes == json.loads(content[f"{stem}_bold.json"])["dcmmeta_shape"][3]
    # Movie time of the first volume that shows the movie, from the data paper's code.
    starts = [run.stimulus_start for run in run_designs(SimulateConfig(n_runs=5, volume_scale=1))]
    np.testing.assert_allclose(starts, [2722.899, 3290.0, 3747.0, 4250.0, 4837.0], atol=0.2)


def test_names_are_those_of_the_real_dataset(synthetic, real_files):
    names, _ = real_files
    simulated = {str(path.relative_to(synthetic)) for path in synthetic.glob("sub-*/func/*")}
    assert len(simulated) == 6 * 3 * 3
    assert simulated <= names


def test_sidecars_have_the_real_values(synthetic, real_files):
    _, content = real_files
    name = "sub-sid000005/func/sub-sid000005_task-movie_run-02_bold.json"
    simulated, real = json.loads((synthetic / name).read_text()), json.loads(content[name])
    for field in ("TaskName", "RepetitionTime", "EchoTime", "FlipAngle", "PhaseEncodingDirection", "TotalReadoutTime"):
        assert simulated[field] == real[field]
    assert '"RepetitionTime": 1,' in (synthetic / name).read_text()


def test_bids_validator_finds_no_error(synthetic):
    program = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([program, "--json", synthetic], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert done.returncode == 0


def test_image_headers(synthetic):
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_to_img

    image = nib.load(synthetic / "sub-sid000007/func/sub-sid000007_task-movie_run-02_bold.nii.gz")
    header = image.header
    assert image.shape == (14, 17, 14, 124)
    assert image.get_data_dtype() == np.int16
    assert header.get_zooms() == (12, 12, 12, 1)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert (header["sform_code"], header["qform_code"]) == (4, 4)
    np.testing.assert_array_equal(header.get_qform(), header.get_sform())
    mask = nib.load(synthetic / "derivatives/mask/sub-sid000007/func/sub-sid000007_task-movie_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(mask.affine, image.affine)
    inside = np.asarray(mask.dataobj) > 0
    assert 1000 < inside.sum() < 1200
    # Resampled to the template's grid, the mask covers the template's brain.
    brain = load_mni152_brain_mask(resolution=2)
    back = np.asarray(resample_to_img(mask, brain, interpolation="nearest").dataobj) > 0
    brain = np.asarray(brain.dataobj) > 0
    assert 2 * (back & brain).sum() / (back.sum() + brain.sum()) > 0.85
    data = np.asarray(image.dataobj)
    assert (data[~inside] == 0).all()
    assert data[inside].min() > 200


def test_is_a_clean_datalad_dataset(synthetic):
    # Git calls git-annex for files whose time stamps are not conclusive.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["git", "-C", synthetic, "status", "--porcelain"]
    status = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert status.stdout == ""
    assert all(annex_key(synthetic / path).startswith("MD5E-s") for path in images(synthetic))
    assert not any(path.is_symlink() for pattern in ("*.json", "*/func/*.tsv") for path in synthetic.glob(pattern))


# ---- same seed, same bytes -----------------------------------------------------------------------


def test_same_seed_same_bytes_with_fewer_subjects_too(small_synthetic, tmp_path):
    fewer = {"n_subjects": 1, "n_runs": 1, "volume_scale": 0.05, "voxel_size_mm": 20}
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        write_dataset(tmp_path / str(seed), SimulateConfig(**fewer, seed=seed), {})
    whole, part, other = (digests(root) for root in (small_synthetic, tmp_path / "0", tmp_path / "1"))
    assert len(whole) == 2 * 2 + 2 + 1
    assert part.items() <= whole.items()
    run = "sub-sid000005/func/sub-sid000005_task-movie_run-01_bold.nii.gz"
    assert other[run] != whole[run]
