"""Whatever happened to a study before: once it is run again, its results are those of a clean run, byte for byte."""

from __future__ import annotations

import random
import shutil

import pytest
from histories import VARIANTS, History, small_disk, take_step

# The settings of the end, and the version of the recording that changes.
ENDS = [(variant, version) for variant in VARIANTS for version in range(2)]


def live(tmp_path, clean, seed, *, variants, n_steps, ends=(("", 0),)):
    """Let a study, new or finished, live through `n_steps` of chance; run it with the settings of one of `ends`."""
    rng = random.Random(seed)
    begins_finished = rng.random() < 0.7
    with small_disk(tmp_path / "study/disk"):
        history = History(tmp_path / "study", clean().history.folder if begins_finished else None)
        for _ in range(n_steps):
            take_step(history, rng, variants)
        variant, version = rng.choice(ends)
        history.set(variant)
        history.change_recording("02", version)
        history.finish(clean(variant, version).after["report"])
    shutil.rmtree(tmp_path / "study")


@pytest.mark.xdist_group("tiny-study")
@pytest.mark.parametrize("seed", range(10))
def test_a_history_leaves_nothing_behind(tmp_path, clean, seed):
    live(tmp_path, clean, seed, variants=["", "evaluate"], n_steps=2)


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_a_long_history_leaves_nothing_behind(tmp_path, clean, seed):
    live(tmp_path, clean, seed, variants=list(VARIANTS), n_steps=6, ends=ENDS)
