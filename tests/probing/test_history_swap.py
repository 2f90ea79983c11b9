"""The probe must find what a known memory holds of before the seam, and nothing where there is nothing."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom, false_discovery_control, permutation_test

from tests.probing.test_context_length import N_FEATURES, REACH, Run, delay_model, forecaster
from titan_neuro.probing import HistorySwapConfig, HistorySwapProbe, ProbeContext, ProbedFold
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.probing.tools.swaps import NOTHING, PART, SUBJECT, TRUE, SwapPlanner, scrambled

SHAPE = {"horizons": (1, 2), "kept": (4, 16), "history": 24, "seed": 0}
CONFIG = HistorySwapConfig(context_s=(4, 16), history_s=24, blocks_s=(1, 12), seams_per_run=20)


def stimulus_run(subject="01", seed=0, *, stimulus="stimulus", lead=0, n_time_points=240, name="x"):
    run = Run(subject, seed)
    run.key, run.stimulus, run.stimulus_start = f"sub-{subject}_task-{name}", stimulus, lead
    run.n_time_points = n_time_points
    run.series, run.scored, run.high_motion = (
        run.series[:n_time_points],
        run.scored[:n_time_points],
        run.high_motion[:n_time_points],
    )
    return run


def probe(config=CONFIG, **other):
    given = {"repetition_time": 1.0, "horizons": (1, 2), "n_features": N_FEATURES, "n_permutations": 1000, **other}
    return HistorySwapProbe(config, ProbeContext(**given, n_resamples=1000, seed=0))


def ask(runs, model, config=CONFIG, others=(), **metadata):
    found = probe(config, **metadata)
    fold = ProbedFold(model=model, untrained=forecaster(), tests=runs, others=others)
    for run in runs:
        found.add(fold, run)
    return found.results()


def test_a_memory_of_known_reach_loses_what_lay_before_the_seam():
    runs = [stimulus_run(str(subject), subject) for subject in range(7)]
    results = ask(runs, delay_model())
    scores = results.tables["scores"]
    assert tuple(scores.columns) == SCORES
    trained = scores[~scores.is_control & scores.measure.str.endswith("h = 1 time point")]
    short, long = trained[trained.x == 4].set_index("condition"), trained[trained.x == 16]
    assert set(short.index) == {
        PART, SUBJECT, NOTHING, "scrambled in blocks of 1 s", "scrambled in blocks of 12 s"
    }  # fmt: skip
    # The time point that is recalled lies before the seam: without it all is lost, with a wrong one still more.
    assert short.value[NOTHING] > 0.6 and (short.value.drop("scrambled in blocks of 12 s") > 0.6).all()
    assert short.value[PART] > short.value[NOTHING] and short.value[SUBJECT] > short.value[NOTHING]
    # The smallest p of seven subjects is 1 / 128, here of 5 losses of 20.
    assert (short.p < 0.05).all() and (short.low < short.value).all() and (short.null_high < short.value).all()
    assert (short.n_subjects == 7).all()
    # What is recalled was kept: nothing is lost, exactly.
    assert (long.value == 0).all() and (long.p == 1).all()
    lost, _ = results.maps["lost"]
    assert lost.shape == (N_FEATURES,) and (lost > 0.5).all() and (results.maps["lostq"][0] < 0.05).all()
    assert f"{short.value[NOTHING]:.3f} at h = 1" in results.sentence and "n = 7" in results.sentence
    # An empty decoder is not the delay line: the control loses next to nothing of it.
    control = scores[scores.is_control]
    assert set(control.condition) == {f"{name}, untrained model" for name in (PART, SUBJECT, NOTHING)}
    assert control.value.abs().max() < 0.2


def test_the_whole_history_at_once_is_what_streaming_gives():
    model, run = forecaster(), stimulus_run()
    found = probe()
    plan = found._plan(ProbedFold(model=model, untrained=model, tests=[run], others=[]), run)
    found.add(ProbedFold(model=model, untrained=model, tests=[run], others=[]), run)
    for index, kept in enumerate(found.kept):
        errors = 0
        for target in plan.targets[plan.usable[:, index], index].tolist():
            first = target - kept - plan.history + 1
            forecasts, _ = model.step(run.series[first : target + 1], model.init_state())
            errors += (run.series[target + 1] - forecasts[-1, 0]).square().sum()
        # No recall: a seam's errors aside, windows of a run are what a stream that begins there reads.
        np.testing.assert_allclose(found._sums[False, NOTHING, kept]["01"][0, 0], errors, rtol=1e-4)


def test_windows_are_made_of_the_frames_that_they_name():
    run, other = stimulus_run(lead=5), stimulus_run("02", 1, lead=12)
    stranger = stimulus_run("03", 2, stimulus="another stimulus")
    plan = SwapPlanner(run, [run, other, stranger], [], **SHAPE).plan({"blocks": 5}, count=20)
    assert [source.key for source in plan.sources] == [run.key, other.key]
    seams = plan.targets[:, 0] - 3
    true = seams[:, None] + torch.arange(-24, 0)
    assert torch.equal(plan.windows[TRUE][:, :24], true)
    assert torch.equal(plan.windows[SUBJECT][:, :24], true + 7 + run.n_time_points)
    for windows in plan.windows.values():
        assert torch.equal(windows[:, -16:], (seams[:, None] + torch.arange(16)).clamp(max=239))
    part = plan.windows[PART][:, :24]
    assert (part.diff(dim=1) == 1).all()
    assert ((part[:, -1] < true[:, 0]) | (part[:, 0] > seams + 15 + 2)).all() and part.min() >= 5
    mixed = plan.windows["blocks"][:, :24]
    assert torch.equal(mixed.sort(dim=1).values, true) and (mixed != true).any(dim=1).all()
    again = SwapPlanner(run, [run, other, stranger], [], **SHAPE).plan({"blocks": 5}, count=20)
    assert all(torch.equal(windows, again.windows[name]) for name, windows in plan.windows.items())


def test_a_short_run_takes_another_part_from_another_of_the_subjects_runs():
    run, next_run = (
        stimulus_run(n_time_points=70),
        stimulus_run(seed=3, stimulus="part two", n_time_points=60, name="y"),
    )
    plan = SwapPlanner(run, [run], [next_run], **SHAPE).plan({}, count=20)
    assert plan.sources == [run, next_run] and (plan.windows[PART][:, :24] >= 70).any()
    assert len(plan.not_asked) == 1 and SUBJECT in plan.not_asked[0]


def test_tested_subjects_are_taken_before_those_trained_on():
    run, tested, trained = stimulus_run(), stimulus_run("02", 1), stimulus_run("03", 2)
    assert SwapPlanner(run, [run, tested], [trained], **SHAPE)._subject is tested
    assert SwapPlanner(run, [run], [trained], **SHAPE)._subject is trained
    shorter = stimulus_run("04", 3, n_time_points=100)
    assert SwapPlanner(run, [run, shorter, tested], [], **SHAPE)._subject is tested
    assert ask([run], forecaster(), others=[trained]).metadata["RunsWithHistoriesTrainedOn"] == 1


@pytest.mark.parametrize(("n_time_points", "block"), [(24, 1), (24, 12), (25, 12), (24, 7), (2, 1)])
def test_blocks_stay_whole(n_time_points, block):
    order = scrambled(n_time_points, block, np.random.default_rng(0))
    assert sorted(order) == list(range(n_time_points)) and (order != np.arange(n_time_points)).any()
    assert (np.diff(order) != 1).sum() <= -(-n_time_points // block) - 1


def test_what_cannot_be_asked_is_said():
    alone = ask([stimulus_run()], forecaster())
    assert (alone.tables["scores"].n_subjects == 1).all() and alone.tables["scores"].low.isna().all()
    assert any(SUBJECT in sentence for sentence in alone.metadata["NotAsked"])
    unscored = stimulus_run()
    unscored.scored = np.zeros(240, dtype=bool)
    for runs in ([unscored], [stimulus_run(n_time_points=2)], []):
        nothing = ask(runs, forecaster())
        assert len(nothing.tables["scores"]) == 1 and np.isnan(nothing.tables["scores"].value[0])
        assert "could not be asked" in nothing.sentence and not nothing.maps
        assert bool(nothing.metadata["NotAsked"]) == bool(runs)
    short = HistorySwapConfig(context_s=(4,), history_s=20, blocks_s=(12,))
    assert any("too short" in sentence for sentence in ask([stimulus_run()], forecaster(), short).metadata["NotAsked"])


def test_runs_of_several_lengths_and_parts_add_up():
    runs = [
        stimulus_run(subject, number, stimulus=part, n_time_points=n_time_points, name=part)
        for number, (subject, part, n_time_points) in enumerate(
            [("01", "a", 240), ("01", "b", 150), ("02", "a", 200), ("02", "b", 160), ("03", "a", 32)]
        )
    ]
    results = ask(runs, delay_model())
    assert results.metadata["Subjects"] == ["01", "02", "03"] and results.metadata["HistorySeconds"] == [12, 24]
    at_one = results.tables["scores"].query("x == 4 and condition == 'nothing'").iloc[0]
    assert at_one.value > 0.4


def fed(losses):
    """A probe that was given these losses, ``(subjects, conditions, horizons)``, with an error of 1 without memory."""
    found = probe(dataclasses.replace(CONFIG, context_s=(4.0,)))
    for subject, of_subject in enumerate(losses):
        for condition, loss in zip((PART, SUBJECT, *found._blocks, NOTHING), of_subject, strict=True):
            sums = np.stack([np.ones(2), 1 + loss, np.ones(2)])[:, :, None]
            found._take(str(subject), (False, condition, 4), sums)
    return found.results().tables["scores"]


def test_p_is_scipys_paired_test_corrected_by_scipy():
    losses = np.random.default_rng(0).normal(0.3, 1, size=(8, 5, 2))
    table = fed(losses)
    scipys = [
        permutation_test((column,), np.mean, permutation_type="samples", alternative="greater").pvalue
        for column in losses.reshape(8, -1).T
    ]
    np.testing.assert_allclose(table.p, false_discovery_control(scipys), rtol=1e-9)
    np.testing.assert_allclose(table.value, losses.mean(0).ravel())


def test_where_nothing_is_lost_it_is_rarely_said():
    """No effect: any row is found in one study of twenty at most, and the nominal rate holds before correction."""
    n_seeds = 200
    tables = [fed(np.random.default_rng(seed).normal(size=(10, 5, 2))) for seed in range(n_seeds)]
    found = sum((table.p <= 0.05).any() for table in tables)
    assert found <= binom.ppf(0.995, n_seeds, 0.05)
    # The null's own 97.5 % is passed by one row of forty.
    one_row = pd.concat([table.iloc[:1] for table in tables])
    passed = (one_row.value > one_row.null_high).sum()
    assert binom.ppf(0.005, n_seeds, 0.025) <= passed <= binom.ppf(0.995, n_seeds, 0.025)


def test_a_forecaster_that_remembers_nothing_loses_nothing():
    model = delay_model()
    model.decoder.forward = lambda tokens: torch.zeros(*tokens.shape[:2], 2, N_FEATURES)
    scores = ask([stimulus_run(str(subject), subject) for subject in range(3)], model).tables["scores"]
    assert (scores[~scores.is_control].value == 0).all() and (scores[~scores.is_control].p == 1).all()
    assert REACH < 24
