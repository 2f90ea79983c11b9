"""Retellings of a story with known reinstatement and memory: what was planted must be found, and nothing else."""

import json

import numpy as np
import pytest
from delay_memory import mac_forecaster, probe_setup, run_probe
from event_runs import persistence_forecaster
from recall_runs import N_FEATURES
from retold_stories import N_SCENES, Story

from titan_neuro.data.space import Space
from titan_neuro.errors import ConfigError
from titan_neuro.probing import ProbedFold, untrained_like
from titan_neuro.probing.probe_settings import RecallConfig, RecallTasks
from titan_neuro.probing.tools.memory_surprise import PREDICTION
from titan_neuro.probing.tools.recall_scores import (
    OTHERS,
    OVER_NEIGHBORS,
    POSITION,
    REINSTATEMENT,
    RETOLD,
)
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.probing.tools.trace import ACTIVITY_PATTERN, MEMORY_OUTPUT, MEMORY_WEIGHTS, TIME_POLYNOMIAL

TASKS = {"watching": "film", "retelling": "retelling"}


def recall_results(watching, retelling, *, training=(), model=None, **settings):
    model = model or persistence_forecaster()
    config = RecallConfig(**{"tasks": TASKS, "delay_s": 0.0, **settings})
    fold = ProbedFold(
        model=model,
        untrained_model=untrained_like(model, seed=0),
        test_runs=watching,
        training_runs=training,
        set_aside_runs=retelling,
    )
    setup = probe_setup(horizons=model.horizons, n_features=N_FEATURES, n_permutations=2000, n_resamples=500)
    return run_probe(config.build(setup), fold)


def row(results, measure, condition):
    table = results.tables["scores"]
    return table[(table.measure == measure) & (table.condition == condition)].iloc[0]


@pytest.fixture(scope="module")
def results_of_story():
    """Five people; the fifth is a training subject, who is another person to all others."""
    watching, retelling = Story(3, n_features=N_FEATURES).runs()
    return recall_results(watching[:4], retelling, training=watching[4:])


def test_planted_reinstatement_is_found(results_of_story):
    table = results_of_story.tables["scores"]
    assert list(table.columns) == list(SCORES) and (table.n_subjects <= 4).all()
    others = row(results_of_story, REINSTATEMENT, OTHERS)
    assert others.p < 0.001 and others.low > 0.2 and not others.is_control
    for source in (ACTIVITY_PATTERN, TIME_POLYNOMIAL):
        assert row(results_of_story, REINSTATEMENT, source).is_control
    assert row(results_of_story, REINSTATEMENT, ACTIVITY_PATTERN).p < 0.001
    assert row(results_of_story, OVER_NEIGHBORS, OTHERS).value > 0.2
    sources = set(table.condition[table.measure == REINSTATEMENT])
    assert {MEMORY_OUTPUT, MEMORY_WEIGHTS, "forecast, lead time 1 s", "forecast, lead time 3 s"} <= sources
    assert results_of_story.metadata["PSignFlips"][OTHERS] == 1 / 2**4


def test_subjects_stand_in_a_table(results_of_story):
    table = results_of_story.tables["subjects"]
    of_others = table[table.source == OTHERS]
    assert list(of_others.subject) == ["01", "02", "03", "04"] and (of_others.n_watched == N_SCENES).all()
    np.testing.assert_allclose(of_others.reinstatement, of_others.matched - of_others.mismatched)
    assert row(results_of_story, REINSTATEMENT, OTHERS).value == pytest.approx(of_others.reinstatement.mean())
    assert results_of_story.metadata["ScenesRetold"] == dict(zip(of_others.subject, of_others.n_retold, strict=True))
    json.dumps(results_of_story.metadata)


