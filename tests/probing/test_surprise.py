"""Surprise at known event boundaries must be found, and in noise it must not."""

import numpy as np
import pytest
from delay_memory import fold_of, probe_setup, run_probe
from event_runs import (
    BACKBONE_SIZE,
    BOUNDARIES,
    EVENT_LENGTH,
    N_TIME_POINTS,
    event_patterns,
    event_run,
    persistence_forecaster,
)
from recall_runs import N_FEATURES
from stimulus_runs import ar1_noise

from titan_neuro.probing import untrained_like
from titan_neuro.probing.probe_settings import SurpriseConfig
from titan_neuro.probing.surprise import ANNOTATED_EVENTS, BRAIN_EVENTS
from titan_neuro.probing.tools.memory_surprise import (
    ACTIVITY,
    BLOCK_MEMORIES,
    FORECAST_MEMORY,
    PREDICTION,
    block_time_points,
)
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.titans.models import GRUConfig


def surprise_results(test_runs, training_runs, *, model=None, **settings):
    config = SurpriseConfig(**{"event_s": EVENT_LENGTH, "window_s": 1, **settings})
    model = model or persistence_forecaster()
    fold = fold_of(model, test_runs, training_runs, untrained_like(model, seed=0))
    setup = probe_setup(horizons=model.horizons, n_features=N_FEATURES, n_permutations=500, n_resamples=500)
    return run_probe(config.build(setup), fold)


def rows(results, condition, measure=None):
    table = results.tables["scores"]
    table = table[table.condition.str.startswith(condition)]
    return table if measure is None else table[table.measure == measure]


@pytest.fixture(scope="module")
def results_of_jumps():
    """Four subjects, who see a stimulus whose pattern jumps at each boundary."""
    return surprise_results([event_run(subject, lead=3 * subject) for subject in range(4)], [event_run(9)])


def test_surprise_at_boundaries_is_found(results_of_jumps):
    table = results_of_jumps.tables["scores"]
    assert list(table.columns) == list(SCORES) and not table.is_control[table.measure == FORECAST_MEMORY].any()
    assert (table.n_subjects == 4).all()
    for measure in (FORECAST_MEMORY, PREDICTION, ACTIVITY):
        assert (rows(results_of_jumps, BRAIN_EVENTS, measure).p < 0.02).all(), measure
        assert (rows(results_of_jumps, BRAIN_EVENTS, measure).low > 0.3).all(), measure
    polynomial = rows(results_of_jumps, BRAIN_EVENTS, "polynomial of time")
    assert polynomial.is_control.all() and (polynomial.p > 0.05).all()
    assert (table.null_low <= table.null).all() and (table.null <= table.null_high).all()
    assert results_of_jumps.metadata["PCorrected"][f"{BRAIN_EVENTS}: {FORECAST_MEMORY}"] < 0.05
    assert results_of_jumps.metadata["Subjects"] == ["00", "01", "02", "03"]
    assert "n = 4" in results_of_jumps.summary and FORECAST_MEMORY in results_of_jumps.summary


def test_even_events_count_by_shifts_alone(results_of_jumps):
    metadata, scores = results_of_jumps.metadata, results_of_jumps.tables["scores"]
    assert metadata["EventLengthVariation"][BRAIN_EVENTS] < 0.3
    assert any("too even to be shuffled" in reason for reason in metadata["NotTested"])
    shifts = scores[scores.condition == f"{BRAIN_EVENTS}, circular shifts"].set_index("measure").p
    measures = [name.partition(": ")[2] for name in metadata["PCorrected"]]
    smallest = shifts[measures].min()
    assert min(metadata["PCorrected"].values()) == pytest.approx(len(measures) * smallest)


def test_differences_are_paired_with_controls(results_of_jumps):
    paired = rows(results_of_jumps, f"{BRAIN_EVENTS}, paired with its control").set_index("measure")
    # Not larger than the change of the activity itself, which jumps at boundaries.
    assert not paired.is_control.any() and paired.p[f"{FORECAST_MEMORY} less {ACTIVITY}"] > 0.05
    values = rows(results_of_jumps, f"{BRAIN_EVENTS}, circular shifts").set_index("measure").value
    difference = values[FORECAST_MEMORY] - values[ACTIVITY]
    assert paired.value[f"{FORECAST_MEMORY} less {ACTIVITY}"] == pytest.approx(difference)


def test_time_series_contain_boundaries(results_of_jumps):
    for run, part in results_of_jumps.tables["timeseries"].groupby("run"):
        lead = 3 * int(run[4:6])
        np.testing.assert_array_equal(part.time_point[part.boundary == 1], BOUNDARIES + lead)
        assert len(part) == N_TIME_POINTS + lead and part.usable.sum() == N_TIME_POINTS - 8


def test_noise_has_no_surprising_boundaries():
    rng = np.random.default_rng(0)
    noise = [event_run(s, series=ar1_noise(rng, N_TIME_POINTS, N_FEATURES, 0.5)) for s in range(8)]
    results = surprise_results(noise[:4], noise[4:])
    assert min(results.metadata["PCorrected"].values()) > 0.05


