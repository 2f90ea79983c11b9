from types import SimpleNamespace

import pytest

from titan_neuro.data.splits import SplitConfig, make_folds
from titan_neuro.errors import ConfigError, NoMatchError


def study_runs(n_subjects, n_runs):
    return [
        SimpleNamespace(
            key=f"sub-{s}_task-movie_run-{r}",
            subject=str(s),
            stimulus=f"task-movie_run-{r}",
        )
        for s in range(n_subjects)
        for r in range(n_runs)
    ]


def test_a_split_of_all_tests_nobody():
    protocol, [fold] = make_folds(study_runs(4, 2), SplitConfig(by="all"))
    assert protocol == "subject" and fold.test == ()
    assert sorted((*fold.train, *fold.validation)) == sorted(run.key for run in study_runs(4, 2))
    protocol, [fold] = make_folds(study_runs(1, 3), SplitConfig(by="all"))
    assert protocol == "run" and len(fold.train) == 2 and len(fold.validation) == 1
    with pytest.raises(NoMatchError, match="at least two runs"):
        make_folds(study_runs(1, 1), SplitConfig(by="all"))
    with pytest.raises(ConfigError, match=r"split\.by=all tests nobody, found the names sub-1"):
        SplitConfig(by="all", test=("sub-1",))


def subject_of(key):
    return key.split("_")[0]


def run_of(key):
    return key.split("_")[2]


