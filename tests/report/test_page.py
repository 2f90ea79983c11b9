import base64
import hashlib
import json
import re

import numpy as np
import pytest
from html_page import HOSTILE, Page

from titan_neuro.errors import InputNotFoundError
from titan_neuro.report import write_report
from titan_neuro.report.rendering import unbroken


def page_of(output):
    return Page(write_report(output.root).read_text(encoding="utf-8"))


@pytest.fixture
def full_page(full_report):
    return Page(full_report.read_text(encoding="utf-8"))


def test_every_part_is_there_in_order(full_page):
    order = [
        "Simulated synthetic dataset",
        "In 6 people, the forecasts of titan-mac have",
        "the memory that learns at test time adds 0.020 to the skill of titan-mac; the backbone adds nothing.",
        "Does a longer past help the forecast?",
        "Does the memory hold a scene again while it is retold?",
        "Data, person by person",
        "Scores of each person",
        "beats ar at lead times of 1 to 2 time points.",
        "All 4 forecasters on all metrics",
        "memory, blocks and decoder of the backbone give 0.",
        "titan-mac is not shown to differ from ar at every lead time.",
        "compared with: linear autoregression",
        "In a rollout a model reads",
        "No test-retest noise ceiling: no segment was shown twice to one subject.",
        "How it was scored",
        "The map of the skill is above",
        "Memory: how much history the model uses",
        "Probes: what the memory contains",
        "skill_ar on the validation runs",
        "Recordings of the task movie (6 subjects, 12 test runs; repetition time 1.5 s;",
        "Titans: learning to memorize at test time",
        "Stages: 5 rows",
        "titan-neuro evaluate out",
        "chunk_size: 16",
        "The maps of the forecast and of timescales are not tested for significance.",
    ]
    positions = [full_page.text.rindex(words) for words in order]
    assert positions == sorted(positions)
    assert full_page.text.count("Not made") == 1
    assert "Not made: the results of the other probes" in full_page.text


def test_without_controls_there_is_no_table_of_parts(full_output):
    path = full_output.group / "task-movie_desc-forecast_scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Ablations": ""}))
    for path in full_output.group.glob("*forecastablations*"):
        path.unlink()
    html = write_report(full_output.root).read_text()
    assert re.search(r'class="sentence">(.*?)</p>', html)[1].startswith("In 6 people, the forecasts of titan-mac")
    assert "What each part adds" not in html


def test_the_page_needs_no_other_file(full_report, full_page):
    html = full_report.read_text(encoding="utf-8")
    for _, attributes in full_page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert not full_page.all("link")
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in html
    targets = {attributes["id"] for _, attributes in full_page.tags if "id" in attributes}
    assert {link["href"][1:] for link in full_page.all("a")} <= targets


def test_the_policy_allows_the_one_script_alone(full_report, full_page):
    html = full_report.read_text(encoding="utf-8")
    [script] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [attributes["content"] for attributes in full_page.all("meta") if "http-equiv" in attributes]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_all_tables_but_one_of_a_section_are_folded(full_report):
    html = full_report.read_text(encoding="utf-8")
    unfolded = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    sections = re.findall(r'<section id="[a-z]+">(.*?)(?=<section id="[a-z]+">|</main>)', unfolded, re.DOTALL)
    assert len(sections) == 9
    assert all(section.count("<table") <= 1 for section in sections)
    # What is folded is named: with its file where it has one.
    assert len(re.findall(r"<summary>[^<]+", html)) == html.count("<details>") >= 8
    assert "group/task-movie_desc-rollout_scores.tsv" in html


def test_only_a_small_page_is_written(full_report):
    assert full_report.stat().st_size < 4_000_000
    assert list(full_report.parent.glob(".*")) == []


def test_pictures_and_tables_have_their_descriptions(full_page):
    images = full_page.all("img")
    assert len(images) == 1 + 2 + 1 + 3 + 1 + 1 + 1 + 1 + 1
    assert all(len(image["alt"]) > 30 for image in images)
    assert all("scope" in cell for cell in full_page.all("th"))
    assert len(full_page.all("caption")) == len(full_page.all("table")) == 12


def test_figures_name_n_and_test(full_page):
    captions = re.findall(r"n = 6 subjects[.] [BN]|Mean over 6 subjects|mean skill_ar of 6 subjects", full_page.text)
    assert len(captions) == 1 + 1 + 1 + 3 + 1 + 1 + 1
    assert full_page.text.count("Not tested for significance, hence not corrected") == 7


def test_text_from_files_is_never_markup(output_folder):
    labels = [HOSTILE, "LH_Vis_1", "b"]
    output = output_folder(subjects=(HOSTILE, "02", "03"), name=HOSTILE)
    output.scores(summary=HOSTILE, models=("ar", HOSTILE), space=HOSTILE).parcels(labels).training().records()
    page = page_of(output)
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert page.text.count(HOSTILE) >= 5
    assert "note: <b>not bold</b>" in page.text


