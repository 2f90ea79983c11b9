"""Named regions of grey matter: where they lie, and which of them respond to the movie."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from titan_neuro.data.simulate import PRESETS, SimulateConfig, simulate
from titan_neuro.data.simulate.anatomy import assign_regions, is_cerebral, regions_of
from titan_neuro.data.simulate.config import STREAMS
from titan_neuro.data.simulate.files import template_brain
from titan_neuro.errors import ConfigError
from titan_neuro.files import read_json
from titan_neuro.tables import read_tsv

CONFIG = SimulateConfig(anatomy="cortex", voxel_size_mm=12)


def test_places_known_from_anatomy_are_named():
    names = [region.name for region in regions_of(CONFIG)]
    known = {
        "primary visual cortex": (-8, -92, 4),
        "fusiform gyrus": (40, -55, -15),
        "primary auditory cortex": (-46, -20, 8),
        "posterior medial and medial prefrontal cortex": (4, -58, 28),
        "somatomotor cortex": (-38, -26, 56),
    }
    regions = assign_regions(np.array([*known.values()], dtype=float), CONFIG)
    assert [names[index] for index in regions] == [*known]
    cerebellum_and_putamen = np.array([[-25.0, -65.0, -45.0], [25.0, 5.0, 2.0]])
    assert is_cerebral(cerebellum_and_putamen).tolist() == [False, True]


def test_regions_are_the_same_on_both_sides():
    points = np.random.default_rng(0).uniform([1, -100, -50], [70, 70, 70], (500, 3))
    right, left = (assign_regions(points * [side, 1, 1], CONFIG) for side in (1, -1))
    np.testing.assert_array_equal(right, left)


def test_regions_fill_streams_and_levels():
    regions = regions_of(CONFIG)
    driven = [(region.stream, region.level) for region in regions[: CONFIG.n_driven_regions]]
    assert driven == [(stream, level) for stream in STREAMS for level in range(4)]
    assert all(region.stream is None and region.level is None for region in regions[CONFIG.n_driven_regions :])
    brain, whole = template_brain(CONFIG), template_brain(replace(CONFIG, anatomy="bands"))
    assert set(brain.regions) == set(range(len(regions)))
    assert 0.3 < len(brain.regions) / len(whole.regions) < 0.8


def test_cortex_takes_four_levels():
    with pytest.raises(ConfigError, match=r"four|4 levels.*found 2"):
        SimulateConfig(anatomy="cortex", timescales_s=(3, 5), lags_s=(0, 3))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("story") / "synthetic"
    simulate(root, SimulateConfig(**{**PRESETS["story"], "n_subjects": 2, "voxel_size_mm": 12, "volume_scale": 0.4}))
    return root


def test_truth_gives_centers_inside_their_regions(written):
    truth = read_json(written / "truth.json")
    image = nib.load(written / truth["region_image"])
    labels, to_mm = np.asarray(image.dataobj), image.affine
    coordinates = np.argwhere(labels) @ to_mm[:3, :3].T + to_mm[:3, 3]
    of_voxel = labels[labels > 0]
    for region in truth["regions"]:
        assert (of_voxel == region["index"]).sum() == region["n_voxels"] > 0
        # Voxels of 12 mm: the nearest of the region is at most 2 voxels from its center.
        for center in region["centers_mm"]:
            mine = coordinates[of_voxel == region["index"]]
            assert np.linalg.norm(mine - center, axis=1).min() < 24, region["name"]


def test_undriven_regions_do_not_respond_to_the_movie(written):
    truth = read_json(written / "truth.json")
    labels = np.asarray(nib.load(written / truth["region_image"]).dataobj)
    series = []
    for name in ("sub-sid000005", "sub-sid000007"):
        image = nib.load(written / name / f"func/{name}_task-movie_run-01_bold.nii.gz")
        series.append(np.asarray(image.dataobj)[labels > 0].astype(float))
    run = truth["runs"][0]
    shown = slice(run["fixation"], run["fixation"] + run["stimulus"])
    between = {}
    for region in truth["regions"]:
        means = [each[labels[labels > 0] == region["index"], shown].mean(axis=0) for each in series]
        between[region["name"]] = np.corrcoef(*means)[0, 1], region["stream"]
    assert min(r for r, stream in between.values() if stream == "ventral") > 0.4
    assert max(r for r, stream in between.values() if stream is None) < 0.4


def test_the_story_preset_names_its_characters(written):
    name = "sub-sid000007"
    events = read_tsv(written / name / f"func/{name}_task-movie_run-01_events.tsv")
    scenes = events[events["trial_type"] == "scene"]
    truth = read_json(written / "truth.json")
    assert set(scenes["character"]) == {f"character-{number + 1}" for number in range(4)}
    cues = read_tsv(written / f"derivatives/truth/{name}/func/{name}_task-movie_run-01_desc-cue_events.tsv")
    np.testing.assert_array_equal(cues["onset"].astype(float), scenes["onset"].astype(float))
    np.testing.assert_array_equal(cues["duration"].astype(float), scenes["duration"].astype(float))
    assert [f"character-{cue}" for cue in cues["cue"]] == list(scenes["character"])
    assert "grey matter" in (written / "README").read_text()
    assert truth["associations"]["cue_source"] == "story" and truth["story"]["engagement"] == 2.0
