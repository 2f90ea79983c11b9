"""Each subcommand killed at random moments, then called again: what an undisturbed one gives, byte for byte."""

from __future__ import annotations

import random

import pytest
import tiny_study
from histories import History

SEED = 20261130


def kill_and_repeat(clean, folder, stage, n_kills):
    """Kill a stage once in each of `n_kills` equal stretches of its time, and call it again."""
    run, rng = clean(), random.Random(SEED)
    history = History(folder, run.history.folder)
    for number in range(n_kills):
        moment_s = run.duration_s[stage] * (number + rng.random()) / n_kills
        history.steps.clear()
        history.restore_output(run.before[stage])
        while not history.kill(stage, after_s=round(moment_s, 3)):
            # It ended before: this machine has become faster.
            moment_s *= 0.7
            history.restore_output(run.before[stage])
        history.finish(run.after[stage], [stage])


@pytest.mark.xdist_group("tiny-study")
@pytest.mark.parametrize("stage", ["evaluate", "probe", "predict", "report"])
def test_a_killed_subcommand_is_made_good(clean, tmp_path, stage):
    """`prepare` and `train` are killed in tests/data/prepare and tests/training."""
    kill_and_repeat(clean, tmp_path / "study", stage, n_kills=1)


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.xdist_group("tiny-study-slow")
@pytest.mark.parametrize("stage", tiny_study.STAGES)
def test_thirty_kills_of_each_subcommand(clean, tmp_path, stage):
    kill_and_repeat(clean, tmp_path / "study", stage, n_kills=30)
