import json

import numpy as np
import pandas as pd
import pytest

from titan_neuro.report.methods import methods_paragraphs, provenance_terms, scoring_terms, stage_rows
from titan_neuro.report.numbers import MINUS, duration, interval, number, p_value
from titan_neuro.report.results import read_results
from titan_neuro.report.tables import (
    ablation_rows,
    ceiling_rows,
    comparison_rows,
    lead_time_headings,
    score_groups,
    subject_rows,
    training_rows,
)


@pytest.fixture
def results(shared_results):
    return shared_results


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0341, "0.034"),
        (-0.0341, f"{MINUS}0.034"),
        (-0.0001, "0.000"),
        (0.0, "0.000"),
        (-12.34, f"{MINUS}12.3"),
        (float("nan"), "n/a"),
        (float("-inf"), "n/a"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.6, "1 min 00 s"), (217.4, "3 min 37 s"), (4000, "1 h 06 min"), (float("nan"), "n/a")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("p", "text"), [(0.0312, "0.031"), (0.00421, "0.0042"), (1e-5, "< 0.0001"), (np.nan, "")])
def test_p_value(p, text):
    assert p_value(p) == text


def test_an_interval_without_ends_is_empty():
    assert interval(0.01, 0.05) == "0.010 to 0.050"
    assert interval(np.nan, np.nan) == ""


def test_lead_times_are_in_time_points_and_seconds(results):
    assert lead_time_headings(results.scores)[:2] == [("1 time point", "1.5 s"), ("2 time points", "3 s")]


def test_the_best_row_has_the_highest_skill(results, shared_output):
    raw = pd.read_csv(shared_output.group / "task-movie_desc-forecast_scores.tsv", sep="\t", na_values="n/a")
    groups = {group["metric"]: group for group in score_groups(results.scores)}
    for metric, group in groups.items():
        table = raw.pivot_table(index="lead_time_points", columns="model", values=metric)
        for column, horizon in enumerate((1, 2, 6, 10)):
            best = [row["model"] for row in group["rows"] if row["cells"][column]["best"]]
            assert best == [table.loc[horizon].idxmax()]


def test_an_oracle_reference_is_never_the_best(results):
    oracle = results.scores[results.scores["model"] == "titan-mac"].assign(
        model="intersubject-average", kind="oracle_reference"
    )
    oracle[["skill_ar", "r2"]] += 0.5
    scores = pd.concat([oracle, results.scores])
    group = score_groups(scores)[0]
    assert [(row["model"], row["heading"].split(":")[0]) for row in group["rows"]] == [
        ("titan-mac", "The study's model"),
        ("mean", "Baselines"),
        ("persistence", ""),
        ("ar", ""),
        ("intersubject-average", "Oracle references"),
    ]
    assert not any(cell["best"] for cell in group["rows"][-1]["cells"])
    assert group["rows"][0]["cells"][0]["best"]


def test_ceilings_have_a_row_for_each_measure():
    numbers = {"r2_low": 0.1, "r2_high": 0.3, "skill_ar_low": np.nan, "skill_ar_high": np.nan}
    table = pd.DataFrame(
        [
            {"ceiling": "test-retest", "lead_time_points": h, "n_subjects": 4, "r2": 0.2, "skill_ar": -h, **numbers}
            for h in (2, 1)
        ]
    )
    rows = ceiling_rows(table)
    assert [(row["name"], row["n_subjects"], row["metric"]) for row in rows] == [
        ("test-retest", 4, "r2"),
        ("test-retest", 4, "skill_ar"),
    ]
    assert rows[0]["cells"] == [{"value": "0.200", "interval": "0.100 to 0.300", "best": False}] * 2
    assert [cell["value"] for cell in rows[1]["cells"]] == [f"{MINUS}1.000", f"{MINUS}2.000"]


def test_rows_are_labeled_in_the_first_group_alone(results):
    first, *others = score_groups(results.scores)
    assert first["rows"][0]["label"] == "Titans, memory as context (MAC)"
    assert all(row["label"] == "" for group in others for row in group["rows"])
    assert first["label"] == "error removed beyond linear autoregression (skill)"
    assert first["meaning"].endswith("higher is better")


def test_ar_rollouts_are_not_zero_by_definition(results):
    rows = {row["model"]: row for row in score_groups(results.rollouts, ("skill_ar", "bias"))[0]["rows"]}
    assert "by definition" not in {cell["interval"] for cell in rows["ar"]["cells"]}


def test_comparisons_have_a_row_for_each_pair(results):
    rows = comparison_rows(results.comparisons)[:2]
    assert [row["name"] for row in rows] == [f"titan-mac {MINUS} ar", f"titan-mac {MINUS} persistence"]
    assert rows[1]["label"] == "last time point"
    assert rows[0]["cells"] == [{"value": "0.020", "interval": "0.010 to 0.030", "best": False}] * 4


def test_ablations_have_each_lead_time_and_their_mean(results):
    frozen, zeroed = ablation_rows(results.ablations, results.comparisons)
    assert (frozen["label"], frozen["effect"]) == ("test-time learning off", "adds")
    assert frozen["cells"] == [{"value": "0.0200", "interval": "0.0100 to 0.0300", "best": False}] * 5
    assert zeroed["cells"][-1] == {"value": "0.0003", "interval": f"{MINUS}0.0002 to 0.0008", "best": False}
    assert zeroed["definition"].startswith("The forecast is that of linear skip and recall")


