"""A study that starts from a trained model: whose it may be, what follows from it, and how one is made for all."""

import dataclasses
import shutil

import pytest
import tiny_study

from titan_neuro.data.splits import Fold
from titan_neuro.errors import InputNotFoundError, LeakageError, MismatchError, NoMatchError
from titan_neuro.forecaster import Forecaster
from titan_neuro.study import Selection, Study
from titan_neuro.training import require_record, require_unseen

NAME = "train/seed-0_fold-1_titan-mac"


@pytest.fixture
def opened(tiny, tmp_path):
    """Open the study with a start: a copy of its first model, fitted on subjects 02 and 04."""
    tiny_study.copy(tiny, tmp_path)
    shutil.copytree(tmp_path / "out/models/seed-0/fold-1/titan-mac", tmp_path / "start")

    def open_study(*overrides, start=tmp_path / "start", output="out", subjects=None, bids=None):
        selection = None if subjects is None else Selection(subjects=subjects)
        settings = {"config_file": tmp_path / "settings.yaml", "overrides": [f"training.start={start}", *overrides]}
        return Study.open(bids, tmp_path / output, selection=selection, **settings)

    return open_study


def test_a_study_starts_from_a_model_and_says_so(opened, tmp_path):
    study = opened()
    assert str(study.status().checks[NAME]).startswith("stale: the model that training starts from")
    [model] = study.train(folds=[1])
    assert model.is_new and str(study.status().checks[NAME]) == "done"
    own, start = require_record(model.folder)["fitted_on"]
    assert own == start == {"dataset": {"name": "x"}, "subjects": ["02", "04"], "stimuli": ["task-movie"]}
    # The place of the start is not what counts; its content is.
    moved = shutil.move(tmp_path / "start", tmp_path / "moved")
    assert str(opened(start=moved).status().checks[NAME]) == "done"
    assert [model.is_new for model in opened(start=moved).train(folds=[1])] == [False]
    changed = Forecaster.from_pretrained(moved)
    changed.linear_skip.intercept += 1
    changed.save_pretrained(moved, metadata=require_record(model.folder))
    assert str(opened(start=moved).status().checks[NAME]).startswith("stale: the model that training starts from")


def test_a_start_that_saw_the_test_is_refused(opened):
    with pytest.raises(LeakageError, match=r"start: was fitted on subjects that fold 2 tests: 02, 04\."):
        opened().train(folds=[2])


def test_protocols_say_what_a_start_must_not_have_seen(opened):
    fold = opened().folds()[0]
    seen = [{"dataset": fold.dataset, "subjects": ["02"], "stimuli": ["task-movie"]}]
    require_unseen(seen, fold, "here")
    for protocol in ("run", "strict"):
        other = dataclasses.replace(fold, protocol=protocol, fold=Fold(1, (), (), fold.fold.test))
        with pytest.raises(LeakageError, match=r"here: was fitted on stimuli that fold 1 tests: task-movie\."):
            require_unseen(seen, other, "here")
    # Where a dataset is not known, equal labels are taken for the same people.
    unknown = [{"dataset": None, "subjects": ["01"], "stimuli": []}]
    with pytest.raises(LeakageError, match=r"subjects that fold 1 tests: 01\."):
        require_unseen(unknown, fold, "here")


def test_who_is_tested_later_is_looked_at_again(opened, tmp_path):
    prepared = opened("split.test=[sub-03]", output="new", subjects=("01", "02", "03"), bids=tmp_path / "bids")
    prepared.prepare()
    prepared.train()
    assert prepared.forecaster()
    opened(output="new", bids=tmp_path / "bids").prepare()
    later = opened("split.test=[sub-03, sub-04]", output="new")
    assert [model.is_new for model in later.train()] == [False]
    with pytest.raises(LeakageError, match=r"titan-mac: was fitted on subjects that fold 1 tests: 04\."):
        later.evaluate()


def test_labels_of_another_dataset_are_other_people(opened, tmp_path):
    description = tmp_path / "out/dataset_description.json"
    description.write_text(description.read_text().replace("outputs of x", "outputs of y"))
    assert [model.is_new for model in opened().train(folds=[2])] == [True]


def test_a_start_that_does_not_fit_is_refused(opened, tmp_path):
    with pytest.raises(InputNotFoundError, match=r"training\.start: .*nothing: expected config\.json and model"):
        opened(start=tmp_path / "nothing").train(folds=[1])
    with pytest.raises(MismatchError, match=r"training\.start: .*differs in its horizons: expected \(1, 2\)"):
        opened("model.horizons=[1,2]").train(folds=[1])
    model = Forecaster.from_pretrained(tmp_path / "start")
    model.save_pretrained(tmp_path / "start")
    with pytest.raises(MismatchError, match="does not say whom it was fitted on"):
        opened().train(folds=[1])


def test_a_model_of_everybody_is_trained_and_not_scored(opened, tmp_path):
    study = opened("split.by=all", start="null")
    [fold] = study.folds()
    assert str(fold).endswith("test none") and len(fold.fit_runs) == 4
    [model] = study.train()
    assert require_record(model.folder)["fitted_on"][0]["subjects"] == ["01", "02", "03", "04"]
    assert {name.partition("/")[0] for name in study.status().checks} == {"prepare", "train"}
    for scored in (study.evaluate, study.predict, lambda: study.probe("surprise")):
        with pytest.raises(NoMatchError, match=r"split\.by is all: expected people or runs that are tested"):
            scored()
    assert Forecaster.from_pretrained(model.folder).n_features == tiny_study.N_PARCELS
