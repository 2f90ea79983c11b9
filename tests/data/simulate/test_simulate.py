"""The twin: its layout against the real dataset's, its signal against what truth.json says was planted."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from titan_neuro.data.annex import annex_key
from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.data.simulate.signal import assign_regions, film_latents, run_frames, screened_latents, screenings
from titan_neuro.errors import ConfigError, FetchError, OutputError

DS003017 = Path(__file__).parents[3].parent / "shared" / "ds003017" / "ds003017-metadata.tar.gz"
SMALL = SimulateConfig(n_subjects=2, n_runs=2, volume_scale=0.05, voxel_size_mm=20)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A twin of the default settings."""
    root = tmp_path_factory.mktemp("simulate") / "twin"
    simulate(root, SimulateConfig())
    return root


@pytest.fixture(scope="module")
def real_files():
    """Names in ds003017, and the content of the small ones of its first subject."""
    if not DS003017.exists():
        pytest.skip("the published metadata of ds003017 are not beside the project")
    with tarfile.open(DS003017) as tar:
        members = {member.name: member for member in tar}
        content = {
            name: tar.extractfile(member).read().decode()
            for name, member in members.items()
            if name.startswith("sub-sid000005/func/") and member.isfile()
        }
    return set(members), content


def images(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*.nii.gz") if ".git" not in path.parts)


def digests(root: Path) -> dict[str, tuple[str, str | None]]:
    return {
        str(path): (hashlib.sha256((root / path).read_bytes()).hexdigest(), annex_key(root / path))
        for path in images(root)
    }


def frames_of(root: Path, subject: str, run: int) -> np.ndarray:
    """Volumes of a run inside the mask, ``(time, voxels)``."""
    mask = nib.load(root / f"derivatives/mask/{subject}/func/{subject}_task-movie_desc-brain_mask.nii.gz")
    image = nib.load(root / f"{subject}/func/{subject}_task-movie_run-{run:02d}_bold.nii.gz")
    return np.asarray(image.dataobj)[np.asarray(mask.dataobj) > 0].T.astype(float)


# ---- layout --------------------------------------------------------------------------------------


def test_real_timing_at_scale_one(real_files):
    _, content = real_files
    for run in screenings(SimulateConfig(n_runs=5, volume_scale=1)):
        stem = f"sub-sid000005/func/sub-sid000005_task-movie_run-{run.run:02d}"
        rows = [line.split("\t") for line in content[f"{stem}_events.tsv"].splitlines()[1:]]
        assert run.events() == [(float(onset), float(duration), kind) for onset, duration, kind in rows]
        assert run.n_volumes == json.loads(content[f"{stem}_bold.json"])["dcmmeta_shape"][3]
    # Film time of the first volume of film, from the data paper's code.
    starts = [run.film_start for run in screenings(SimulateConfig(n_runs=5, volume_scale=1))]
    np.testing.assert_allclose(starts, [2722.899, 3290.0, 3747.0, 4250.0, 4837.0], atol=0.2)


def test_names_are_those_of_the_real_dataset(twin, real_files):
    names, _ = real_files
    simulated = {str(path.relative_to(twin)) for path in twin.glob("sub-*/func/*")}
    assert len(simulated) == 6 * 3 * 3
    assert simulated <= names


def test_sidecars_have_the_real_values(twin, real_files):
    _, content = real_files
    name = "sub-sid000005/func/sub-sid000005_task-movie_run-02_bold.json"
    simulated, real = json.loads((twin / name).read_text()), json.loads(content[name])
    for field in ("TaskName", "RepetitionTime", "EchoTime", "FlipAngle", "PhaseEncodingDirection", "TotalReadoutTime"):
        assert simulated[field] == real[field]
    assert '"RepetitionTime": 1,' in (twin / name).read_text()


def test_bids_validator_finds_no_error(twin):
    program = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([program, "--json", twin], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert done.returncode == 0


def test_image_headers(twin):
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_to_img

    image = nib.load(twin / "sub-sid000007/func/sub-sid000007_task-movie_run-02_bold.nii.gz")
    header = image.header
    assert image.shape == (14, 17, 14, 124)
    assert image.get_data_dtype() == np.int16
    assert header.get_zooms() == (12, 12, 12, 1)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert (header["sform_code"], header["qform_code"]) == (4, 4)
    np.testing.assert_array_equal(header.get_qform(), header.get_sform())
    mask = nib.load(twin / "derivatives/mask/sub-sid000007/func/sub-sid000007_task-movie_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(mask.affine, image.affine)
    inside = np.asarray(mask.dataobj) > 0
    assert 1000 < inside.sum() < 1200
    # Brought back to the millimetre grid, it covers the brain of the template.
    brain = load_mni152_brain_mask(resolution=2)
    back = np.asarray(resample_to_img(mask, brain, interpolation="nearest").dataobj) > 0
    brain = np.asarray(brain.dataobj) > 0
    assert 2 * (back & brain).sum() / (back.sum() + brain.sum()) > 0.85
    data = np.asarray(image.dataobj)
    assert (data[~inside] == 0).all()
    assert data[inside].min() > 200


def test_is_a_clean_datalad_dataset(twin):
    # Git asks git-annex about files whose time stamps tell it nothing.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["git", "-C", twin, "status", "--porcelain"]
    status = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert status.stdout == ""
    assert all(annex_key(twin / path).startswith("MD5E-s") for path in images(twin))
    assert not any(path.is_symlink() for pattern in ("*.json", "*/func/*.tsv") for path in twin.glob(pattern))


# ---- same seed, same bytes -----------------------------------------------------------------------


def test_same_seed_same_bytes_and_fewer_subjects_change_nothing(tmp_path):
    simulate(tmp_path / "one", SMALL)
    simulate(tmp_path / "two", SimulateConfig(n_subjects=2, n_runs=2, volume_scale=0.05, voxel_size_mm=20))
    simulate(tmp_path / "three", SimulateConfig(n_subjects=1, n_runs=1, volume_scale=0.05, voxel_size_mm=20))
    simulate(tmp_path / "other", SimulateConfig(n_subjects=1, n_runs=1, volume_scale=0.05, voxel_size_mm=20, seed=1))
    one, three, other = (digests(tmp_path / name) for name in ("one", "three", "other"))
    assert len(one) == 2 * 2 + 2 + 1
    assert one == digests(tmp_path / "two")
    assert three.items() <= one.items()
    run = "sub-sid000005/func/sub-sid000005_task-movie_run-01_bold.nii.gz"
    assert other[run] != one[run]


# ---- what was planted ----------------------------------------------------------------------------


def test_latents_have_the_planted_timescales_and_lags():
    config = SimulateConfig(n_runs=5, volume_scale=1)
    latents = film_latents(config).reshape(-1, 3, 4)
    n = len(latents)
    news = [(latents[1:, :, k] - np.exp(-1 / tau) * latents[:-1, :, k]) for k, tau in enumerate(config.timescales_s)]
    for level, (timescale, lag) in enumerate(zip(config.timescales_s, config.lags_s, strict=True)):
        x = latents[:, :, level]
        for step in (1, 3):
            correlation = (x[step:] * x[:-step]).mean() / (x**2).mean()
            # Bartlett's standard error of an autocorrelation at that timescale, three streams.
            assert abs(correlation - np.exp(-step / timescale)) < 4 * np.sqrt(2 * timescale / (3 * n))
        # What is new at the lowest level is what is new here, `lag` later, and at no other time.
        correlations = [
            np.corrcoef(news[0][: n - 1 - shift].ravel(), news[level][shift:].ravel())[0, 1] for shift in range(15)
        ]
        assert np.argmax(correlations) == lag
        assert correlations[lag] > 0.999
        assert np.delete(correlations, lag).max() < 0.06


def test_the_overlap_shows_the_same_film():
    config = SimulateConfig(
        volume_scale=1, film_fraction=1, spontaneous_fraction=0, drift_fraction=0, n_subjects=2, n_runs=2
    )
    latents = film_latents(config)
    regions, baseline = np.arange(12), np.full(12, 1000.0)
    first, second = screenings(config)

    def frames(subject, run):
        film = screened_latents(latents, run)
        return np.array(list(run_frames(config, subject, run, film=film, regions=regions, baseline=baseline)))

    one, two = frames(0, first), frames(1, second)
    last_seen = one[first.fixation + first.film - 10 : first.fixation + first.film]
    np.testing.assert_array_equal(last_seen, two[10:20])
    # Nothing but the baseline during fixation.
    assert (one[:10] == 1000).all()
    assert (one[-11:] == 1000).all()
    assert one[10:-11].std() > 5


def test_variances_are_as_configured():
    config = SimulateConfig(volume_scale=1, n_runs=1)
    (run,) = screenings(config)
    film = screened_latents(film_latents(config), run)
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(-60, 60, (1200, 3))
    regions = assign_regions(coordinates, 4)
    assert (np.bincount(regions) == 100).all()
    kept = []
    for subject in range(20):
        frames = run_frames(config, subject, run, film=film, regions=regions, baseline=np.full(1200, 1000.0))
        kept.append(np.array([frame[::10] for frame in frames]) / 10 - 100)
    per_cent = np.array(kept)[:, run.fixation : run.fixation + run.film]
    planted = film[run.fixation : run.fixation + run.film][:, regions[::10]]
    # Subjects share the film alone: their mean shows it, what is left of each is the rest.
    slope = (per_cent.mean(0) * planted).sum() / (planted**2).sum()
    assert slope == pytest.approx(1.5 * np.sqrt(config.film_fraction), rel=0.05)
    rest = per_cent - slope * planted
    assert rest.var() == pytest.approx(1.5**2 * (1 - config.film_fraction), rel=0.05)
    # Two voxels of a region differ in drift and noise, each its own; four differences in time (of gain 70) leave noise.
    one, other = np.flatnonzero(regions[::10] == 3)[:2]
    difference = np.diff(rest[:, :, one] - rest[:, :, other], n=4, axis=1)
    assert difference.var() / 70 == pytest.approx(2 * 1.5**2 * config.thermal_fraction, rel=0.1)


def test_truth_describes_the_images(twin):
    truth = json.loads((twin / "truth.json").read_text())
    segmentation = np.asarray(nib.load(twin / truth["region_image"]).dataobj)
    latents = pd.read_csv(twin / truth["film_latents"], sep="\t").set_index("film_time")
    assert sum(truth["variance_fractions"].values()) == pytest.approx(1)
    names = pd.read_csv(twin / "derivatives/truth/desc-region_dseg.tsv", sep="\t").set_index("index")["name"]
    of_voxel = segmentation[segmentation > 0]
    subjects = sorted(path.name for path in twin.glob("sub-*"))
    run = truth["runs"][1]
    mean = np.mean([frames_of(twin, subject, 2) for subject in subjects], axis=0)
    shown = slice(run["fixation"], run["fixation"] + run["film"])
    seconds = range(run["film_start"], run["film_start"] + run["film"])
    for region in truth["regions"]:
        assert names[region["index"]] == region["name"]
        assert (of_voxel == region["index"]).sum() == region["n_voxels"]
        measured = mean[shown, of_voxel == region["index"]].mean(1)
        assert np.corrcoef(measured, latents.loc[seconds, region["name"]])[0, 1] > 0.7


def test_voxels_are_as_predictable_as_real_ones_and_more_so_from_other_regions(twin):
    """On a held-out subject and run AR(8) explains 0.3 to 0.5 of the next frame; other regions' past adds to it."""
    truth = json.loads((twin / "truth.json").read_text())
    segmentation = np.asarray(nib.load(twin / truth["region_image"]).dataobj)
    regions = segmentation[segmentation > 0] - 1
    to_regions = np.eye(12)[regions] / np.bincount(regions)
    order = 8

    def scaled(subject, run):
        frames = frames_of(twin, subject, run)
        return (frames - frames.mean(0)) / frames.std(0)

    def lagged(frames):
        return np.stack([frames[order - 1 - k : len(frames) - 1 - k] for k in range(order)], axis=-1)

    subjects = sorted(path.name for path in twin.glob("sub-*"))
    training = [scaled(subject, run) for subject in subjects[:5] for run in (1, 2)]
    test = scaled(subjects[5], 3)
    past = np.concatenate([lagged(frames) for frames in training])
    future = np.concatenate([frames[order:] for frames in training])
    weights = np.stack([np.linalg.lstsq(past[:, v], future[:, v], rcond=None)[0] for v in range(len(regions))])
    forecast = np.einsum("tvk,vk->tv", lagged(test), weights)
    error = ((test[order:] - forecast) ** 2).sum(0)
    r2 = 1 - error / (test[order:] ** 2).sum(0)
    assert 0.3 < r2.mean() < 0.5

    def regions_past(frames):
        return lagged(frames @ to_regions).reshape(len(frames) - order, -1)

    features = np.concatenate([regions_past(frames) for frames in training])
    residual = future - np.einsum("tvk,vk->tv", past, weights)
    gram = features.T @ features + 100 * np.eye(features.shape[1])
    forecast = forecast + regions_past(test) @ np.linalg.solve(gram, features.T @ residual)
    skill = 1 - ((test[order:] - forecast) ** 2).sum() / error.sum()
    assert skill > 0.05


# ---- an output folder that is not free -----------------------------------------------------------


def test_a_finished_twin_is_left_alone_and_another_is_refused(tmp_path):
    simulate(tmp_path / "twin", SMALL)
    head = tmp_path / "twin" / ".git" / "refs" / "heads"
    before = {path: path.read_text() for path in head.iterdir()}
    began = time.perf_counter()
    simulate(tmp_path / "twin", SMALL)
    assert time.perf_counter() - began < 0.5
    assert before == {path: path.read_text() for path in head.iterdir()}
    with pytest.raises(OutputError, match=r"twin of other settings \(they differ in seed\)"):
        simulate(tmp_path / "twin", SimulateConfig(**{**vars_of(SMALL), "seed": 5}))


def vars_of(config: SimulateConfig) -> dict:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no simulated dataset"):
        simulate(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError):
        simulate(tmp_path / "notes.txt" / "twin", SMALL)


def test_after_a_kill_the_next_call_begins_anew(tmp_path):
    script = (
        "from pathlib import Path; from titan_neuro.data.simulate import *; "
        f"simulate(Path({str(tmp_path / 'twin')!r}), SimulateConfig(n_subjects=25, n_runs=5, volume_scale=1))"
    )
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".twin.*.tmp/sub-*/func/*_bold.nii.gz")):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "twin").exists()
    simulate(tmp_path / "twin", SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".twin.lock", "twin"]