def test_missing_stages_are_named_with_their_command(output_folder):
    text = page_of(output_folder()).text
    for command in (
        "evaluate OUTPUT_DIR",
        "probe context-length OUTPUT_DIR",
        "probe NAME OUTPUT_DIR",
        "train OUTPUT_DIR",
        "run BIDS_DIR OUTPUT_DIR group",
    ):
        assert f"titan-neuro {command}" in text
    assert text.count("Not made") == 12
    assert "No result yet" in text


@pytest.mark.parametrize("part", ["scores", "volumes", "curve", "timescale", "training", "records"])
def test_each_part_alone_makes_a_page(output_folder, part):
    output = output_folder()
    getattr(output, part)()
    assert "Not made" in page_of(output).text


def test_missing_or_empty_maps_are_named(output_folder, coarse_mask):
    output = output_folder().scores(models=("titan-mac", "ar")).volumes().curve()
    for path in output.group.glob("task-movie*_stat-r2_desc-arH1_statmap.*"):
        path.unlink()
    output.volume("timescale", "contextlength", np.full(coarse_mask.shape, np.nan))
    text = page_of(output).text
    assert "Not made: r2 of linear autoregression, lead time 1 time point" in text
    assert "no voxels gain from a longer context, so there is no picture" in text


def test_high_motion_and_ceilings_have_their_sections(output_folder):
    output = output_folder().scores()
    assert "Time points with high motion" not in page_of(output).text
    for end in (".tsv", ".json"):
        table = output.group / f"task-movie_desc-forecast_scores{end}"
        (output.group / f"task-movie_desc-forecasthighmotion_scores{end}").write_text(table.read_text(encoding="utf-8"))
    (output.group / "task-movie_desc-ceilings_scores.tsv").write_text(
        "ceiling\tlead_time_points\tn_subjects\tr2\tr2_low\tr2_high\tskill_ar\tskill_ar_low\tskill_ar_high\n"
        "stimulus-locked\t1\t6\t0.311\tn/a\tn/a\t0.052\tn/a\tn/a\n"
    )
    text = page_of(output).text
    assert "3,588 time points of 6 subjects have a framewise displacement (FD) above 0.5 mm" in text
    assert "intersubject correlation (ISC) 6 r2 0.311 stimulus-locked" in text


def test_one_subject_has_no_interval_and_no_inference(output_folder):
    text = page_of(output_folder(subjects=("01",)).scores(protocol="run").volumes("native")).text
    assert "No intervals with fewer than 3 subjects" in text
    assert "no inference" in text
    assert "the images were not registered" in text
    assert "header coordinates" in text


def test_parcels_are_drawn_without_a_brain(output_folder):
    labels = [f"7Networks_{side}_{network}_1" for side in ("LH", "RH") for network in ("Vis", "Default")]
    page = page_of(output_folder().scores().parcels(labels).curve())
    assert "The image of the atlas is not among them" in page.text
    assert sum(image["alt"].startswith("Values of parcels") for image in page.all("img")) == 4
    assert "MNI152" not in re.sub("(?i)space:? MNI152NLin2009cAsym", "", page.text)


def test_baselines_alone_make_a_page(output_folder):
    text = page_of(output_folder().scores(models=("mean", "persistence", "ar"))).text
    assert "Only baselines were scored" in text


def test_lead_times_are_spelled_out_in_every_table(full_page):
    tables = [attributes["aria-label"] for attributes in full_page.all("div") if "aria-label" in attributes]
    assert {
        "Table of forecast scores",
        "Table of ablations",
        "Table of comparisons",
        "Table of rollouts",
        "Table of subjects",
    } <= set(tables)
    assert full_page.text.count("by lead time h") == 6
    assert full_page.text.count("2 time points 3 s") == 5
    assert "horizon" not in full_page.text
    first = full_page.text.index("skill_ar")
    assert full_page.text[first:].startswith("skill_ar is the fraction of the squared error of linear autoregression")


def test_a_number_and_its_unit_stay_in_one_line():
    """On the first screen cells are narrow: an "s." alone in a line, or "p =" at the end of one, can't be read."""
    space = "\N{NO-BREAK SPACE}"
    text = "25 % less 10 s ahead, p = 0.019 and p < 0.0001, 12 people"
    assert unbroken(text) == text.replace("25 %", f"25{space}%").replace("10 s", f"10{space}s").replace(
        "p = 0", f"p{space}={space}0"
    ).replace("p < 0", f"p{space}<{space}0")


def test_rows_are_labeled_in_words(output_folder):
    page = page_of(output_folder().scores(models=("titan-mac", "titan-mac-frozen", "ar")))
    # In the table that stands open, in that of all rows, and in the methods text.
    assert page.text.count("Titans, memory as context (MAC)") == 3
    assert page.text.count("test-time learning off") == 1


def test_refuses_another_folder(tmp_path):
    with pytest.raises(InputNotFoundError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
