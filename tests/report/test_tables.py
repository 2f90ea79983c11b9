import json

import numpy as np
import pandas as pd
import pytest

from titan_neuro.report.results import read_results
from titan_neuro.report.tables import (
    ceiling_rows,
    duration,
    number,
    provenance_facts,
    score_groups,
    scoring_facts,
    stage_rows,
    subject_rows,
    training_rows,
)

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def results(full_output):
    return read_results(full_output.root)


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


def test_the_best_of_each_horizon_is_the_highest(results, full_output):
    raw = pd.read_csv(full_output.group / "task-film_desc-forecast_scores.tsv", sep="\t", na_values="n/a")
    groups = {group["metric"]: group for group in score_groups(results.scores)}
    for metric, group in groups.items():
        table = raw.pivot_table(index="lead_time_points", columns="model", values=metric)
        for column, horizon in enumerate((1, 2, 6, 10)):
            best = [row["model"] for row in group["rows"] if row["cells"][column]["best"]]
            assert best == [table.loc[horizon].idxmax()]


def test_rows_stand_by_kind_and_a_reference_is_never_the_best(results):
    others = results.scores[results.scores["model"] == "titan-mac"].assign(
        model="intersubject-average", kind="oracle_reference"
    )
    others[["skill_ar", "r2"]] += 0.5
    scores = pd.concat([others, results.scores])
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
    assert rows[0]["cells"] == [{"value": "0.200", "interval": "0.100 to 0.300"}] * 2
    assert [cell["value"] for cell in rows[1]["cells"]] == [f"{MINUS}1.000", f"{MINUS}2.000"]


def test_cells_hold_value_and_interval(results):
    rows = {row["model"]: row for row in score_groups(results.scores)[0]["rows"]}
    source = results.scores.set_index(["model", "lead_time_points"]).loc[("titan-mac", 2)]
    cell = rows["titan-mac"]["cells"][1]
    assert cell["value"] == number(source["skill_ar"])
    assert cell["interval"] == f"{number(source['skill_ar_low'])} to {number(source['skill_ar_high'])}"
    assert {cell["interval"] for cell in rows["ar"]["cells"]} == {"by definition"}


def test_a_model_that_lacks_a_horizon_has_an_empty_cell(results):
    scores = results.scores[~((results.scores["model"] == "mean") & (results.scores["lead_time_points"] == 6))]
    rows = {row["model"]: row for row in score_groups(scores)[2]["rows"]}
    assert [cell["value"] == "n/a" for cell in rows["mean"]["cells"]] == [False, False, True, False]


def test_subjects_have_a_row_each(results):
    rows = subject_rows(results.subjects, "titan-mac")
    assert [row["subject"] for row in rows] == ["01", "02", "03", "04", "05", "06"]
    own = results.subjects.query("model == 'titan-mac' and subject == '03'")
    assert rows[2]["cells"] == [*map(number, own["skill_ar"]), *map(number, own["r2"])]
    assert rows[2]["n_time_points"] == own["n_time_points"].min()


def test_training_names_the_best_epoch(results):
    rows = training_rows(results.training)
    skill = results.training["seed-7 fold-2"]["validation_skill_ar"]
    assert rows[1]["fold"] == "seed-7 fold-2"
    assert rows[1]["best_epoch"] == str(int(np.argmax(skill)))
    assert rows[1]["best"] == number(skill.max())
    assert rows[1]["last"] == number(skill.iloc[-1])


def test_training_without_a_finite_score(results):
    table = results.training["seed-7 fold-1"].assign(validation_skill_ar=np.nan, volumes_per_s=np.nan)
    (row,) = training_rows({"fold-1": table})
    assert (row["best"], row["best_epoch"], row["speed"]) == ("n/a", "n/a", "n/a")


@pytest.mark.parametrize(("protocol", "words"), [("run", "other runs of the same"), ("strict", "neither the subject")])
def test_the_protocol_is_said_in_words(output_folder, protocol, words):
    metadata = dict(scoring_facts(read_results(output_folder().scores(protocol=protocol).root)))
    assert words in metadata["Protocol"]
    assert metadata["Folds"] == "3"
    assert metadata["Subjects"] == "6"
    assert metadata["Runs"] == "12"
    assert metadata["Scored time points"].startswith("3,480 to 3,588")
    assert metadata["Horizons"].startswith("1 (1.5 s), 2 (3 s), 6 (9 s), 10 (15 s)")
    assert "causal" in metadata["Normalization"]


def test_stages_say_what_they_took(results):
    rows = {row["stage"]: row for row in stage_rows(results.stages)}
    assert rows["evaluate"]["wall_time"] == "1 h 06 min"
    assert rows["evaluate"]["started"] == "2026-11-21 10:00:00"
    assert rows["evaluate"]["peak_memory"] == "1,434 MiB"
    assert rows["evaluate"]["command"] == "titan-neuro evaluate out"
    assert rows["prepare sub-01"]["seed"] == "n/a"


def test_what_differs_between_stages_is_said_of_each(full_output):
    path = full_output.root / "provenance.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["stages"]["evaluate"]["commit"] = None
    path.write_text(json.dumps(content), encoding="utf-8")
    metadata = dict(provenance_facts(read_results(full_output.root).stages))
    assert metadata["Commit (evaluate)"] == "not known"
    assert "Commit (prepare sub-01, train seed-7 fold-1, train seed-7 fold-2, train seed-7 fold-3)" in metadata
    assert metadata["Versions"] == "python 3.11.9, titan-neuro 0.1.0, torch 2.13.0"
    assert metadata["Input files"].startswith("30, 1 of them with a git-annex key")
    assert metadata["Input dataset"].startswith("3d2f1c6e")