@pytest.mark.parametrize("n_subjects", [3, 7, 25])
@pytest.mark.parametrize("n_folds", [2, 3, 25])
def test_subjects_are_tested_once_and_never_shared(n_subjects, n_folds):
    runs = study_runs(n_subjects, 2)
    protocol, folds = make_folds(runs, SplitConfig(by="subject", n_folds=n_folds))
    assert protocol == "subject"
    assert len(folds) == (3 if n_subjects == 3 else min(n_folds, n_subjects))
    assert sorted(key for fold in folds for key in fold.test) == sorted(run.key for run in runs)
    for fold in folds:
        parts = [{subject_of(key) for key in part} for part in (fold.train, fold.validation, fold.test)]
        assert all(parts)
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_runs_are_held_out_for_all_subjects():
    _, folds = make_folds(study_runs(2, 5), SplitConfig(by="run", n_folds=5))
    for fold in folds:
        parts = [{run_of(key) for key in part} for part in (fold.train, fold.validation, fold.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert {subject_of(key) for key in fold.test} == {"sub-0", "sub-1"}


def test_strict_folds_test_new_subjects_and_new_runs():
    _, folds = make_folds(study_runs(10, 5), SplitConfig(by="strict", n_folds=5))
    assert len(folds) == 5
    assert {subject_of(key) for fold in folds for key in fold.test} == {f"sub-{s}" for s in range(10)}
    for fold in folds:
        fitted = (*fold.train, *fold.validation)
        assert not {subject_of(key) for key in fitted} & {subject_of(key) for key in fold.test}
        assert not {run_of(key) for key in fitted} & {run_of(key) for key in fold.test}


def test_auto_depends_on_the_number_of_subjects():
    assert make_folds(study_runs(3, 2), SplitConfig())[0] == "subject"
    assert make_folds(study_runs(1, 12), SplitConfig())[0] == "run"


def test_fewer_than_three_units_are_refused():
    with pytest.raises(NoMatchError, match=r"at least 3 subjects .* found 2"):
        make_folds(study_runs(2, 9), SplitConfig(by="subject"))
    with pytest.raises(NoMatchError, match=r"at least 3 runs"):
        make_folds(study_runs(1, 2), SplitConfig())
    with pytest.raises(NoMatchError, match=r"at least 3 runs"):
        make_folds(study_runs(9, 2), SplitConfig(by="strict"))


def fold_of(names, by="auto", n_subjects=5, n_runs=4):
    protocol, [fold] = make_folds(study_runs(n_subjects, n_runs), SplitConfig(by=by, test=names))
    assert fold.number == 1 and fold.train and fold.validation
    return protocol, fold


def units(keys, of):
    return {of(key) for key in keys}


@pytest.mark.parametrize("by", ["auto", "subject"])
def test_named_people_are_tested_on_all_their_runs(by):
    protocol, fold = fold_of(["sub-1", "sub-3"], by)
    assert protocol == "subject"
    assert sorted(fold.test) == [f"sub-{s}_task-movie_run-{r}" for s in (1, 3) for r in range(4)]
    train, validation = units(fold.train, subject_of), units(fold.validation, subject_of)
    assert train | validation == {"sub-0", "sub-2", "sub-4"} and not train & validation
    assert len(fold.train) + len(fold.validation) == 12


@pytest.mark.parametrize("by", ["auto", "run"])
@pytest.mark.parametrize("name", ["run-2", "task-movie_run-02"])
def test_named_runs_are_tested_in_everybody(by, name):
    protocol, fold = fold_of([name], by)
    assert protocol == "run"
    assert sorted(fold.test) == [f"sub-{s}_task-movie_run-2" for s in range(5)]
    train, validation = units(fold.train, run_of), units(fold.validation, run_of)
    assert train | validation == {"run-0", "run-1", "run-3"} and not train & validation


@pytest.mark.parametrize("by", ["auto", "strict"])
def test_people_and_runs_are_held_out_at_once(by):
    protocol, fold = fold_of(["sub-1", "run-2"], by)
    assert protocol == "strict"
    assert fold.test == ("sub-1_task-movie_run-2",)
    fitted = (*fold.train, *fold.validation)
    assert len(fitted) == 12
    assert "sub-1" not in units(fitted, subject_of) and "run-2" not in units(fitted, run_of)


@pytest.mark.parametrize(("by", "n_fitted"), [("subject", 16), ("run", 15)])
def test_protocol_says_what_else_is_not_trained_on(by, n_fitted):
    protocol, fold = fold_of(["sub-1", "run-2"], by)
    assert protocol == by
    assert fold.test == ("sub-1_task-movie_run-2",)
    assert len(fold.train) + len(fold.validation) == n_fitted


def test_single_runs_are_added_to_people():
    protocol, fold = fold_of(["sub-1_run-2", "sub-3"])
    assert protocol == "subject"
    assert sorted(fold.test) == ["sub-1_task-movie_run-2", *(f"sub-3_task-movie_run-{r}" for r in range(4))]
    assert units((*fold.train, *fold.validation), subject_of) == {"sub-0", "sub-2", "sub-4"}


def test_one_person_is_split_by_run():
    protocol, fold = fold_of(["sub-0_task-movie_run-2"], n_subjects=1)
    assert protocol == "run" and fold.test == ("sub-0_task-movie_run-2",)
    assert len(fold.train) + len(fold.validation) == 3


def test_names_do_not_change_unnamed_folds():
    assert make_folds(study_runs(5, 4), SplitConfig(test=())) == make_folds(study_runs(5, 4), SplitConfig())


@pytest.mark.parametrize(
    ("names", "by", "message"),
    [
        (["sub-9"], "auto", r"no prepared run matches sub-9\. Did you mean 'sub-[0-4]'\?"),
        (["sub-01"], "auto", r"no prepared run matches sub-01\. Did you mean 'sub-[01]'\?"),
        (["sub-1", "run-7"], "auto", r"no prepared run matches run-7\. Did you mean 'run-[0-3]'\?"),
        (["sub-1_task-movi_run-2"], "auto", r"Did you mean 'sub-1_task-movie_run-2'\?"),
        (["ses-1_run-2"], "auto", r"no prepared run matches ses-1_run-2\. Did you mean 'run-2'\?"),
        ([f"sub-{s}" for s in range(5)], "auto", r"at least two subjects to train .* share no subject .* found none"),
        ([f"sub-{s}" for s in range(4)], "auto", r"at least two subjects to train .* found 4"),
        (["task-movie"], "auto", r"at least two runs to train .* share no run .* found none"),
        (["sub-1", "run-0", "run-1", "run-2", "run-3"], "auto", r"neither subject nor run .* found none"),
        (["run-2", "sub-1_run-1"], "subject", r"at least two subjects .* found none"),
    ],
)
def test_what_can_not_be_tested_is_refused(names, by, message):
    with pytest.raises(NoMatchError, match=message):
        fold_of(names, by)


def test_a_named_person_without_a_named_run_is_refused():
    runs = [run for run in study_runs(5, 4) if run.key != "sub-3_task-movie_run-2"]
    with pytest.raises(NoMatchError, match=r"nothing of sub-3 is tested: no .* of both sub-3 and .* run-2"):
        make_folds(runs, SplitConfig(test=["sub-1", "sub-3", "run-2"]))


@pytest.mark.parametrize(
    ("names", "by", "message"),
    [
        (["13"], "auto", r"found '13'\. Did you mean 'sub-13'\?"),
        (["subject-13"], "auto", r"found 'subject-13'\. Did you mean 'sub'\?"),
        (["sub-1_sub-2"], "auto", r"each entity once; found 'sub-1_sub-2'"),
        (["sub-1_bold"], "auto", "found 'sub-1_bold'"),
        ([""], "auto", "found ''"),
        ([13], "auto", r"test\.0: .*valid string; found 13"),
        ("sub-13", "auto", r"test: .*found 'sub-13'"),
        (["run-2"], "subject", "split by subject, which holds out subjects: expected the name of a subject"),
        (["sub-1"], "run", "split by run, which holds out runs: expected the name of a run in it, found sub-1"),
        (["sub-1", "sub-2"], "strict", "holds out runs: expected the name of a run"),
        (["run-1"], "strict", "holds out subjects: expected the name of a subject"),
    ],
)
def test_names_that_say_too_little_are_refused_at_once(names, by, message):
    with pytest.raises(ConfigError, match=message):
        SplitConfig(test=names, by=by)
