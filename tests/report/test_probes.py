"""The sections of the probes."""

import numpy as np
import pandas as pd
import pytest

from titan_neuro.errors import MetadataError
from titan_neuro.probing.tools.results import score_row
from titan_neuro.report import write_report
from titan_neuro.report.probe_figures import probe_figure
from titan_neuro.report.probes import probe_sections
from titan_neuro.report.results import read_results


@pytest.fixture
def probed(output_folder):
    """An output folder with one probe and nothing else."""
    return output_folder().probe()


def test_each_probe_has_its_summary_figures_and_numbers(probed):
    probed.probe("decoding", measures=[f"measure {number}" for number in range(6)], NotTested=["No faces & bodies."])
    first, second = probe_sections(read_results(probed.root).probes)
    assert (first["name"], second["name"]) == ("decoding", "history-swap")
    assert len(first["figures"]) == 4
    assert "2 further measures" in first["caption"]
    assert "No faces & bodies." in first["notes"]
    assert first["x"] == "kept before the forecast, s"
    [group] = second["groups"]
    row = group["rows"][0]
    assert (row["label"], row["x"], row["value"], row["p"]) == ("no history", "8", "0.042", "< 0.0001")
    assert group["rows"][-1]["is_control"]
    page = write_report(probed.root).read_text()
    assert "history-swap found &lt;b&gt;something&lt;/b&gt;." in page
    assert "Nothing corrects for the number of probes" in page


def test_maps_of_a_probe_belong_to_its_section(probed):
    probed.volume("lost", "historyswap", probed.smooth_map(0.02, 0.01))
    [section] = probe_sections(read_results(probed.root).probes)
    assert section["maps"][0]["file"].endswith("_stat-lost_desc-historyswap_statmap.nii.gz")
    assert "voxels" in section["maps"][0]["caption"]


def test_p_value_maps_are_described_not_drawn(probed):
    probed.volume("lostq", "historyswap", probed.smooth_map(0.5, 0.01))
    path = next(probed.group.glob("*stat-lostq*.json"))
    path.write_text('{"Space": "MNI152NLin2009cAsym", "Description": "p of it", "Correction": "FDR"}')
    [section] = probe_sections(read_results(probed.root).probes)
    assert "p of it: below 0.05 in 0 of" in section["maps"][0]["empty"]


def test_a_map_says_where_its_test_is_significant(probed):
    probed.volume("lost", "historyswap", probed.smooth_map(0.02, 0.01))
    probed.volume("lostq", "historyswap", probed.smooth_map(0.05, 0.02))
    path = next(probed.group.glob("*stat-lostq*.json"))
    path.write_text('{"Space": "MNI152NLin2009cAsym", "Correction": "FDR"}')
    [section] = probe_sections(read_results(probed.root).probes)
    [figure] = section["maps"]
    assert "Drawn without a threshold; corrected p (FDR) is below 0.05 in " in figure["caption"]


def test_a_timescale_of_recordings_has_a_unit_and_no_sign(probed):
    probed.volume("intrinsic", "historyswap", probed.smooth_map(5.0, 0.5))
    path = next(probed.group.glob("*stat-intrinsic*.json"))
    path.write_text('{"Space": "MNI152NLin2009cAsym", "Units": "s"}')
    [section] = probe_sections(read_results(probed.root).probes)
    caption = section["maps"][0]["caption"]
    assert " s; 10th to 90th percentile " in caption
    assert "above 0" not in caption


@pytest.mark.parametrize(("n_below", "share"), [(0, "100%"), (1, "more than 99%"), (999, "less than 1%")])
def test_all_voxels_means_all(n_below, share, probed):
    data = np.full(probed.mask.shape, np.nan)
    data.flat[:1000] = 0.1
    data.flat[:n_below] = -0.1
    probed.volume("lost", "historyswap", data)
    [section] = probe_sections(read_results(probed.root).probes)
    assert f"; {share} of 1,000 voxels are above 0" in section["maps"][0]["caption"]


def test_rows_are_grouped_by_the_fewer_conditions(probed):
    path = probed.group / "task-movie_desc-historyswap_scores.tsv"
    rows = [score_row(name, "shifts", value=1.0, x=2.0, n_subjects=6) for name in ("a", "b", "c")]
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")
    [section] = probe_sections(read_results(probed.root).probes)
    assert [group["name"] for group in section["groups"]] == ["shifts"]
    assert [row["label"] for row in section["groups"][0]["rows"]] == ["a", "b", "c"]