# ---- the machine ---------------------------------------------------------------------------------


def test_without_activation_without_identity_and_silent(tmp_path):
    """The interpreter called by its path, on a machine where git knows nobody: it works, and only our bar is seen."""
    script = (
        "from pathlib import Path; from titan_neuro.data.simulate import *; "
        "simulate(Path('twin'), SimulateConfig(n_subjects=1, n_runs=1, volume_scale=0.05, voxel_size_mm=20))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert all("Simulating" in line for line in done.stderr.split("\n") if line.strip()), done.stderr
    log = subprocess.run(
        ["git", "-C", tmp_path / "twin", "log", "--all", "--format=%an <%ae>"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(log.stdout.split("\n")) - {""} == {"Titan-Neuro <titan-neuro@localhost>"}


def test_git_annex_absent(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to("/usr/bin/git")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "bin"))
    with pytest.raises(FetchError, match="git-annex was not found"):
        simulate(tmp_path / "twin", SMALL)
    assert not (tmp_path / "twin").exists()


def test_settings_out_of_range():
    with pytest.raises(ValidationError):
        SimulateConfig(n_runs=6)
    with pytest.raises(ValidationError):
        SimulateConfig(subjects=3)
    with pytest.raises(ConfigError, match="must not exceed 1"):
        SimulateConfig(film_fraction=0.9, spontaneous_fraction=0.2)
    with pytest.raises(ConfigError, match="one length"):
        SimulateConfig(lags_s=(0, 3))