def test_planted_memory_tells_what_is_retold(results_of_story):
    # Strong scenes are watched with larger amplitudes, so that a forecast changes more from time point to time point.
    table = results_of_story.tables["scores"]
    aucs = table[table.measure == RETOLD].set_index("condition")
    assert aucs.p[PREDICTION] < 0.01 and aucs.value[PREDICTION] > 0.7
    assert aucs.is_control[POSITION] and not aucs.is_control[PREDICTION]
    assert set(results_of_story.metadata["PCorrected"]) == set(aucs.index[~aucs.is_control])
    assert "n = 4" in results_of_story.summary and results_of_story.summary.count(". ") <= 2


def test_absent_reinstatement_is_not_found():
    watching, retelling = Story(4, reinstated=0.0, decided=0.0, n_features=N_FEATURES).runs()
    results = recall_results(watching[:2], retelling, training=watching[2:])
    for source in (OTHERS, ACTIVITY_PATTERN):
        assert row(results, REINSTATEMENT, source).p > 0.05
    assert min(results.metadata["PCorrected"].values()) > 0.05


def test_maps_are_of_features_or_searchlights(results_of_story):
    values, sidecar = results_of_story.maps["others"]
    assert values.shape == (N_FEATURES,) and sidecar["NumberOfSubjects"] == 4
    assert values.mean() == pytest.approx(row(results_of_story, REINSTATEMENT, OTHERS).value, abs=1e-6)
    assert set(results_of_story.maps) == {"others", "othersq", "forecast", "forecastq"}
    watching, retelling = Story(3, n_subjects=2, n_features=N_FEATURES).runs()
    mask = np.zeros((5, 5, 2), bool)
    mask.flat[:N_FEATURES] = True
    space = Space(kind="volume", name="x", mask=mask, affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    for run in (*watching, *retelling):
        run.space = space
    searched = recall_results(watching[:1], retelling, training=watching[1:], radius_mm=4.5).maps["others"][0]
    assert np.isfinite(searched).any() and searched[np.isfinite(searched)].mean() > 0.2


def without_retelling(watching, retelling):
    return watching, []


def without_names(watching, retelling):
    for run in watching:
        run.event_columns = {}
    return watching, retelling


def retelling_without_names(watching, retelling):
    for run in retelling:
        run.event_columns = {"scene": [""] * len(run.events)}
    return watching, retelling


@pytest.mark.parametrize(
    "change, settings, reason",
    [
        (without_retelling, {}, "no run of the task retelling"),
        (without_names, {}, "no event names a scene"),
        (retelling_without_names, {}, "no event names a scene"),
        (lambda *runs: runs, {"tasks": None}, "probe.recall.tasks"),
        (lambda *runs: runs, {"tasks": {"watching": "other", "retelling": "retelling"}}, "no test subject"),
    ],
)
def test_study_without_retelling_has_empty_row(change, settings, reason):
    runs = change(*Story(0, n_subjects=2, n_features=N_FEATURES).runs())
    results = recall_results(*runs, **settings)
    assert len(results.tables["scores"]) == 1 and np.isnan(results.tables["scores"].value[0])
    assert reason in results.summary


def test_one_subject_has_no_difference_test():
    watching, retelling = Story(0, n_subjects=1, n_features=N_FEATURES).runs()
    results = recall_results(watching, retelling)
    assert OTHERS not in set(results.tables["scores"].condition)
    assert np.isfinite(row(results, REINSTATEMENT, ACTIVITY_PATTERN).p)
    assert np.isnan(row(results, OVER_NEIGHBORS, ACTIVITY_PATTERN).p)


def test_models_without_memory_are_probed():
    watching, retelling = Story(0, n_subjects=2, n_features=N_FEATURES).runs()
    results = recall_results(watching[:1], retelling, training=watching[1:], model=mac_forecaster(N_FEATURES))
    assert row(results, REINSTATEMENT, OTHERS).value > 0.2


def test_tasks_must_differ():
    with pytest.raises(ConfigError, match="two tasks"):
        RecallTasks(watching="film", retelling="film")
    with pytest.raises(ConfigError, match="retelling"):
        RecallConfig(tasks={"watching": "film"})