def test_annotated_events_are_delayed():
    test_runs = [event_run(subject) for subject in range(3)]
    for run in test_runs:
        # The movie, fixation and unknown onsets are no events; two events at once count once.
        run.events = ((0.0, 240.0, "movie"), (5.0, 1.0, "fixation"), (float("nan"), 1.0, "cut"))
        run.events += tuple((start - 4.0, 1.0, kind) for start in BOUNDARIES for kind in ("cut", "scene"))
    results = surprise_results(test_runs, [event_run(9)], delay_s=4)
    assert (rows(results, ANNOTATED_EVENTS, FORECAST_MEMORY).p < 0.02).all()
    series = results.tables["timeseries"]
    np.testing.assert_array_equal(series.time_point[series.annotated_boundary == 1], np.tile(BOUNDARIES, 3))
    missed = surprise_results(test_runs, [event_run(9)], delay_s=9)
    assert (rows(missed, ANNOTATED_EVENTS, FORECAST_MEMORY).p > 0.05).all()


def test_head_motion_is_control_and_excluded():
    test_runs = [event_run(subject) for subject in range(3)]
    for run in test_runs:
        run.displacement = np.full(N_TIME_POINTS, 0.1)
        run.displacement[BOUNDARIES] = 0.4
        run.displacement[0] = np.nan
        run.high_motion[100:110] = True
    results = surprise_results(test_runs, [event_run(9)])
    assert (rows(results, BRAIN_EVENTS, "framewise displacement").p < 0.05).all()
    series = results.tables["timeseries"]
    assert not series.usable[series.time_point.between(100, 109)].any()


def test_events_come_from_other_subjects():
    run, other = event_run(1), event_run(2)
    # A training run of the same subject and stimulus is never used.
    results = surprise_results([run], [event_run(1, seed=5), other]).tables["timeseries"]
    np.testing.assert_array_equal(results.time_point[results.boundary == 1], BOUNDARIES)
    # Without training subjects who saw the stimulus, events come from other test subjects.
    results = surprise_results([run, other], [event_run(3, stimulus="task-else")]).tables["timeseries"]
    np.testing.assert_array_equal(results.time_point[results.boundary == 1], np.tile(BOUNDARIES, 2))


def test_subjects_may_miss_a_stimulus():
    parts = [("task-a", 0), ("task-b", 1)]
    test_runs = [event_run(s, stimulus=name, seed=seed) for s in range(3) for name, seed in parts][:-1]
    results = surprise_results(test_runs, [event_run(9, stimulus=name, seed=seed) for name, seed in parts])
    of_memory = rows(results, BRAIN_EVENTS, FORECAST_MEMORY)
    assert (of_memory.n_subjects == 3).all() and (of_memory.p < 0.02).all()


def test_one_subject_has_no_interval():
    results = surprise_results([event_run(1)], [event_run(2)])
    row = rows(results, BRAIN_EVENTS, FORECAST_MEMORY).iloc[0]
    assert row.n_subjects == 1 and np.isfinite([row.value, row.p]).all() and np.isnan(row.low)
    assert any("framewise displacement" in reason for reason in results.metadata["NotTested"])


def test_model_without_memories_has_prediction_change():
    model = persistence_forecaster(recall=None, horizons=(1,), backbone=GRUConfig(**BACKBONE_SIZE))
    results = surprise_results([event_run(1), event_run(3)], [event_run(2)], model=model)
    assert block_time_points(model) == 64
    assert (rows(results, BRAIN_EVENTS, PREDICTION).p < 0.05).all()
    assert not set(results.tables["scores"].measure) & {FORECAST_MEMORY, BLOCK_MEMORIES}
    assert any(BLOCK_MEMORIES in reason for reason in results.metadata["NotTested"])
    assert PREDICTION in results.summary


def runs_without_other_subject():
    return [event_run(1)], [event_run(1, stimulus="task-else"), event_run(2, stimulus="task-else")]


def unscored_runs():
    run = event_run(1)
    run.scored[:] = False
    return [run], [event_run(2)]


def brief_runs():
    runs = [event_run(subject, series=event_patterns()[:10], scored_from=2) for subject in (1, 2)]
    return runs[:1], runs[1:]


@pytest.mark.parametrize(
    "make_runs, reason",
    [
        (runs_without_other_subject, "no other subject"),
        (unscored_runs, "no usable time point"),
        (brief_runs, "No run has"),
        (lambda: ([], []), "No run has"),
    ],
)
def test_study_without_events_has_empty_row(make_runs, reason):
    results = surprise_results(*make_runs())
    table = results.tables["scores"]
    assert list(table.columns) == list(SCORES) and len(table) == 1 and np.isnan(table.value[0])
    assert reason in " ".join(results.metadata["NotTested"]) and reason in results.summary
