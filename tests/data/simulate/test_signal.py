"""The signal of a synthetic dataset against its configuration and its ground truth."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from titan_neuro.data.simulate import SimulateConfig
from titan_neuro.data.simulate.anatomy import assign_regions
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents


def volumes_of(root: Path, subject: str, run: int) -> np.ndarray:
    """Volumes of a run inside the mask, ``(time, voxels)``."""
    mask = nib.load(root / f"derivatives/mask/{subject}/func/{subject}_task-movie_desc-brain_mask.nii.gz")
    image = nib.load(root / f"{subject}/func/{subject}_task-movie_run-{run:02d}_bold.nii.gz")
    return np.asarray(image.dataobj)[np.asarray(mask.dataobj) > 0].T.astype(float)


# ---- the configuration ---------------------------------------------------------------------------


def test_latents_have_the_configured_timescales_and_lags():
    config = SimulateConfig(n_runs=5, volume_scale=1)
    latents = stimulus_latents(config).reshape(-1, 3, 4)
    n = len(latents)
    innovations = [
        (latents[1:, :, k] - np.exp(-1 / tau) * latents[:-1, :, k]) for k, tau in enumerate(config.timescales_s)
    ]
    for level, (timescale, lag) in enumerate(zip(config.timescales_s, config.lags_s, strict=True)):
        x = latents[:, :, level]
        for step in (1, 3):
            correlation = (x[step:] * x[:-step]).mean() / (x**2).mean()
            # Bartlett's standard error of an autocorrelation at that timescale, three streams.
            assert abs(correlation - np.exp(-step / timescale)) < 4 * np.sqrt(2 * timescale / (3 * n))
        # The innovations are those of the lowest level, delayed by `lag`.
        lowest, here = innovations[0], innovations[level]
        correlations = [np.corrcoef(lowest[: n - 1 - shift].ravel(), here[shift:].ravel())[0, 1] for shift in range(15)]
        assert np.argmax(correlations) == lag
        assert correlations[lag] > 0.999
        assert np.delete(correlations, lag).max() < 0.06


def test_overlapping_runs_show_the_same_movie():
    config = SimulateConfig(
        volume_scale=1, stimulus_fraction=1, spontaneous_fraction=0, drift_fraction=0, n_subjects=2, n_runs=2
    )
    latents = stimulus_latents(config)
    regions, baseline = np.arange(12), np.full(12, 1000.0)
    first, second = run_designs(config)

    def volumes(subject, run):
        stimulus = latents_at_volumes(latents, run)
        return np.array(list(simulate_run(config, subject, run, stimulus=stimulus, regions=regions, baseline=baseline)))

    one, two = volumes(0, first), volumes(1, second)
    repeated = one[first.fixation + first.stimulus - 10 : first.fixation + first.stimulus]
    np.testing.assert_array_equal(repeated, two[10:20])
    # Only the baseline during fixation.
    assert (one[:10] == 1000).all()
    assert (one[-11:] == 1000).all()
    assert one[10:-11].std() > 5


def test_variances_are_as_configured():
    config = SimulateConfig(volume_scale=1, n_runs=1)
    (run,) = run_designs(config)
    stimulus = latents_at_volumes(stimulus_latents(config), run)
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(-60, 60, (1200, 3))
    regions = assign_regions(coordinates, config)
    assert (np.bincount(regions) == 100).all()
    every_tenth = []
    for subject in range(20):
        volumes = simulate_run(config, subject, run, stimulus=stimulus, regions=regions, baseline=np.full(1200, 1000.0))
        every_tenth.append(np.array([volume[::10] for volume in volumes]) / 10 - 100)
    per_cent = np.array(every_tenth)[:, run.fixation : run.fixation + run.stimulus]
    truth = stimulus[run.fixation : run.fixation + run.stimulus][:, regions[::10]]
    # Subjects share only the movie: it is in their mean, and everything else is in the residual of each.
    slope = (per_cent.mean(0) * truth).sum() / (truth**2).sum()
    assert slope == pytest.approx(1.5 * np.sqrt(config.stimulus_fraction), rel=0.05)
    residual = per_cent - slope * truth
    assert residual.var() == pytest.approx(1.5**2 * (1 - config.stimulus_fraction), rel=0.05)
    # Two voxels of a region differ in drift and noise; the fourth difference in time (of gain 70) removes the drift.
    one, other = np.flatnonzero(regions[::10] == 3)[:2]
    difference = np.diff(residual[:, :, one] - residual[:, :, other], n=4, axis=1)
    assert difference.var() / 70 == pytest.approx(2 * 1.5**2 * config.thermal_fraction, rel=0.1)


def test_truth_describes_the_images(synthetic):
    truth = json.loads((synthetic / "truth.json").read_text())
    segmentation = np.asarray(nib.load(synthetic / truth["region_image"]).dataobj)
    latents = pd.read_csv(synthetic / truth["stimulus_latents"], sep="\t").set_index("stimulus_time")
    assert sum(truth["variance_fractions"].values()) == pytest.approx(1)
    names = pd.read_csv(synthetic / "derivatives/truth/desc-region_dseg.tsv", sep="\t").set_index("index")["name"]
    of_voxel = segmentation[segmentation > 0]
    subjects = sorted(path.name for path in synthetic.glob("sub-*"))
    run = truth["runs"][1]
    mean = np.mean([volumes_of(synthetic, subject, 2) for subject in subjects], axis=0)
    stimulated = slice(run["fixation"], run["fixation"] + run["stimulus"])
    seconds = range(run["stimulus_start"], run["stimulus_start"] + run["stimulus"])
    for region in truth["regions"]:
        assert names[region["index"]] == region["name"]
        assert (of_voxel == region["index"]).sum() == region["n_voxels"]
        measured = mean[stimulated, of_voxel == region["index"]].mean(1)
        assert np.corrcoef(measured, latents.loc[seconds, region["name"]])[0, 1] > 0.7


def test_predictability_is_realistic(synthetic):
    """On a held-out subject and run AR(8) explains 0.3 to 0.5 of the next volume; other regions' past adds to that."""
    truth = json.loads((synthetic / "truth.json").read_text())
    segmentation = np.asarray(nib.load(synthetic / truth["region_image"]).dataobj)
    regions = segmentation[segmentation > 0] - 1
    to_regions = np.eye(12)[regions] / np.bincount(regions)
    order = 8

    def scaled(subject, run):
        volumes = volumes_of(synthetic, subject, run)
        return (volumes - volumes.mean(0)) / volumes.std(0)

    def lagged(volumes):
        return np.stack([volumes[order - 1 - k : len(volumes) - 1 - k] for k in range(order)], axis=-1)

    subjects = sorted(path.name for path in synthetic.glob("sub-*"))
    training = [scaled(subject, run) for subject in subjects[:5] for run in (1, 2)]
    test = scaled(subjects[5], 3)
    past = np.concatenate([lagged(volumes) for volumes in training])
    future = np.concatenate([volumes[order:] for volumes in training])
    weights = np.stack([np.linalg.lstsq(past[:, v], future[:, v], rcond=None)[0] for v in range(len(regions))])
    forecast = np.einsum("tvk,vk->tv", lagged(test), weights)
    error = ((test[order:] - forecast) ** 2).sum(0)
    r2 = 1 - error / (test[order:] ** 2).sum(0)
    assert 0.3 < r2.mean() < 0.5

    def regions_past(volumes):
        return lagged(volumes @ to_regions).reshape(len(volumes) - order, -1)

    features = np.concatenate([regions_past(volumes) for volumes in training])
    residual = future - np.einsum("tvk,vk->tv", past, weights)
    gram = features.T @ features + 100 * np.eye(features.shape[1])
    forecast = forecast + regions_past(test) @ np.linalg.solve(gram, features.T @ residual)
    skill = 1 - ((test[order:] - forecast) ** 2).sum() / error.sum()
    assert skill > 0.05
