"""A study with a retelling: its runs are prepared and probed, and no model is trained or tested on them."""

import json

import pandas as pd
import pytest
import tiny_study

from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.errors import NoMatchError
from titan_neuro.study import Study

TASKS = "probe.recall.tasks={watching: movie, retelling: recall}"
SCENES = [(index * 10, 10, str(index + 1)) for index in range(8)]


def write_events(path, trial_type, scenes):
    rows = [
        "onset\tduration\ttrial_type\tscene",
        *(f"{on}\t{length}\t{trial_type}\t{name}" for on, length, name in scenes),
    ]
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def retold(tmp_path_factory):
    """Four people watch eight scenes, and retell the first four."""
    folder = tmp_path_factory.mktemp("retold")
    bids = tiny_study.write_dataset(folder / "bids")
    for number, subject in enumerate(tiny_study.SUBJECTS):
        source = tiny_study.recording(bids, subject)
        table = source.read_text().splitlines()
        retelling = source.with_name(source.name.replace("task-movie", "task-recall"))
        retelling.write_text("\n".join([table[0], *table[1 : 42 + number]]) + "\n")
        retelling.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 1.0}))
        stem = source.name.partition("_task-")[0]
        write_events(source.with_name(f"{stem}_task-movie_events.tsv"), "movie", SCENES)
        write_events(source.with_name(f"{stem}_task-recall_events.tsv"), "recall", SCENES[:4])
    (folder / "settings.yaml").write_text(tiny_study.SETTINGS)
    study = Study.open(bids, folder / "out", config_file=folder / "settings.yaml", overrides=[TASKS])
    study.prepare()
    return folder


def open_study(folder, *overrides):
    return Study.open(None, folder / "out", config_file=folder / "settings.yaml", overrides=overrides)


def test_retellings_are_probed_and_never_trained_on(retold):
    study = open_study(retold, TASKS, "probe.recall.delay_s=0")
    for fold in study.folds():
        keys = [*fold.fold.train, *fold.fold.validation, *fold.fold.test]
        assert len(keys) == 4 and all("task-movie" in key for key in keys) and set(keys) == set(fold.runs)
        assert len(fold.set_aside) == 4 and all("task-recall" in run.key for run in fold.set_aside)
    study.train()
    outcome = study.probe("recall")
    subjects = outcome.tables["subjects"]
    assert set(subjects["n_watched"]) == {8} and set(subjects["n_retold"]) == {4}
    # The retelling repeats the recording of these scenes.
    own = subjects[subjects["source"] == "current activity pattern"]
    assert len(own) == 4 and (own["matched"] > 0.7).all() and (own["reinstatement"] > 0.3).all()
    found = study.status().checks["probe/recall"]
    assert found.is_done, found
    written = pd.read_csv(study.output.path / "group/task-movie_desc-recall_scores.tsv", sep="\t")
    assert "reinstatement" in set(written["measure"])


def test_other_retellings_make_this_probe_alone_stale(retold):
    study = open_study(retold, TASKS, "probe.recall.delay_s=0")
    plan = study.plan_group()
    from titan_neuro.study.probe import probe_result

    of_recall, of_surprise = (probe_result(name, plan).inputs for name in ("recall", "surprise"))
    assert set(of_recall) - set(of_surprise) == {f"run sub-{label}_task-recall" for label in tiny_study.SUBJECTS}


def test_absent_tasks_are_named(retold):
    with pytest.raises(NoMatchError, match="retelling: no prepared run has the task recal") as error:
        open_study(retold, "probe.recall.tasks={watching: movie, retelling: recal}").folds()
    assert "recall" in str(error.value)
    with pytest.raises(NoMatchError, match="watching: no prepared run"):
        open_study(retold, "probe.recall.tasks={watching: film, retelling: recall}").folds()


def test_without_the_setting_all_tasks_are_read(retold):
    assert all(not fold.set_aside and len(fold.runs) == 8 for fold in open_study(retold).folds())


@pytest.mark.slow
@pytest.mark.parametrize("planted", [True, False])
def test_synthetic_retellings_are_found_where_planted(tmp_path, planted):
    """From the simulator to the table, with the smallest model."""
    shown = {} if planted else {"retelling_fraction": 0.0, "memory_gain": 0.0}
    settings = {"n_subjects": 6, "volume_scale": 0.25, "voxel_size_mm": 15.0, "story_fraction": 0.15}
    simulate(tmp_path / "bids", SimulateConfig(**settings, **shown))
    overrides = [TASKS, "probe.recall.delay_s=0", "training.max_epochs=1", "training.steps_per_epoch=1"]
    study = Study.open(tmp_path / "bids", tmp_path / "out", preset="debug", overrides=overrides)
    study.prepare()
    study.train()
    outcome = study.probe("recall")
    scores = outcome.tables["scores"].set_index(["measure", "condition"])
    others = scores.loc["reinstatement", "other people's watching"]
    assert others.n_subjects == 6 and (others.p < 0.001 if planted else others.p > 0.01), others
    if not planted:
        assert min(outcome.metadata["PCorrected"].values()) > 0.01
