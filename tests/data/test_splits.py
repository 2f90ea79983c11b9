from types import SimpleNamespace

import pytest

from titan_neuro.data.splits import SplitConfig, make_folds
from titan_neuro.errors import NoMatchError


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
