"""Two output folders side by side: the same people and runs are paired, and what is not comparable is not compared."""

import json

import numpy as np
import pandas as pd
import pytest
from html_page import HOSTILE, Page

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.manifests import Check, ResultOf, State
from titan_neuro.report import ComparedStudy, read_results, write_comparison
from titan_neuro.report.comparable import comparability

CONFIG = "prepare:\n  high_pass_hz: null\nmodel:\n  backbone:\n    dim: {dim}\n"


def subjects_table(output):
    return output.group / "task-movie_desc-forecast_subjects.tsv"


def scores_sidecar(output):
    return output.group / "task-movie_desc-forecast_scores.json"


def write_config(output, text):
    (output.root / "config.resolved.yaml").write_text(text, encoding="utf-8")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def pair(output_folder):
    """Two studies of the same runs, with another backbone; B's model is worse by 0.01, exactly."""
    first, second = (output_folder(folder).scores().ablations().prepared() for folder in ("a", "b"))
    for output, dim in ((first, 48), (second, 64)):
        write_config(output, CONFIG.format(dim=dim))
    table = pd.read_csv(subjects_table(first), sep="\t", dtype={"subject": str})
    worse = table.assign(skill_ar=table["skill_ar"] - 0.01 * (table["model"] == "titan-mac"))
    worse.to_csv(subjects_table(second), sep="\t", index=False, na_rep="n/a")
    return first, second


def compare(pair):
    comparison = write_comparison(*(ComparedStudy(output.root) for output in pair))
    return comparison, Page(comparison.page.read_text(encoding="utf-8"))


def shared(pair):
    return comparability(*(read_results(output.root) for output in pair))


def test_differences_are_taken_within_people(pair):
    comparison, page = compare(pair)
    assert comparison.page == pair[0].root / "compared-with-b.html"
    assert comparison.lines == [
        "In the same 6 people, the skill of titan-mac in A minus that of titan-mac in B is 0.010 on average over 4 "
        "lead times (95 %: 0.010 to 0.010). A is better at 4 of 4 lead times; these are not corrected for their number."
    ]
    assert all(f"{name}{4 * ' 0.0100'}" in page.text for name in pair[0].subjects)
    assert "model.backbone.dim 48 64" in page.text
    assert "the memory that learns at test time 0.0200" in page.text
    assert len(page.all("img")) == 2


def test_an_interval_is_that_of_the_paired_differences(pair):
    rng = np.random.default_rng(5)
    path = subjects_table(pair[1])
    table = pd.read_csv(path, sep="\t", dtype={"subject": str})
    noise = rng.normal(0, 0.02, len(table)) * (table["model"] == "titan-mac")
    table.assign(skill_ar=table["skill_ar"] + noise).to_csv(path, sep="\t", index=False, na_rep="n/a")
    found = (0.01 - noise[table["model"] == "titan-mac"]).groupby(table["lead_time_points"]).mean()
    _, page = compare(pair)
    assert all(f"{value:.4f}".replace("-", "\N{MINUS SIGN}") in page.text for value in found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"RepetitionTime": 2.0}, "Repetition times differ (1.5 and 2.0 s)"),
        ({"Space": "Schaefer2018"}, "The spaces differ (MNI152NLin2009cAsym and Schaefer2018)"),
        ({"Normalization": "none"}, "The normalizations differ"),
        ({"Folds": [{"train": [], "test": ["sub-01_task-movie_run-9"]}]}, "No person is scored in both studies"),
    ],
)
def test_other_data_are_not_compared(pair, change, reason):
    change_json(scores_sidecar(pair[1]), **change)
    comparison, page = compare(pair)
    assert comparison.lines[0].startswith(f"The scores of these studies can't be compared. {reason}")
    assert page.text.count("No comparison.") == len(shared(pair).reasons) == 1
    assert "Table of paired differences" not in str(page.tags)
    assert len(page.all("img")) == 1


def test_another_preparation_is_not_compared(pair):
    write_config(pair[1], CONFIG.format(dim=48).replace("null", "0.008"))
    assert shared(pair).reasons == [
        "The runs were prepared with other settings (prepare.high_pass_hz): other time series are forecast."
    ]


