"""Windows are made of the time points that they name."""

import numpy as np
import pytest
import torch
from delay_memory import delayed_run

from titan_neuro.probing.tools.history_swaps import (
    OTHER_PART,
    OTHER_SUBJECT,
    TRUE_HISTORY,
    SwapPlanner,
    scramble_blocks,
)

SIZES = {"horizons": (1, 2), "contexts": (4, 16), "history": 24, "seed": 0}


def planner(run, test_runs=(), training_runs=()):
    return SwapPlanner(run, [run, *test_runs], training_runs, **SIZES)


def test_windows_are_made_of_named_time_points():
    run, other = delayed_run(stimulus_start=5), delayed_run("02", 1, stimulus_start=12)
    of_other_stimulus = delayed_run("03", 2, stimulus="another stimulus")
    plan = planner(run, [other, of_other_stimulus]).plan({"blocks": 5}, count=20)
    assert [source.key for source in plan.sources] == [run.key, other.key]
    swap_points = plan.origins[:, 0] - 3
    true = swap_points[:, None] + torch.arange(-24, 0)
    assert torch.equal(plan.windows[TRUE_HISTORY][:, :24], true)
    assert torch.equal(plan.windows[OTHER_SUBJECT][:, :24], true + 7 + run.n_time_points)
    for windows in plan.windows.values():
        assert torch.equal(windows[:, -16:], (swap_points[:, None] + torch.arange(16)).clamp(max=239))
    part = plan.windows[OTHER_PART][:, :24]
    assert (part.diff(dim=1) == 1).all()
    assert ((part[:, -1] < true[:, 0]) | (part[:, 0] > swap_points + 15 + 2)).all() and part.min() >= 5
    scrambled = plan.windows["blocks"][:, :24]
    assert torch.equal(scrambled.sort(dim=1).values, true) and (scrambled != true).any(dim=1).all()
    again = planner(run, [other, of_other_stimulus]).plan({"blocks": 5}, count=20)
    assert all(torch.equal(windows, again.windows[name]) for name, windows in plan.windows.items())


def test_short_run_uses_another_run_of_its_subject():
    run, next_run = delayed_run(n_time_points=70), delayed_run(seed=3, stimulus="part two", n_time_points=60, task="y")
    plan = planner(run, training_runs=[next_run]).plan({}, count=20)
    assert plan.sources == [run, next_run] and (plan.windows[OTHER_PART][:, :24] >= 70).any()
    assert len(plan.not_tested) == 1 and OTHER_SUBJECT in plan.not_tested[0]


def test_test_subjects_are_preferred_to_training_subjects():
    run, tested, trained_on = delayed_run(), delayed_run("02", 1), delayed_run("03", 2)
    assert planner(run, [tested], [trained_on])._other_subject is tested
    assert planner(run, [], [trained_on])._other_subject is trained_on


def test_longest_shared_stimulus_is_preferred():
    shorter, longer = delayed_run("04", 3, n_time_points=100), delayed_run("02", 1)
    assert planner(delayed_run(), [shorter, longer])._other_subject is longer


@pytest.mark.parametrize(("n_time_points", "block"), [(24, 1), (24, 12), (25, 12), (24, 7), (2, 1)])
def test_scrambled_blocks_stay_whole(n_time_points, block):
    order = scramble_blocks(n_time_points, block, np.random.default_rng(0))
    assert sorted(order) == list(range(n_time_points)) and (order != np.arange(n_time_points)).any()
    assert (np.diff(order) != 1).sum() <= -(-n_time_points // block) - 1
