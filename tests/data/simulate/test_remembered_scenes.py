"""Whether a person retells a scene can be told from how closely that person follows it; without the link, it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from titan_neuro.data.simulate import PRESETS, SimulateConfig
from titan_neuro.data.simulate.anatomy import assign_regions
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.scenes import shown_scenes
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents
from titan_neuro.data.simulate.story import Story
from titan_neuro.metrics import p_of_null
from titan_neuro.probing.tools.reinstatement import draw_keys
from titan_neuro.probing.tools.retold_scenes import WatchedScenes

N_VOXELS, N_PERMUTATIONS = 200, 999


def auc_of_following(seed: int, **settings: float) -> tuple[float, float]:
    """AUC of retold against forgotten scenes in six people, and its two-sided p.

    The measure needs no model: the product of a person's activity in the story's regions with the others' average.
    """
    config = SimulateConfig(**{**PRESETS["story"], "seed": seed, **settings})
    coordinates = np.random.default_rng(0).uniform([-60, -100, -40], [60, 60, 70], (N_VOXELS, 3))
    story = Story(config=config, regions=assign_regions(coordinates, config), coordinates_mm=coordinates)
    (run,) = run_designs(config)
    stimulus, baseline = latents_at_volumes(stimulus_latents(config), run), np.full(N_VOXELS, 1000.0)
    shared = {"stimulus": stimulus, "regions": story.regions, "baseline": baseline, "planted": [story]}
    people = []
    for subject in range(config.n_subjects):
        volumes = [*simulate_run(config, subject, run, followed=story.followed(subject, run), **shared)]
        series = np.array(volumes, dtype=float)[:, story.voxels]
        people.append((series - series.mean(axis=0)) / series.std(axis=0))
    names = tuple(scene.name for scene in story.scenes)
    keys = draw_keys(names, n_permutations=N_PERMUTATIONS, seed=seed)
    shown = shown_scenes(story.scenes, run)
    aucs = []
    for subject, person in enumerate(people):
        others = (sum(people) - person) / (len(people) - 1)
        followed = (person * others).mean(axis=1)
        scenes = WatchedScenes(
            names=names,
            n_time_points=np.array([stop - first for _, first, stop in shown]),
            is_retold=np.isin(np.arange(len(names)), story.retelling(subject).scenes),
            measures={"followed": np.array([followed[first:stop].mean() for _, first, stop in shown])},
        )
        aucs.append(scenes.auc("followed", keys))
    mean = np.mean(aucs, axis=0)
    return float(mean[0]), p_of_null(abs(mean[0] - 0.5), np.abs(mean[1:] - 0.5))


def test_what_is_retold_was_followed_closely():
    auc, p = auc_of_following(0)
    assert auc > 0.6 and p < 0.01


@pytest.mark.slow
def test_the_link_is_found_in_most_studies():
    found = [auc_of_following(seed) for seed in range(40)]
    assert np.mean([p < 0.05 for _, p in found]) > 0.9 and np.mean([auc for auc, _ in found]) > 0.6


@pytest.mark.slow
def test_absent_links_are_rejected_at_the_nominal_rate():
    n_seeds = 200
    n_found = sum(auc_of_following(seed, memory_gain=0.0)[1] < 0.05 for seed in range(n_seeds))
    low, high = binom.interval(0.99, n_seeds, 0.05)
    assert low <= n_found <= high, n_found
