"""A synthetic story: scenes that return to their storyline, remembered with known strength, and retold."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.data.simulate.anatomy import assign_regions
from titan_neuro.data.simulate.config import FIRST_STIMULUS_SECOND, run_designs
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents
from titan_neuro.data.simulate.story import Story
from titan_neuro.errors import ConfigError
from titan_neuro.files import read_json
from titan_neuro.tables import read_tsv

SETTINGS = {"n_subjects": 2, "n_runs": 2, "story_fraction": 0.15, "voxel_size_mm": 20.0}


def make_story(**settings):
    coordinates = np.random.default_rng(0).uniform([-60, -100, -60], [60, 60, 70], (300, 3))
    config = SimulateConfig(**{"n_subjects": 25, "n_runs": 5, "volume_scale": 1, "story_fraction": 0.2, **settings})
    return Story(config=config, regions=assign_regions(coordinates, config), coordinates_mm=coordinates)


def test_scenes_cover_the_movie_without_gaps():
    story = make_story()
    scenes = story.scenes
    assert scenes[0].start == FIRST_STIMULUS_SECOND
    assert all(before.stop == after.start for before, after in itertools.pairwise(scenes))
    lengths = np.array([scene.stop - scene.start for scene in scenes])
    # Lengths of real events vary: a coefficient near that of an exponential distribution, less its shortest part.
    assert lengths.min() >= 6 and 10 < lengths.mean() < 20 and lengths.std() / lengths.mean() > 0.4
    last = run_designs(story.config)[-1]
    assert scenes[-1].stop == last.stimulus_start + last.stimulus
    storylines = "".join(scene.storyline for scene in scenes)
    assert storylines.startswith("AAAABBBBAAAA")


def test_storylines_share_half_of_their_variance():
    story = make_story()
    shown = story.patterns[:, story.voxels]
    np.testing.assert_allclose(np.square(shown).mean(axis=0), 1)
    assert not story.patterns[:, ~story.voxels].any() and 0.4 < story.voxels.mean() < 0.6
    r = np.corrcoef(shown)
    same = np.equal.outer(*[[scene.storyline for scene in story.scenes]] * 2) & ~np.eye(len(r), dtype=bool)
    different = ~same & ~np.eye(len(r), dtype=bool)
    assert r[same].mean() - r[different].mean() > 0.3


@pytest.mark.parametrize("memory_gain, low, high", [(3.0, 0.85, 1.0), (0.0, 0.45, 0.55)])
def test_strong_memories_are_retold(memory_gain, low, high):
    story = make_story(memory_gain=memory_gain)
    pairs = [(story.strength(subject), set(story.retelling(subject).scenes)) for subject in range(25)]
    retold, forgotten = ([], [])
    for strength, scenes in pairs:
        for index, value in enumerate(strength):
            (retold if index in scenes else forgotten).append(value)
    auc = (np.array(retold)[:, None] > np.array(forgotten)).mean()
    assert low < auc < high


def test_amplitudes_follow_the_strength():
    story = make_story()
    run = run_designs(story.config)[1]
    courses = story.time_courses(0, run)
    shown = {scene.name: courses[int(onset), int(scene.name) - 1] for onset, _, _, scene in story.events(run)}
    strength = {scene.name: value for scene, value in zip(story.scenes, story.strength(0), strict=True)}
    amplitudes, strengths = (np.array([each[name] for name in shown]) for each in (shown, strength))
    np.testing.assert_allclose(np.log(amplitudes), strengths / 2 - 0.25 + np.log(0.2) / 2)
    assert ((courses > 0).sum(axis=1) <= 1).all() and not courses[: run.fixation].any()


def test_remembered_scenes_are_followed_closely():
    """Only in the story's regions, only while scenes are shown, and only if asked for."""
    story = make_story(engagement=2.0)
    run = run_designs(story.config)[1]
    assert make_story().followed(0, run) is None
    followed = story.followed(3, run)
    upper = np.arange(12) % 4 >= 2
    assert followed.shape == (run.n_volumes, 12) and (followed[:, ~upper] == 1).all()
    assert (followed[: run.fixation] == 1).all() and (np.ptp(followed[:, upper], axis=1) == 0).all()
    events = {scene.name: followed[int(onset), 2] for onset, _, _, scene in story.events(run)}
    strength = {scene.name: value for scene, value in zip(story.scenes, story.strength(3), strict=True)}
    chance, strengths = (np.array([each[name] for name in events]) for each in (events, strength))
    np.testing.assert_allclose(np.log(chance / (1 - chance)), 2 * strengths)


def test_variance_stays_where_the_movie_is_not_followed():
    config = SimulateConfig(volume_scale=1, n_runs=1)
    (run,) = run_designs(config)
    stimulus = latents_at_volumes(stimulus_latents(config), run)
    regions, baseline = np.repeat(np.arange(12), 20), np.full(240, 1000.0)
    shown = slice(run.fixation, run.fixation + run.stimulus)
    half = np.full((run.n_volumes, 12), 0.5)
    truth, spread, slopes = stimulus[shown][:, regions], [], []
    for followed in (None, half):
        given = {"stimulus": stimulus, "regions": regions, "baseline": baseline, "followed": followed}
        volumes = [np.array([*simulate_run(config, subject, run, **given)])[shown] for subject in range(6)]
        per_cent = np.array(volumes) / 10 - 100
        spread.append(np.var(per_cent, axis=1).mean())
        slopes.append((per_cent.mean(axis=0) * truth).sum() / (truth**2).sum())
    assert spread[1] == pytest.approx(spread[0], rel=0.1)
    assert slopes[1] / slopes[0] == pytest.approx(np.sqrt(0.5), rel=0.1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("story") / "synthetic"
    simulate(root, SimulateConfig(**SETTINGS))
    return root


def test_events_name_the_scenes_of_both_tasks(written):
    name = "sub-sid000005"
    movie = read_tsv(written / name / f"func/{name}_task-movie_run-02_events.tsv")
    recall = read_tsv(written / name / f"func/{name}_task-recall_events.tsv")
    assert list(movie) == list(recall) == ["onset", "duration", "trial_type", "scene", "storyline", "place"]
    assert set(movie["scene"][movie["trial_type"] == "movie"]) == {"n/a"}
    image = nib.load(written / name / f"func/{name}_task-recall_bold.nii.gz")
    assert image.shape[3] == 20 + recall["duration"].astype(float).sum()
    table = read_tsv(written / f"derivatives/truth/{name}/func/{name}_task-recall_desc-strength_scenes.tsv")
    assert list(recall["scene"]) == list(table["scene"][table["retold"] == "true"])
    assert read_json(written / "truth.json")["story"]["n_scenes"] == len(table)


def test_stories_need_room_and_a_still_head():
    with pytest.raises(ConfigError, match="story_fraction"):
        SimulateConfig(story_fraction=0.3)
    with pytest.raises(ConfigError, match="moving head"):
        SimulateConfig(story_fraction=0.1, transforms=True)
    with pytest.raises(ConfigError, match="retelling_fraction"):
        SimulateConfig(story_fraction=0.1, retelling_fraction=0.9)
