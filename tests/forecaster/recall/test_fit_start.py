"""A fit that starts from a model of other people: its limits, what it is worth, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from recall_runs import N_FEATURES, RECALL, recall_runs, skills, small_forecaster
from stimulus_runs import as_run

from titan_neuro.errors import MismatchError


def dynamics_runs(subjects, n_time_points, *, seed):
    """Runs that follow one vector autoregression, the same in all subjects; no stimulus is shared."""
    mixing = np.random.default_rng(0).normal(size=(N_FEATURES, N_FEATURES))
    mixing *= 0.8 / np.abs(np.linalg.eigvals(mixing)).max()
    rng, runs = np.random.default_rng(seed), []
    for subject in subjects:
        series = rng.normal(size=(n_time_points, N_FEATURES))
        for t in range(1, n_time_points):
            series[t] += mixing @ series[t - 1]
        runs.append(as_run(series / series.std(), f"sub-{subject}_task-rest{subject}", 5))
    return runs


@pytest.fixture(scope="module")
def pretrained():
    return fitted(dynamics_runs(range(6), 200, seed=1))


def fitted(runs, start=None, **sizes):
    model = small_forecaster(**sizes)
    model.fit(runs, start=start)
    return model


def test_one_run_leaves_the_start_as_it_is(pretrained):
    """Of one run nothing can be held out: its penalty is the largest."""
    model = fitted(dynamics_runs([9], 120, seed=2), pretrained)
    for name in ("components.basis", "recall.autoregression.weights", "recall.autoregression.directions"):
        torch.testing.assert_close(model.get_buffer(name), pretrained.get_buffer(name))
    assert bool(model.recall.autoregression.weights.any())


def test_a_start_helps_where_people_are_few(pretrained):
    few, new = dynamics_runs([20, 21], 60, seed=3), dynamics_runs(range(30, 32), 300, seed=4)
    without, with_start = (skills(fitted(few, start), new) for start in (None, pretrained))
    assert with_start[0] > without[0] + 0.05
    assert min(with_start) > -0.01


def test_a_start_of_other_dynamics_is_not_followed(pretrained):
    many, new = (
        recall_runs(n, shared=0.0, n_time_points=300, seed=seed, stimuli=("task-rest",)) for n, seed in ((4, 5), (2, 6))
    )
    without, with_start = (skills(fitted(many, start), new) for start in (None, pretrained))
    assert with_start == pytest.approx(without, abs=0.02)


def test_the_stimulus_is_remembered_anew(pretrained):
    runs = recall_runs(5, shared=0.35)
    model = fitted(runs[:4], pretrained)
    assert model.recall.stimulus.n_positions
    assert min(skills(model, runs[4:])) > 0.1


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"horizons": (1, 2)}, r"horizons: expected \(1, 2\), found \(1, 3\)"),
        ({"recall": dataclasses.replace(RECALL, autoregressive_lags=3)}, "recall: .*autoregressive_lags=3"),
        ({"n_features": 23}, "number of features: expected 23, found 24"),
    ],
)
def test_a_start_of_other_sizes_is_refused(pretrained, sizes, named):
    runs = [as_run(run.series[:, : sizes.get("n_features", N_FEATURES)].numpy(), run.key) for run in recall_runs(2)]
    with pytest.raises(MismatchError, match=named):
        fitted(runs, pretrained, **sizes)


def test_a_start_without_recall_is_refused():
    runs = recall_runs(2)
    start = fitted(runs, recall=None)
    with pytest.raises(MismatchError, match="has no recall"):
        fitted(runs, start, recall=None)
