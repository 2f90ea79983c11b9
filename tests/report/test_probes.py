"""What the page tells of the probes."""

import numpy as np
import pandas as pd
import pytest

from titan_neuro.errors import MetadataError
from titan_neuro.probing.tools.results import score_row
from titan_neuro.report import write_report
from titan_neuro.report.probes import probe_figure, probe_sections
from titan_neuro.report.results import read_results


def test_each_probe_has_its_sentence_figures_and_every_number(full_output):
    full_output.probe(
        "decoding", measures=[f"measure {number}" for number in range(6)], NotTested=["No faces & bodies."]
    )
    first, second = probe_sections(read_results(full_output.root).probes)
    assert (first["name"], second["name"]) == ("decoding", "history-swap")
    assert len(first["figures"]) == 4
    assert "2 further measures" in first["caption"]
    assert "No faces & bodies." in first["notes"]
    assert first["x"] == "kept before the forecast, s"
    [group] = second["groups"]
    row = group["rows"][0]
    assert (row["label"], row["x"], row["value"], row["p"]) == ("nothing", "8", "0.042", "< 0.0001")
    assert group["rows"][-1]["is_control"]
    page = write_report(full_output.root).read_text()
    assert "history-swap found &lt;b&gt;something&lt;/b&gt;." in page
    assert "nothing corrects for the number of probes" in page


def test_maps_of_a_probe_stand_with_it(full_output):
    full_output.volume("lost", "historyswap", full_output.smooth_map(0.02, 0.01))
    [section] = probe_sections(read_results(full_output.root).probes)
    assert section["maps"][0]["file"].endswith("_stat-lost_desc-historyswap_statmap.nii.gz")
    assert "voxels" in section["maps"][0]["caption"]


def test_a_map_of_p_values_is_told_and_not_drawn(full_output):
    full_output.volume("lostq", "historyswap", full_output.smooth_map(0.5, 0.01))
    path = next(full_output.group.glob("*stat-lostq*.json"))
    path.write_text('{"Space": "MNI152NLin2009cAsym", "Description": "p of it", "Correction": "FDR"}')
    [section] = probe_sections(read_results(full_output.root).probes)
    assert "p of it: below 0.05 in 0 of" in section["maps"][0]["empty"]


def test_where_measures_outnumber_conditions_rows_are_grouped_by_these(full_output):
    path = full_output.group / "task-film_desc-historyswap_scores.tsv"
    rows = [score_row(name, "shifts", value=1.0, x=2.0, n_subjects=6) for name in ("a", "b", "c")]
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")
    [section] = probe_sections(read_results(full_output.root).probes)
    assert [group["name"] for group in section["groups"]] == ["shifts"]
    assert [row["label"] for row in section["groups"][0]["rows"]] == ["a", "b", "c"]


def test_without_probes_the_page_says_how_to_make_them(output_folder):
    page = write_report(output_folder().scores().records().root).read_text()
    assert "probe NAME OUTPUT_DIR" in page


def test_where_nothing_could_be_asked_there_is_nothing_to_draw(full_output):
    path = full_output.group / "task-film_desc-historyswap_scores.tsv"
    pd.DataFrame([score_row("accuracy", "state")]).to_csv(path, sep="\t", index=False, na_rep="n/a")
    [section] = probe_sections(read_results(full_output.root).probes)
    assert section["figures"] == []
    assert section["x"] == ""
    assert section["groups"][0]["rows"][0]["value"] == "n/a"
    write_report(full_output.root)


def test_conditions_without_a_course_are_drawn_one_below_the_other():
    rows = [
        score_row("accuracy", name, value=0.5, low=0.4, high=0.6, null=0.1, null_low=0.0, null_high=0.2)
        for name in "ab"
    ]
    figure = probe_figure(pd.DataFrame(rows).assign(label=list("ab")), "accuracy", "x")
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    # The null's range and its mean, the interval and the value of each.
    assert len(axes.collections) == 2 * 2
    np.testing.assert_array_equal([line.get_xdata()[0] for line in axes.lines[1::2]], [0.5, 0.5])


def test_a_table_of_another_shape_is_refused(full_output):
    path = full_output.group / "task-film_desc-historyswap_scores.tsv"
    path.write_text("measure\tcondition\na\tb\n")
    with pytest.raises(MetadataError, match=r"historyswap_scores.tsv: lacks the columns is_control, x"):
        write_report(full_output.root)
