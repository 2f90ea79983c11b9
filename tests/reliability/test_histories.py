"""Whatever happened to a study before: once it is run again, its results are those of a clean run, byte for byte."""

from __future__ import annotations

import random
import shutil

import pytest
from histories import VARIANTS, History, outcome, small_disk, take_step

pytestmark = pytest.mark.xdist_group("histories")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Clean runs, made when they are asked for: by variant of the settings and version of a recording."""
    made = {}

    def folder(variant="", version=0):
        if (variant, version) not in made:
            history = History(tmp_path_factory.mktemp("clean"))
            history.set(variant)
            history.change_recording("02", version)
            for stage in history.stages:
                assert history.run(stage) == 0, history.describe(f"a clean {stage} failed")
            made[variant, version] = history.folder, outcome(history.output, history.bids)
        return made[variant, version]

    return folder


def live(tmp_path, finished, seed, variants, n_steps):
    """Let a study live through `n_steps` of chance, and finish it."""
    rng = random.Random(seed)
    begins_finished = rng.random() < 0.7
    with small_disk(tmp_path / "study/disk"):
        history = History(tmp_path / "study", finished()[0] if begins_finished else None)
        for _ in range(n_steps):
            take_step(history, rng, variants)
        variant, version = rng.choice(variants), rng.randrange(2)
        history.set(variant)
        history.change_recording("02", version)
        history.finish(finished(variant, version)[1])
    shutil.rmtree(tmp_path / "study")


@pytest.mark.parametrize("seed", range(10))
def test_a_history_leaves_nothing_behind(tmp_path, finished, seed):
    live(tmp_path, finished, seed, ["", "evaluate"], n_steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_a_long_history_leaves_nothing_behind(tmp_path, finished, seed):
    live(tmp_path, finished, seed, list(VARIANTS), n_steps=6)
