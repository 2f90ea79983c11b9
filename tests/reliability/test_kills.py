"""Each subcommand killed at random moments, then called again: what an undisturbed one gives, byte for byte."""

from __future__ import annotations

import random
import shutil
import time

import pytest
import tiny_study
from histories import History, outcome

SEED = 20261130


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """One clean run, stage by stage: the output folder before each, the outcome after it, and how long it took."""
    history, steps = History(tmp_path_factory.mktemp("clean")), {}
    for stage in tiny_study.STAGES:
        before = history.folder / f"before/{stage}"
        if history.output.exists():
            shutil.copytree(history.output, before)
        start = time.monotonic()
        assert history.run(stage) == 0, history.describe(f"a clean {stage} failed")
        steps[stage] = before, outcome(history.output, history.bids), time.monotonic() - start
    return history, steps


@pytest.mark.xdist_group("kills")
@pytest.mark.parametrize("n_kills", [1, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", tiny_study.STAGES)
def test_a_killed_subcommand_is_made_good(stages, stage, n_kills):
    """Killed once in each of `n_kills` equal stretches of its time."""
    history, steps = stages
    before, after, whole_s = steps[stage]
    rng = random.Random(SEED)
    for number in range(n_kills):
        moment_s = whole_s * (number + rng.random()) / n_kills
        history.steps.clear()
        history.restore_output(before)
        while not history.kill(stage, after_s=round(moment_s, 3)):
            # This machine has become faster.
            moment_s *= 0.9
            history.restore_output(before)
        history.finish(after, [stage])
