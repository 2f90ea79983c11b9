"""Time points of a shared stimulus must be identified; without one, as often as chance predicts."""

import numpy as np
import pytest
from delay_memory import fold_of, mac_forecaster, probe_setup, run_probe
from stimulus_viewers import N_FEATURES, viewer_runs

from titan_neuro.probing import untrained_like
from titan_neuro.probing.probe_settings import TimeSegmentMatchingConfig
from titan_neuro.probing.time_segment_matching import CONTROLS
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.probing.tools.stimulus_traces import LATE_OUTPUT, LATE_WEIGHTS
from titan_neuro.probing.tools.trace import (
    ACTIVITY_PATTERN,
    MEMORY_OUTPUT,
    MEMORY_WEIGHTS,
    TIME_POLYNOMIAL,
    TOKENS,
)
from titan_neuro.titans.models import GRUConfig

SPARSE = "accuracy, one time point in 8"
CONFIG = TimeSegmentMatchingConfig(late_start_time_points=40, segment_time_points=(1, 5))


def make_fold(test_runs, training_runs, model=None):
    model = model or mac_forecaster(N_FEATURES)
    return fold_of(model, test_runs, training_runs, untrained_like(model, seed=1))


def match_subjects(*folds, config=CONFIG):
    setup = probe_setup(repetition_time=2.0, n_features=N_FEATURES, n_permutations=200, n_resamples=200)
    return run_probe(config.build(setup), *folds)


def row_of(results, measure, condition, x=2.0):
    scores = results.tables["scores"]
    rows = scores[(scores.measure == measure) & (scores.condition == condition) & (scores.x == x)]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.fixture(scope="module")
def results_of_shared_stimulus():
    return match_subjects(
        make_fold(viewer_runs(range(4), n_time_points=240), viewer_runs(range(4, 6), n_time_points=240))
    )


def test_shared_stimulus_is_identified(results_of_shared_stimulus):
    results = results_of_shared_stimulus
    scores = results.tables["scores"]
    assert tuple(scores) == SCORES
    for measure, readout in (
        ("accuracy", ACTIVITY_PATTERN),
        ("accuracy", TOKENS),
        ("accuracy", MEMORY_OUTPUT),
        ("accuracy", LATE_OUTPUT),
        (SPARSE, MEMORY_WEIGHTS),
        (SPARSE, LATE_WEIGHTS),
    ):
        row = row_of(results, measure, readout)
        assert row.value > (row.null_high if "late" in readout else 0.5), (readout, row)
        assert row.p < 0.05 and row.null_high < 0.3, (readout, row)
        assert row.low <= row.value <= row.high and row.n_subjects == 4
    assert row_of(results, "accuracy", ACTIVITY_PATTERN, 10.0).value > 0.98
    # The time alone identifies every time point of runs that begin together.
    assert row_of(results, "accuracy", TIME_POLYNOMIAL).value == 1
    assert set(scores[scores.is_control].condition) == set(CONTROLS)
    assert "n = 4" in results.summary and results.metadata["NotTested"] == []


def test_lags_are_fractions_around_zero(results_of_shared_stimulus):
    lags = results_of_shared_stimulus.tables["lags"]
    np.testing.assert_allclose(lags.groupby("condition").fraction.sum(), 1)
    assert lags.loc[lags[lags.condition == MEMORY_WEIGHTS].fraction.idxmax(), "lag_s"] == 0


def test_differences_are_paired_by_subject(results_of_shared_stimulus):
    results = results_of_shared_stimulus
    row = row_of(results, "accuracy difference", f"{MEMORY_WEIGHTS} less {ACTIVITY_PATTERN}", 10.0)
    of_weights = row_of(results, SPARSE, MEMORY_WEIGHTS)
    expected = of_weights.value - row_of(results, SPARSE, ACTIVITY_PATTERN, 10.0).value
    assert row.value == pytest.approx(expected) and row.null == 0
    assert row.null_low <= 0 <= row.null_high and 1 / 16 <= row.p <= 1


def test_without_shared_stimulus_accuracy_is_chance():
    results = match_subjects(make_fold(viewer_runs(range(4), shared=0.0), viewer_runs(range(4, 6), shared=0.0)))
    for readout in (ACTIVITY_PATTERN, TOKENS, MEMORY_OUTPUT):
        row = row_of(results, "accuracy", readout)
        assert row.value < 0.06 and row.null_low <= row.value
    assert row_of(results, SPARSE, MEMORY_WEIGHTS).value < 0.4


def test_runs_are_aligned_at_stimulus_start():
    test_runs = viewer_runs(range(2), stimulus_start=5)
    training_runs = [*viewer_runs((4,), stimulus_start=12), *viewer_runs((6,), n_time_points=100)]
    results = match_subjects(make_fold(test_runs, training_runs))
    assert row_of(results, "accuracy", ACTIVITY_PATTERN).value > 0.8
    assert row_of(results, SPARSE, MEMORY_WEIGHTS).value > 0.4


def test_stimuli_and_folds_are_combined():
    runs = [run for stimulus in ("one", "longer") for run in viewer_runs(range(4), stimulus=stimulus, n_time_points=90)]
    even, odd = ([run for run in runs if int(run.subject) % 2 == part] for part in (0, 1))
    results = match_subjects(make_fold(even, odd), make_fold(odd, even))
    row = row_of(results, "accuracy", ACTIVITY_PATTERN)
    assert row.n_subjects == 4 and row.p == pytest.approx(1 / 201) and row.value > 0.8


@pytest.mark.parametrize(
    ("test_run", "training_run", "reason"),
    [
        ({}, {"stimulus": "another"}, "no run of another subject"),
        ({"n_time_points": 20}, {"n_time_points": 14}, "no segment of"),
        ({"n_time_points": 20, "stimulus_start": 30}, {}, "ends before the stimulus"),
    ],
)
def test_study_without_matches_has_empty_row(test_run, training_run, reason):
    results = match_subjects(make_fold(viewer_runs((0,), **test_run), viewer_runs((1,), **training_run)))
    scores = results.tables["scores"]
    assert len(scores) == 1 and scores.value.isna().all()
    assert reason in results.summary and any(reason in noted for noted in results.metadata["NotTested"])


def test_short_run_has_no_late_start():
    runs = viewer_runs(range(2), n_time_points=38)
    results = match_subjects(make_fold(runs[:1], runs[1:]))
    assert any("late start of 40 time points" in reason for reason in results.metadata["NotTested"])
    assert MEMORY_WEIGHTS in results.summary or MEMORY_OUTPUT in results.summary
    row = row_of(results, "accuracy", ACTIVITY_PATTERN)
    assert row.n_subjects == 1 and np.isnan(row.low)


def test_model_without_test_time_memory_has_no_weights():
    model = mac_forecaster(N_FEATURES, backbone=GRUConfig(dim=16, tokens_per_time_point=1))
    results = match_subjects(make_fold(viewer_runs(range(3)), viewer_runs(range(3, 5)), model))
    assert "no memory weights" in results.metadata["NotTested"][0]
    assert MEMORY_WEIGHTS not in set(results.tables["scores"].condition) and "lags" not in results.tables
    assert row_of(results, "accuracy", MEMORY_OUTPUT).n_subjects == 3
