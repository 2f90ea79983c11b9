"""A study whose test is named: one fold, from the settings to the report."""

import shutil

import pandas as pd
import pytest
import tiny_study

from titan_neuro.errors import NoMatchError
from titan_neuro.study import Study


@pytest.fixture
def opened(tiny, tmp_path):
    tiny_study.copy(tiny, tmp_path)

    def open_study(*overrides):
        return Study.open(None, tmp_path / "out", config_file=tmp_path / "settings.yaml", overrides=overrides)

    return open_study


def states(study):
    return {name: str(check) for name, check in study.status().checks.items()}


def test_named_people_are_tested_from_settings_to_report(opened):
    study = opened("split.test=[sub-02]")
    found = states(study)
    assert [name for name in found if name.startswith("train/")] == ["train/seed-0_fold-1_titan-mac"]
    assert found["train/seed-0_fold-1_titan-mac"].startswith("stale") and found["evaluate"].startswith("stale")
    [fold] = study.folds()
    assert str(fold).endswith("test sub-02_task-movie")
    assert [model.is_new for model in study.train()] == [True]
    evaluation = study.evaluate()
    assert set(evaluation.scores["n_subjects"]) == {1}
    group = evaluation.path.parent
    assert set(pd.read_csv(group / "task-movie_desc-forecast_subjects.tsv", sep="\t", dtype=str)["subject"]) == {"02"}
    assert {"done"} == {states(study)[name] for name in ("train/seed-0_fold-1_titan-mac", "evaluate")}
    # Settings in force are read from the folder.
    again = Study.open(None, study.output.path)
    assert again.config.split.test == ("sub-02",)
    page = again.report().read_text()
    assert "1, which tests sub-02_task-movie" in page


def test_other_test_runs_make_scores_stale_and_keep_the_model(opened, tmp_path):
    """Two people have a second recording: one of the two is named first, then both."""
    bids = tmp_path / "bids"
    for subject in ("01", "02"):
        source = tiny_study.recording(bids, subject)
        for path in (source, source.with_suffix(".json")):
            shutil.copy(path, path.with_name(path.name.replace("task-movie", "task-movie_run-2")))
    Study.open(bids, tmp_path / "out", config_file=tmp_path / "settings.yaml").prepare()
    one, both = opened("split.test=[sub-02_run-2]", "split.by=subject"), opened("split.test=[sub-02]")
    one.train()
    one.evaluate()
    assert [model.is_new for model in both.train()] == [False]
    assert states(both)["evaluate"].startswith("stale: tested.1 was ['sub-02_task-movie_run-2'], is ")
    assert set(both.evaluate().scores["n_runs"]) == {2}
    assert states(one)["evaluate"].startswith("stale: tested.1")


def test_a_name_that_nobody_has_is_told(opened):
    with pytest.raises(NoMatchError, match=r"matches sub-20\. Did you mean 'sub-0[1-4]'\?"):
        opened("split.test=[sub-20]").train()
