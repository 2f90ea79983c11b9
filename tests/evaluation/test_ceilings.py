import numpy as np
import pandas as pd
import pytest

from titan_neuro.evaluation import ScoreContext, ceilings_table, write_scores
from titan_neuro.evaluation.metrics_and_rows import STIMULUS_LOCKED, TEST_RETEST
from titan_neuro.metrics import Ceiling, bootstrap_interval, leave_one_out_interval


@pytest.fixture(scope="module")
def benchmark(make_run, oracle, quick, score):
    train = [make_run(s, 1) for s in ("01", "02")]
    test = [make_run(s, 1) for s in ("11", "12", "13", "14")]
    return score([oracle(test, 0.5)], train, test, quick)


@pytest.fixture(scope="module")
def ceilings():
    values = {"11": [0.2, 0.4, np.nan], "12": [0.5, 0.5, 0.5], "13": [0.1, 0.2, 0.3], "99": [0.9, 0.9, 0.9]}
    return {
        STIMULUS_LOCKED: Ceiling({name: np.array(of_subject) for name, of_subject in values.items()}),
        TEST_RETEST: Ceiling({}, "no segment was shown twice to one subject"),
    }


def test_ceilings_are_averaged_over_test_subjects(benchmark, ceilings):
    table = ceilings_table(benchmark, ceilings, n_resamples=2000)
    by_subject = np.array([0.3, 0.5, 0.2])
    assert table["ceiling"].tolist() == [STIMULUS_LOCKED] * 2
    assert table["lead_time_points"].tolist() == [1, 3]
    assert (table["n_subjects"] == 3).all()
    assert table["r2"].tolist() == pytest.approx([by_subject.mean()] * 2)
    low, high = leave_one_out_interval(by_subject, n_resamples=2000, seed=0)
    assert (
        (table["r2_low"][0], table["r2_high"][0])
        == (low, high)
        != bootstrap_interval(by_subject, n_resamples=2000, seed=0)
    )
    ar = benchmark.scores.subject_values("r2", "ar", 3)[:3]
    assert table["skill_ar"][1] == pytest.approx((1 - (1 - by_subject) / (1 - ar)).mean())


def test_missing_ceilings_have_a_reason(benchmark, ceilings, quick, tmp_path):
    context = ScoreContext(task="movie", repetition_time_s=1.0, space="x")
    write_scores(tmp_path, benchmark, context, quick, 0, ceilings)
    table = pd.read_csv(tmp_path / "task-movie_desc-ceilings_scores.tsv", sep="\t")
    assert table["r2"].tolist() == pytest.approx([1 / 3] * 2, rel=1e-5)
    sidecar = pd.read_json(tmp_path / "task-movie_desc-forecast_scores.json", typ="series")
    assert sidecar["MissingCeilings"] == {TEST_RETEST: "no segment was shown twice to one subject"}


def test_without_ceilings_there_is_no_file(benchmark, quick, tmp_path):
    write_scores(tmp_path, benchmark, ScoreContext(task="movie", repetition_time_s=1.0, space="x"), quick, 0)
    assert not list(tmp_path.glob("*ceilings*"))
