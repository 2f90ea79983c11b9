"""Reinstatement must be what plain correlations give, on simulated patterns and on people who retell what they saw."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from titan_neuro.data.prepare.timing import read_event_columns, read_events
from titan_neuro.data.space import Space
from titan_neuro.probing.tools.reinstatement import compare, draw_keys, map_reinstatement, neighborhoods, too_small
from titan_neuro.probing.tools.scenes import average_activity, average_over_runs, find_scenes
from titan_neuro.runs import InMemoryRun

SHERLOCK = Path(__file__).parents[4] / "shared/data/sherlock-pmc"


def patterns(seed, names, n_units=40):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=n_units) + 1 for name in names}


@pytest.fixture
def pair():
    watched = patterns(0, "abcdefg")
    noise = patterns(1, "gcaxe")
    return {name: values + watched.get(name, 0) for name, values in noise.items()}, watched


def test_similarities_are_correlations(pair):
    retold, watched = pair
    found = compare(retold, watched)
    r = np.corrcoef([retold[name] for name in "gcae"], [watched[name] for name in "abcdefg"])[:4, 4:]
    np.testing.assert_allclose(found.matrix, r)
    matched = r[[0, 1, 2, 3], [6, 2, 0, 4]]
    assert found.matched == pytest.approx(matched.mean())
    assert found.mismatched == pytest.approx((r.sum() - matched.sum()) / (4 * 6))
    # Scenes c and e alone have neighbors on both sides.
    neighbors = [r[1, 2] - (r[1, 1] + r[1, 3]) / 2, r[3, 4] - (r[3, 3] + r[3, 5]) / 2]
    assert found.over_neighbors == pytest.approx(np.mean(neighbors))


def test_shuffled_names_permute_the_retelling(pair):
    found = compare(*pair)
    keys = draw_keys("abcdefgx", n_permutations=50, seed=0)
    for index, value in enumerate(found.permuted(keys)):
        order = np.argsort([keys[name][index] for name in found.retold])
        assert value == pytest.approx(compare_columns(found.matrix, found.target[order]))


def compare_columns(matrix, columns):
    chosen = np.zeros(matrix.shape, bool)
    chosen[np.arange(len(columns)), columns] = True
    return matrix[chosen].mean() - matrix[~chosen].mean()


def test_a_steady_change_is_no_difference_from_neighbors():
    time, direction = np.linspace(-1, 1, 30), np.random.default_rng(0).normal(size=(2, 200))
    drifting = {str(index): direction[0] + t * direction[1] for index, t in enumerate(time)}
    found = compare(drifting, drifting)
    assert found.contrast > 0.1 and abs(found.over_neighbors) < 0.01


def test_few_scenes_and_constant_patterns_have_none(pair):
    retold, watched = pair
    assert compare({name: retold[name] for name in "gx"}, watched) is None
    assert compare({name: np.ones(40) for name in "abc"}, watched) is None


def test_the_map_of_features_averages_to_the_whole(pair):
    mapped = map_reinstatement(*pair, None)
    assert mapped.shape == (40,) and mapped.mean() == pytest.approx(compare(*pair).contrast)


def test_searchlights_are_correlations_of_neighbors():
    rng = np.random.default_rng(0)
    mask = rng.random((5, 5, 5)) > 0.2
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    retold, watched = patterns(2, "bca", mask.sum()), patterns(3, "abcd", mask.sum())
    near = neighborhoods(Space(kind="volume", name="x", mask=mask, affine=affine), 5.0)
    mapped = map_reinstatement(retold, watched, near)
    centers = np.argwhere(mask) * [3, 3, 4]
    for voxel in range(0, mask.sum(), 7):
        inside = np.linalg.norm(centers - centers[voxel], axis=1) <= 5
        if inside.sum() < 8:
            assert np.isnan(mapped[voxel])
            continue
        local = compare(*({name: each[inside] for name, each in part.items()} for part in (retold, watched)))
        assert mapped[voxel] == pytest.approx(local.contrast)
    assert np.isfinite(mapped).sum() > 20 and neighborhoods(Space(kind="parcels", name="x", parcels=("a",)), 5) is None


def sherlock_run(subject, stem, events):
    image, mask = (
        nib.load(SHERLOCK / subject / f"func/{subject}_{stem}_space-MNI152NLin6Asym_res-3_desc-{name}.nii.gz")
        for name in ("preproc_bold", "brain_mask")
    )
    series = torch.tensor(image.get_fdata(dtype=np.float32)[mask.get_fdata() > 0].T)
    run = InMemoryRun(series, key=f"{subject}_{stem}", subject=subject, stimulus=stem)
    run.events, run.event_columns = read_events(events), read_event_columns(events, 9e9)
    return run


def sherlock_scenes(run):
    return average_activity(run, find_scenes(run, "scene", delay_s=0.0, repetition_time=1.5))


@pytest.mark.skipif(not SHERLOCK.is_dir(), reason=f"{SHERLOCK} is absent")
def test_people_reinstate_what_others_saw():
    watched, retold = {}, {}
    for number in range(1, 9):
        name = f"sub-{number:02}"
        stems = [f"task-sherlock_run-{run}" for run in (1, 2)]
        runs = [sherlock_run(name, stem, SHERLOCK / f"{stem}_events.tsv") for stem in stems]
        watched[name] = average_over_runs([sherlock_scenes(run) for run in runs])
        table = SHERLOCK / name / f"func/{name}_task-recall_events.tsv"
        retold[name] = sherlock_scenes(sherlock_run(name, "task-recall", table))
    for name, patterns_of_one in retold.items():
        others = average_over_runs([each for other, each in watched.items() if other != name])
        found = compare(patterns_of_one, others)
        # The known answer: .055 to .173 with the same scene, -.005 to .000 with others.
        assert 0.05 < found.matched < 0.175 and -0.0055 < found.mismatched < 0.0005, name
        assert found.over_neighbors > 0, name


def test_searchlights_of_too_few_voxels_are_told():
    space = Space(kind="volume", name="x", mask=np.ones((4, 4, 4), dtype=bool), affine=np.diag([12.0, 12, 12, 1]))
    alone, wide = neighborhoods(space, 9.0), neighborhoods(space, 30.0)
    assert "64 of 64 voxels have fewer than 8 voxels within 9 mm" in too_small(alone, 9.0)
    assert too_small(wide, 30.0) == ""
