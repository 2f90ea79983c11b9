"""What each component's own past tells: the part of the recall, and the small memories."""

import numpy as np
import pytest
import torch
from recall_runs import small_forecaster
from stimulus_runs import ar1_noise, as_run

from titan_neuro.forecaster.fit.components import ComponentRun
from titan_neuro.forecaster.fit.own_past import fit_own_past
from titan_neuro.forecaster.recall.own_past import OwnPast
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.titan.own_past_memory import OwnPastMemory, OwnPastMemoryFit
from titan_neuro.linear.lead_time import at_target_time
from titan_neuro.linear.running_averages import N_OWN_PREDICTORS, own_predictors

HORIZONS, WIDTH = (1, 3), 5


def component_run(subject, n_time_points=400, gain=0.5):
    """Errors that follow, at each horizon, from the component itself two time points before the forecast."""
    random = torch.Generator().manual_seed(subject)
    series = torch.randn(n_time_points, WIDTH, generator=random)
    errors = torch.randn(n_time_points, len(HORIZONS), WIDTH, generator=random)
    for index, horizon in enumerate(HORIZONS):
        errors[:horizon, index] = 0
        errors[horizon + 2 :, index] += gain * series[: -horizon - 2]
    scored = torch.ones(n_time_points, dtype=torch.bool)
    return ComponentRun(subject, subject % 4, "task-rest", 0, series, errors, scored)


def nothing(run):
    return Recalled(torch.zeros_like(run.errors), torch.zeros_like(run.errors))


def fit_runs(runs):
    return fit_own_past(runs, [nothing(run) for run in runs], HORIZONS)


def test_weights_are_those_of_a_ridge_regression_without_each_fold():
    runs = [component_run(subject) for subject in range(6)]
    fit, recalled = fit_runs(runs)
    # The third to last predictor of the last eight time points.
    assert fit.weights[:, 5].mean() == pytest.approx(0.5, abs=0.05)
    assert fit.weights.shape == (WIDTH, N_OWN_PREDICTORS, len(HORIZONS))
    for run, made in zip(runs, recalled, strict=True):
        predictors = own_predictors(run.series, torch.zeros(7, WIDTH), torch.zeros(4, WIDTH))[0]
        expected = (predictors @ fit.weights_without[run.fold]).permute(1, 2, 0)
        torch.testing.assert_close(made.own, expected)
    others = [run for run in runs if run.fold != 1]
    x = torch.cat(
        [own_predictors(run.series, torch.zeros(7, WIDTH), torch.zeros(4, WIDTH))[0][2, :-1] for run in others]
    )
    y = torch.cat([run.errors[1:, 0, 2] for run in others])
    unit = torch.cat([run.series[:, 2] for run in runs]).square().mean()
    solutions = [
        torch.linalg.solve(x.T @ x + penalty * len(x) * unit * torch.eye(N_OWN_PREDICTORS), x.T @ y)
        for penalty in (0.001, 0.005, 0.02, 0.1, 0.5, 3.0)
    ]
    distances = [float((one - fit.weights_without[1, 2, :, 0]).norm()) for one in solutions]
    assert min(distances) < 1e-4


def test_nothing_is_fitted_to_noise_or_to_one_fold():
    fit, _ = fit_runs([component_run(subject, gain=0.0) for subject in range(6)])
    assert not fit.weights.any()
    fit, _ = fit_runs([component_run(4)])
    assert not fit.weights.any()


def test_nothing_is_fitted_to_short_runs():
    """In them, slow averages tell how far the run is from its start."""
    runs = [component_run(subject, 399) for subject in range(6)]
    assert not fit_runs(runs)[0].weights.any()
    longer = [component_run(subject) for subject in range(6)]
    torch.testing.assert_close(fit_runs(runs + longer)[0].weights, fit_runs(longer)[0].weights)


def test_calls_may_be_cut_anywhere():
    run = component_run(1)
    module = OwnPast(n_horizons=2, width=WIDTH)
    module.weights.normal_()
    whole, _ = module(run.series[None], module.init_state(1))
    first, state = module(run.series[None, :17], module.init_state(1))
    second, _ = module(run.series[None, 17:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


def memory_of(penalty=30.0):
    memory = OwnPastMemory(horizons=HORIZONS, width=WIDTH)
    penalties = torch.full((len(HORIZONS),), penalty)
    memory.load(OwnPastMemoryFit(torch.ones(WIDTH), penalties, torch.ones(len(HORIZONS), WIDTH)))
    return memory


def test_a_small_memory_learns_what_is_a_persons_own():
    run, memory = component_run(3, 600), memory_of()
    recalled = torch.zeros_like(run.errors)[None]
    read, state = memory(run.series[None], run.errors[None], recalled, memory.init_state(1))
    left = run.errors - at_target_time(read[0], HORIZONS)
    removed = 1 - left[300:].square().sum((0, 2)) / run.errors[300:].square().sum((0, 2))
    # A fifth of the variance can be told.
    assert (removed > 0.15).all()
    # What the recall knew already is not learned again.
    known = torch.zeros_like(run.errors)
    known[2:] = 0.5 * run.series[:-2, None]
    again, _ = memory(run.series[None], run.errors[None], known[None], memory.init_state(1))
    assert again[0, 300:].square().mean() < 0.1 * read[0, 300:].square().mean()
    # Frozen from here on, it is read as it is.
    frozen, after = memory(run.series[None], run.errors[None], recalled, state, frozen=True)
    assert torch.equal(after.gram, state.gram)
    assert frozen[0, 300:].square().mean() > 0.5 * read[0, 300:].square().mean()


def test_a_new_memory_gives_nothing():
    run, memory = component_run(3), OwnPastMemory(horizons=HORIZONS, width=WIDTH)
    read, _ = memory(run.series[None], run.errors[None], torch.zeros_like(run.errors)[None], memory.init_state(1))
    assert not read.any()


def test_a_fit_reads_back_from_tensors():
    rng = np.random.default_rng(0)
    runs = [as_run(ar1_noise(rng, 400, 24, 0.8), f"sub-{subject:02}_task-rest") for subject in range(4)]
    model = small_forecaster()
    model.fit(runs)
    other = small_forecaster()
    other.load_state_dict(model.state_dict())
    memories = model.backbone.memory.own_past, other.backbone.memory.own_past
    assert torch.equal(*(memory.reliability for memory in memories))
    assert torch.equal(*(memory.penalties for memory in memories))
    assert torch.equal(model.recall.own_past.weights, other.recall.own_past.weights)
