import json

import numpy as np
import pandas as pd
import pytest

from titan_neuro.evaluation import METRICS, ScoreContext, format_table, scores_table, subjects_table, write_scores
from titan_neuro.evaluation.summary import summary
from titan_neuro.metrics import bootstrap_interval

COLUMNS = [
    "model",
    "kind",
    "lead_time_points",
    "lead_time_s",
    "protocol",
    "n_subjects",
    "n_runs",
    "n_time_points",
    "n_seeds",
]
SUBJECT_COLUMNS = ["model", "kind", "subject", "lead_time_points", "n_runs", "n_time_points", "n_seeds", *METRICS]
MODELS = ("titan-mac", "mean", "persistence", "ar")


def titan(oracle, runs, fraction):
    return oracle(runs, fraction, name="titan-mac")


@pytest.fixture(scope="module")
def six_subjects(make_run, oracle, quick, score):
    train = [make_run(s, 1) for s in ("01", "02", "03")]
    test = [make_run(s, n) for s in ("11", "12", "13", "14", "15", "16") for n in (1, 2)]
    return score([titan(oracle, test, 0.4)], train, test, quick)


@pytest.fixture(scope="module")
def table(six_subjects, quick):
    return scores_table(six_subjects, repetition_time_s=1.5, n_resamples=quick.n_resamples)


def test_rows_are_models_times_lead_times(table):
    assert list(table.columns) == [
        *COLUMNS,
        *(f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")),
        "skill_ar_seed_sd",
    ]
    assert list(zip(table["model"], table["lead_time_points"], strict=True)) == [
        (model, h) for model in MODELS for h in (1, 3)
    ]
    assert table["lead_time_s"].tolist() == [1.5, 4.5] * 4
    assert (table["n_subjects"] == 6).all()
    assert (table["n_runs"] == 12).all()
    assert (table["n_time_points"] == 12 * 155).all()


def test_means_and_intervals_are_over_subjects(six_subjects, table, quick):
    values = six_subjects.scores.subject_values("skill_ar", "titan-mac", 1)
    row = table[(table["model"] == "titan-mac") & (table["lead_time_points"] == 1)].iloc[0]
    assert row["skill_ar"] == pytest.approx(values.mean())
    low, high = bootstrap_interval(values, n_resamples=quick.n_resamples, seed=0)
    assert (row["skill_ar_low"], row["skill_ar_high"]) == (low, high)
    r = six_subjects.scores.subject_values("r", "titan-mac", 1)
    assert row["r"] == pytest.approx(np.tanh(np.arctanh(r).mean()))
    assert row["r_low"] < row["r"] < row["r_high"]


def test_subjects_table_lists_each_subject(six_subjects):
    subjects = subjects_table(six_subjects)
    assert list(subjects.columns) == SUBJECT_COLUMNS
    assert len(subjects) == 4 * 6 * 2
    row = subjects.query("model == 'titan-mac' and subject == '13' and lead_time_points == 3").iloc[0]
    assert row["skill"] == pytest.approx(six_subjects.scores.subject_values("skill", "titan-mac", 3)[2])
    assert row["n_time_points"] == 2 * 155


def test_formatted_table_is_aligned_markdown(table):
    lines = format_table(table).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + 8
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells[:4] == ["titan-mac", "model", "3", "4.5"]
    assert "lead time (time points)" in lines[0] and "lead time (s)" in lines[0]
    assert cells[4].startswith(f"{table['skill_ar'].iloc[1]:.3f} [")
    mean_row = [cell.strip() for cell in lines[4].split("|")[1:-1]]
    assert mean_row[7] == "n/a"


def test_files_are_read_back_unchanged(tmp_path, six_subjects, quick):
    context = ScoreContext(task="movie", repetition_time_s=1.5, space="MNI152NLin2009cAsym")
    table = write_scores(tmp_path / "group", six_subjects, context, quick, 0)
    stem = tmp_path / "group" / "task-movie_desc-forecast_scores"
    raw = stem.with_suffix(".tsv").read_text()
    assert "\tn/a\t" in raw
    assert "nan" not in raw.lower()
    back = pd.read_csv(stem.with_suffix(".tsv"), sep="\t", na_values="n/a")
    pd.testing.assert_frame_equal(back, table, check_exact=False, rtol=1e-5, check_dtype=False)
    assert format_table(back).count("\n") == format_table(table).count("\n")

    sidecar = json.loads(stem.with_suffix(".json").read_text())
    assert sidecar["Summary"] == summary(table)
    assert sidecar["Comparisons"] == []
    assert stem.with_suffix(".md").read_text() == f"{format_table(table)}\n\n{summary(table)}\n"
    assert sidecar["LeadTimePoints"] == [1, 3]
    assert sidecar["RepetitionTime"] == 1.5
    assert sidecar["Normalization"] == "causal expanding z-score"
    assert sidecar["Space"] == "MNI152NLin2009cAsym"
    assert sidecar["Folds"][0]["test"][0] == "sub-11_task-movie_run-01"
    assert set(table.columns) <= set(sidecar)

    subjects = pd.read_csv(
        tmp_path / "group" / "task-movie_desc-forecast_subjects.tsv", sep="\t", dtype={"subject": str}
    )
    assert list(subjects.columns) == SUBJECT_COLUMNS
    described = json.loads((tmp_path / "group" / "task-movie_desc-forecast_subjects.json").read_text())
    assert set(SUBJECT_COLUMNS) <= set(described)
