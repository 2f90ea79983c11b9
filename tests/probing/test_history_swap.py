"""The probe must find what a known memory contains of the time before the swap point, and nothing without memory."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from delay_memory import (
    N_FEATURES,
    delay_forecaster,
    delayed_run,
    fold_of,
    forecasting_mac,
    mac_forecaster,
    probe_setup,
    run_probe,
)
from scipy.stats import binom, false_discovery_control, permutation_test

from titan_neuro.probing.probe_settings import HistorySwapConfig
from titan_neuro.probing.tools.history_swaps import NO_HISTORY, OTHER_PART, OTHER_SUBJECT
from titan_neuro.probing.tools.results import SCORES

CONFIG = HistorySwapConfig(context_s=(4, 16), history_s=24, blocks_s=(1, 12), swaps_per_run=20)


def swap_histories(runs, model, config=CONFIG, training_runs=()):
    fold = fold_of(model, runs, training_runs, untrained_model=mac_forecaster())
    return run_probe(config.build(probe_setup(n_permutations=1000)), fold)


def test_history_that_memory_needs_is_lost():
    results = swap_histories([delayed_run(str(subject), subject) for subject in range(7)], delay_forecaster())
    scores = results.tables["scores"]
    assert tuple(scores.columns) == SCORES
    trained = scores[~scores.is_control & scores.measure.str.endswith("lead time of 1 time point")]
    short, long = trained[trained.x == 4].set_index("condition"), trained[trained.x == 16]
    scrambled = ["scrambled in blocks of 1 s", "scrambled in blocks of 12 s"]
    assert set(short.index) == {OTHER_PART, OTHER_SUBJECT, NO_HISTORY, *scrambled}
    # The recalled time point lies before the swap point: without it all skill is lost, with a wrong one even more.
    assert short.value[NO_HISTORY] > 0.6 and (short.value.drop(scrambled[1]) > 0.6).all()
    assert short.value[OTHER_PART] > short.value[NO_HISTORY] and short.value[OTHER_SUBJECT] > short.value[NO_HISTORY]
    # The smallest p of seven subjects is 1 / 128, here corrected over 5 losses among 20.
    assert (short.p < 0.05).all() and (short.low < short.value).all() and (short.null_high < short.value).all()
    assert (short.n_subjects == 7).all()
    # The recalled time point lies in the context: nothing is lost, exactly.
    assert (long.value == 0).all() and (long.p == 1).all()
    lost, _ = results.maps["lost"]
    assert lost.shape == (N_FEATURES,) and (lost > 0.5).all() and (results.maps["lostq"][0] < 0.05).all()
    assert f"by {short.value[NO_HISTORY]:.3f} (" in results.summary and "n = 7" in results.summary
    # The untrained model has no delay: it loses next to nothing.
    control = scores[scores.is_control]
    assert set(control.condition) == {f"{name}, untrained model" for name in (OTHER_PART, OTHER_SUBJECT, NO_HISTORY)}
    assert control.value.abs().max() < 0.2


def test_forecasts_agree_with_streaming_the_window():
    model, run = forecasting_mac(), delayed_run()
    config = dataclasses.replace(CONFIG, swaps_per_run=6, blocks_s=())
    probe, fold = config.build(probe_setup()), fold_of(model, [run])
    plan = probe._plan(fold, run)
    probe.add(fold, run)
    for index, context in enumerate(probe.contexts):
        errors = np.zeros(2)
        for origin in plan.origins[plan.usable[:, index], index].tolist():
            for row, length in enumerate((plan.history + context, context)):
                forecasts, _ = model.step(run.series[origin - length + 1 : origin + 1], model.init_state())
                errors[row] += (run.series[origin + 1] - forecasts[-1, 0]).square().sum()
        # With the true history, and with no history.
        np.testing.assert_allclose(probe._sums[False, NO_HISTORY, context]["01"][:2, 0], errors, rtol=1e-4)


def test_training_histories_are_counted():
    results = swap_histories([delayed_run()], mac_forecaster(), training_runs=[delayed_run("03", 2)])
    assert results.metadata["RunsWithTrainingHistories"] == 1


def test_missing_conditions_are_reported():
    results = swap_histories([delayed_run()], mac_forecaster())
    assert (results.tables["scores"].n_subjects == 1).all() and results.tables["scores"].low.isna().all()
    assert any(OTHER_SUBJECT in reason for reason in results.metadata["NotTested"])
    short = HistorySwapConfig(context_s=(4,), history_s=20, blocks_s=(12,))
    reasons = swap_histories([delayed_run()], mac_forecaster(), short).metadata["NotTested"]
    assert any("too short" in reason for reason in reasons)


@pytest.mark.parametrize(
    "runs", [[delayed_run(n_unscored=240)], [delayed_run(n_time_points=2)], []], ids=["unscored", "too short", "none"]
)
def test_study_without_windows_has_empty_row(runs):
    results = swap_histories(runs, mac_forecaster())
    assert len(results.tables["scores"]) == 1 and np.isnan(results.tables["scores"].value[0])
    assert "No history was swapped" in results.summary and not results.maps
    assert bool(results.metadata["NotTested"]) == bool(runs)


def test_runs_of_several_lengths_add_up():
    sizes = [("01", "a", 240), ("01", "b", 150), ("02", "a", 200), ("02", "b", 160), ("03", "a", 32)]
    runs = [
        delayed_run(subject, seed, stimulus=part, n_time_points=n_time_points, task=part)
        for seed, (subject, part, n_time_points) in enumerate(sizes)
    ]
    results = swap_histories(runs, delay_forecaster())
    assert results.metadata["Subjects"] == ["01", "02", "03"] and results.metadata["HistorySeconds"] == [12, 24]
    at_one = results.tables["scores"].query("x == 4 and condition == @NO_HISTORY").iloc[0]
    assert at_one.value > 0.4


def table_of(losses):
    """The table of these losses, ``(subjects, conditions, horizons)``; the error of the linear skip is 1."""
    probe = dataclasses.replace(CONFIG, context_s=(4.0,)).build(probe_setup(n_permutations=1000))
    for subject, of_subject in enumerate(losses):
        for condition, loss in zip((OTHER_PART, OTHER_SUBJECT, *probe._blocks, NO_HISTORY), of_subject, strict=True):
            sums = np.stack([np.ones(2), 1 + loss, np.ones(2)])[:, :, None]
            probe._add_sums(str(subject), (False, condition, 4), sums)
    return probe.results().tables["scores"]


def test_p_values_agree_with_scipy():
    losses = np.random.default_rng(0).normal(0.3, 1, size=(8, 5, 2))
    table = table_of(losses)
    expected = [
        permutation_test((column,), np.mean, permutation_type="samples", alternative="greater").pvalue
        for column in losses.reshape(8, -1).T
    ]
    np.testing.assert_allclose(table.p, false_discovery_control(expected), rtol=1e-9)
    np.testing.assert_allclose(table.value, losses.mean(0).ravel())


@pytest.mark.parametrize("n_seeds", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_false_positive_rate_is_nominal(n_seeds):
    """Without an effect, at most one study in twenty has a significant row, and each row keeps its nominal rate."""
    tables = [table_of(np.random.default_rng(seed).normal(size=(10, 5, 2))) for seed in range(n_seeds)]
    n_significant = sum((table.p <= 0.05).any() for table in tables)
    assert n_significant <= binom.ppf(0.995, n_seeds, 0.05)
    # One row in forty exceeds the null's own 97.5 % quantile.
    first_rows = pd.concat([table.iloc[:1] for table in tables])
    n_above = (first_rows.value > first_rows.null_high).sum()
    assert binom.ppf(0.005, n_seeds, 0.025) <= n_above <= binom.ppf(0.995, n_seeds, 0.025)


def test_model_without_memory_loses_nothing():
    model = delay_forecaster()
    model.decoder.forward = lambda tokens: torch.zeros(*tokens.shape[:2], 2, N_FEATURES)
    scores = swap_histories([delayed_run(str(subject), subject) for subject in range(3)], model).tables["scores"]
    assert (scores[~scores.is_control].value == 0).all() and (scores[~scores.is_control].p == 1).all()