def test_without_probes_the_page_names_the_command(output_folder):
    page = write_report(output_folder().records().root).read_text()
    assert "probe NAME OUTPUT_DIR" in page


def test_a_probe_without_values_has_no_figure(probed):
    path = probed.group / "task-movie_desc-historyswap_scores.tsv"
    pd.DataFrame([score_row("accuracy", "state")]).to_csv(path, sep="\t", index=False, na_rep="n/a")
    [section] = probe_sections(read_results(probed.root).probes)
    assert section["figures"] == []
    assert section["x"] == ""
    assert section["groups"][0]["rows"][0]["value"] == "n/a"
    write_report(probed.root)


def test_conditions_without_a_course_are_stacked():
    rows = [
        score_row("accuracy", name, value=0.5, low=0.4, high=0.6, null=0.1, null_low=0.0, null_high=0.2)
        for name in "ab"
    ]
    figure = probe_figure(pd.DataFrame(rows).assign(label=list("ab")), "accuracy", "x")
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    # Of each: the range and the mean of the null distribution, the interval and the value.
    assert len(axes.collections) == 2 * 2
    np.testing.assert_array_equal([line.get_xdata()[0] for line in axes.lines[1::2]], [0.5, 0.5])


def test_a_wild_control_does_not_flatten_the_model():
    rows = [score_row("accuracy", "a", x=x, value=0.02, low=0.01, high=0.03) for x in (1, 3, 9)]
    rows += [{**score_row("accuracy", "b", x=x, value=-2), "is_control": True} for x in (1, 3, 9)]
    [axes] = probe_figure(pd.DataFrame(rows).assign(label=list("aaabbb")), "accuracy", "x").axes
    low, high = axes.get_ylim()
    assert -0.03 < low < 0 < 0.03 < high < 0.06
    # Zero stays in sight where the model is far above it.
    rows[0]["value"] = rows[0]["high"] = 1.0
    [axes] = probe_figure(pd.DataFrame(rows).assign(label=list("aaabbb")), "accuracy", "x").axes
    assert axes.get_ylim()[1] >= 1


def test_two_values_are_no_course():
    rows = [score_row("accuracy", name, x=x, value=0.5) for x in (1, 9) for name in "ab"]
    [axes] = probe_figure(pd.DataFrame(rows).assign(label=list("abab")), "accuracy", "Length, s").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (1)", "a (9)", "b (1)", "b (9)"]
    assert axes.get_xlabel() == "In brackets: length, s"
    # Labels that say the difference themselves stay as they are.
    [axes] = probe_figure(pd.DataFrame(rows).assign(label=list("abcd")), "accuracy", "Length, s").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abcd")
    assert axes.get_xlabel() == ""


def test_null_distributions_of_a_course_are_those_of_one_curve(probed):
    def drawn(is_control):
        rows = [
            {**score_row("gain", name, x=x, value=0.5, null=0, null_low=-1, null_high=1), "is_control": control}
            for name, control in (("a", False), ("b", is_control))
            for x in (1, 3, 9)
        ]
        figure = probe_figure(pd.DataFrame(rows).assign(label=list("aaabbb")), "gain", "x")
        nulls = [band for band in figure.axes[0].collections if np.allclose(band.get_facecolor()[0, 3], 0.6)]
        return rows, len(nulls)

    # A control's would cover that of the model, and those of two curves each other.
    assert drawn(is_control=True)[1] == 1
    rows, n_nulls = drawn(is_control=False)
    assert n_nulls == 0
    path = probed.group / "task-movie_desc-historyswap_scores.tsv"
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")
    [section] = probe_sections(read_results(probed.root).probes)
    assert "Grey areas" not in section["caption"]
    assert "The table has chance and p." in section["caption"]


@pytest.mark.parametrize("label", ["short", "memory weights less memory weights, untrained model"])
def test_the_legend_stays_inside_the_figure(label):
    rows = [score_row("accuracy", "a", x=x, value=0.5) for x in (1, 3, 9)] * 6
    figure = probe_figure(pd.DataFrame(rows).assign(label=[f"{label} {i // 3}" for i in range(18)]), "accuracy", "x")
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width
    assert figure.axes[0].get_window_extent().height > 0.4 * figure.bbox.height


def test_a_table_with_other_columns_is_refused(probed):
    path = probed.group / "task-movie_desc-historyswap_scores.tsv"
    path.write_text("measure\tcondition\na\tb\n")
    with pytest.raises(MetadataError, match=r"historyswap_scores.tsv: lacks the columns is_control, x"):
        write_report(probed.root)