def test_other_numbers_of_voxels_are_not_compared(pair):
    for path in pair[1].root.glob("sub-*/func/*.json"):
        change_json(path, NumberOfFeatures=900)
    assert shared(pair).reasons[0].startswith("The numbers of voxels or parcels differ (1,000 and 900)")


def test_other_datasets_are_not_compared(pair):
    for number, output in enumerate(pair):
        record = {"stages": {"prepare sub-01": {"input_dataset_id": f"id-{number}"}}}
        (output.root / "provenance.json").write_text(json.dumps(record))
    assert shared(pair).reasons == ["The recordings are of different datasets (id-0 and id-1)."]


def test_other_folds_are_warned_of(pair):
    folds = json.loads(scores_sidecar(pair[1]).read_text())["Folds"]
    folds[0]["train"] = folds[0]["train"][:-1]
    change_json(scores_sidecar(pair[1]), Folds=folds)
    comparison, _ = compare(pair)
    assert shared(pair).reasons == []
    assert comparison.lines[1].startswith("Note: The folds differ")


def test_only_lead_times_and_people_of_both_are_paired(pair):
    path = subjects_table(pair[1])
    table = pd.read_csv(path, sep="\t", dtype={"subject": str})
    table[table["subject"] != "06"].to_csv(path, sep="\t", index=False, na_rep="n/a")
    scores = pair[1].group / "task-movie_desc-forecast_scores.tsv"
    rows = pd.read_csv(scores, sep="\t")
    rows[rows["lead_time_points"] != 10].to_csv(scores, sep="\t", index=False, na_rep="n/a")
    comparison, page = compare(pair)
    assert "In the same 5 people" in comparison.lines[0]
    assert "over 3 lead times" in comparison.lines[0]
    assert shared(pair).warnings == [
        "5 subjects of both studies were scored in the same runs. 1 subject is left out of the differences.",
        "Differences are given at the lead times of both: 1, 2, 6 time points.",
    ]
    assert "10 time points" not in page.text.split("Table of")[0]


def test_other_targets_are_warned_of(pair):
    path = subjects_table(pair[1])
    table = pd.read_csv(path, sep="\t", dtype={"subject": str})
    table.loc[(table["model"] == "persistence") & (table["subject"] == "03"), "r2"] += 0.03
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    assert "r2 of persistence differs by up to 0.0300 in a person" in shared(pair).warnings[0]


def test_few_people_support_no_claim(output_folder):
    pair = [output_folder(folder, subjects=("01", "02", "03")).scores() for folder in ("a", "b")]
    sentence = compare(pair)[0].lines[0]
    assert "So few people support no claim about others." in sentence
    assert "better" not in sentence
    assert "Neither study has a row without a part." in compare(pair)[1].text


def test_names_from_files_are_escaped(output_folder):
    pair = [output_folder(folder, name=HOSTILE).scores(space=HOSTILE) for folder in ("a", "b")]
    for output in pair:
        write_config(output, f"model: {{note: '{output.root.name} <script>alert(1)</script>'}}\n")
    html = compare(pair)[0].page.read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert "b &lt;script&gt;alert(1)" in html


def test_a_stale_study_is_marked(pair):
    states = {"evaluate": Check(State.STALE, ("seeds: before 0, now 1",))}
    with ResultOf(root=pair[1].root, name="evaluate", method=1, settings={}, inputs={}).writing() as written:
        written.files += [*pair[1].group.iterdir()]
    page = write_comparison(ComparedStudy(pair[0].root), ComparedStudy(pair[1].root, states)).page
    assert "B is out of date. Since it was scored: seeds: before 0, now 1." in page.read_text()


def test_a_study_without_scores_is_refused(pair, output_folder):
    empty = output_folder("empty").prepared()
    with pytest.raises(InputNotFoundError, match="no model is scored there"):
        write_comparison(ComparedStudy(pair[0].root), ComparedStudy(empty.root))
    write_config(pair[1], "model: [")
    with pytest.raises(MetadataError, match=r"config\.resolved\.yaml is no YAML"):
        compare(pair)