def test_cells_hold_value_and_interval(results):
    rows = {row["model"]: row for row in score_groups(results.scores)[0]["rows"]}
    source = results.scores.set_index(["model", "lead_time_points"]).loc[("titan-mac", 2)]
    cell = rows["titan-mac"]["cells"][1]
    assert cell["value"] == number(source["skill_ar"])
    assert cell["interval"] == f"{number(source['skill_ar_low'])} to {number(source['skill_ar_high'])}"
    assert {cell["interval"] for cell in rows["ar"]["cells"]} == {"by definition"}


def test_a_row_without_values_of_a_metric_is_left_out(results):
    scores = results.scores.copy()
    scores.loc[scores["model"] == "mean", "r2"] = np.nan
    models = {group["metric"]: [row["model"] for row in group["rows"]] for group in score_groups(scores)}
    assert "mean" not in models["r2"] and "mean" in models["skill_ar"]


def test_a_missing_lead_time_is_an_empty_cell(results):
    scores = results.scores[~((results.scores["model"] == "mean") & (results.scores["lead_time_points"] == 6))]
    rows = {row["model"]: row for row in score_groups(scores)[2]["rows"]}
    assert [cell["value"] == "n/a" for cell in rows["mean"]["cells"]] == [False, False, True, False]


def test_subjects_have_a_row_each(results):
    rows = subject_rows(results.subjects, "titan-mac")
    assert [row["subject"] for row in rows] == ["01", "02", "03", "04", "05", "06"]
    scores = results.subjects.query("model == 'titan-mac' and subject == '03'")
    assert rows[2]["cells"] == [*map(number, scores["skill_ar"]), *map(number, scores["r2"])]
    assert rows[2]["n_time_points"] == scores["n_time_points"].min()


def test_training_names_the_best_epoch(results):
    rows = training_rows(results.training)
    skill = results.training["seed-7 fold-2"]["validation_skill_ar"]
    assert rows[1]["fold"] == "seed-7 fold-2"
    assert rows[1]["best_epoch"] == str(int(np.argmax(skill)))
    assert rows[1]["best"] == number(skill.max())
    assert rows[1]["last"] == number(skill.iloc[-1])


def test_training_without_a_score(results):
    table = results.training["seed-7 fold-1"].assign(validation_skill_ar=np.nan, volumes_per_s=np.nan)
    (row,) = training_rows({"fold-1": table})
    assert (row["best"], row["best_epoch"], row["speed"]) == ("n/a", "n/a", "n/a")


@pytest.mark.parametrize(("protocol", "words"), [("run", "other runs of the same"), ("strict", "neither the subject")])
def test_scoring_is_described_in_words(output_folder, protocol, words):
    results = read_results(output_folder().scores(protocol=protocol).root)
    terms = dict(scoring_terms(results.scores, results.metadata))
    assert words in terms["Protocol"]
    assert terms["Folds"] == "3"
    assert terms["Subjects"] == "6"
    assert terms["Runs"] == "12"
    assert terms["Scored time points"].startswith("3,480 to 3,588")
    assert terms["Lead times"].startswith("1 (1.5 s), 2 (3 s), 6 (9 s), 10 (15 s)")
    assert "causal" in terms["Normalization"]


def test_folds_per_subject_mean_leave_one_subject_out(output_folder):
    results = read_results(output_folder(subjects=("01", "02", "03")).scores().root)
    assert dict(scoring_terms(results.scores, results.metadata))["Folds"] == "3 (leave-one-subject-out)"


def test_stages_have_their_time_and_memory(results):
    rows = {row["stage"]: row for row in stage_rows(results.stages)}
    assert rows["evaluate"]["wall_time"] == "1 h 06 min"
    assert rows["evaluate"]["started"] == "2026-11-21 10:00:00"
    assert rows["evaluate"]["peak_memory"] == "1,434 MiB"
    assert rows["evaluate"]["command"] == "titan-neuro evaluate out"
    assert rows["prepare sub-01"]["seed"] == "n/a"


def test_stages_that_differ_are_listed_separately(full_output):
    path = full_output.root / "provenance.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["stages"]["evaluate"]["commit"] = None
    path.write_text(json.dumps(content), encoding="utf-8")
    terms = dict(provenance_terms(read_results(full_output.root).stages))
    assert terms["Commit (evaluate)"] == "not known"
    assert "Commit (prepare sub-01, train seed-7 fold-1, train seed-7 fold-2, train seed-7 fold-3)" in terms
    assert terms["Versions"] == "python 3.11.9, titan-neuro 0.1.0, torch 2.13.0"
    assert terms["Input files"].startswith("30, 1 of them with a git-annex key")
    assert terms["Input dataset"].startswith("3d2f1c6e")
    assert dict(provenance_terms({"prepare": {"input_keys": {"a": "k", "b": "k"}}}))["Input files"].startswith(
        "2, all "
    )


def test_the_methods_text_separates_names_and_probes(shared_results):
    """Names of baselines contain commas; the tests of six probes in one paragraph can't be read."""
    _, _, scoring, probing, probe, *_ = methods_paragraphs(shared_results)
    assert "compared with: mean of the training data; last time point; linear autoregression." in scoring
    assert "Skill is 1 \N{MINUS SIGN} sum (y \N{MINUS SIGN} f)\N{SUPERSCRIPT TWO}" in scoring
    assert "where y is the recording" in scoring
    assert "b of n permutations" in probing
    assert probe == "history-swap (what it loses). sign-flip."
