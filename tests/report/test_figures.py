import base64
import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from titan_neuro.report.figures import context_figure, lead_time_figure, training_figure
from titan_neuro.report.results import read_results
from titan_neuro.report.style import png_uri, row_styles, svg_uri


@pytest.fixture
def results(shared_results):
    return shared_results


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def texts_of(figure):
    return " ".join(text.get_text() for text in figure.axes[0].texts)


@pytest.mark.parametrize("metric", ["skill_ar", "r2"])
def test_a_line_for_each_model_shows_the_table(results, metric):
    figure = lead_time_figure(results.scores, results.subjects, metric, "titan-mac")
    for model, rows in results.scores.groupby("model"):
        if metric == "skill_ar" and model == "ar":
            assert model not in lines_of(figure)
            continue
        np.testing.assert_array_equal(lines_of(figure)[model].get_ydata(), rows[metric])


def test_among_many_lines_only_the_model_has_subjects(results):
    # Off the scale, all of them, and with names that take room.
    others = [results.scores[results.scores["model"] == "mean"].assign(model=f"a-long-name-{n}") for n in range(16)]
    scores = pd.concat([results.scores, *others])
    figure = lead_time_figure(scores, results.subjects, "r2", "titan-mac")
    assert len([name for name in lines_of(figure) if not name.startswith("_")]) == 20
    assert svg_uri(figure)
    dots = [points for points in figure.axes[0].collections if len(points.get_offsets()) == 24]
    assert len(dots) == 1
    expected = results.subjects.loc[results.subjects["model"] == "titan-mac", "r2"]
    np.testing.assert_array_equal(dots[0].get_offsets()[:, 1], expected)


def test_lead_times_are_in_time_points_and_seconds(results):
    [axes] = lead_time_figure(results.scores, None, "skill_ar", "titan-mac").axes
    assert axes.get_xlabel() == "lead time h (time points; seconds)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\n1.5 s", "2\n3 s", "6\n9 s", "10\n15 s"]
    assert axes.get_ylabel().replace("\n", " ") == "error removed beyond linear autoregression (skill)"


def test_every_subject_is_a_dot(results):
    figure = lead_time_figure(results.scores, results.subjects, "r2", "titan-mac")
    dots = np.concatenate([points.get_offsets() for points in figure.axes[0].collections if len(points.get_offsets())])
    assert np.isin(results.subjects["r2"].to_numpy(), dots[:, 1]).all()


def test_the_axis_fits_the_model(results):
    figure = lead_time_figure(results.scores, results.subjects, "skill_ar", "titan-mac")
    low, high = figure.axes[0].get_ylim()
    of_model = results.subjects.loc[results.subjects["model"] == "titan-mac", "skill_ar"]
    assert low < of_model.min()
    assert of_model.max() < high
    assert low > -0.2
    assert "off the scale" in texts_of(figure)
    assert "persistence" in texts_of(figure)


def test_an_axis_with_all_rows_has_no_note(results):
    scores = results.scores[results.scores["model"].isin(["ar", "titan-mac"])]
    figure = lead_time_figure(scores, results.subjects, "r2", "titan-mac")
    assert texts_of(figure) == ""


def test_one_subject_one_lead_time_one_model(output_folder):
    output = output_folder(subjects=("01",)).scores(models=("titan-mac",))
    results = read_results(output.root)
    first = results.scores[results.scores["lead_time_points"] == 1]
    figure = lead_time_figure(
        first, results.subjects[results.subjects["lead_time_points"] == 1], "skill_ar", "titan-mac"
    )
    assert svg_uri(figure).startswith("data:image/svg+xml;base64,")


def test_special_letters_in_names_are_escaped(results):
    scores = results.scores.replace("titan-mac", "_$\\frac</svg>脑")
    figure = lead_time_figure(scores, None, "r2", "_$\\frac</svg>脑")
    picture = base64.b64decode(svg_uri(figure).partition(",")[2]).decode("utf-8")
    assert picture.count("</svg>") == 1
    assert any("\\u8111" in label for label in lines_of(figure))


def test_each_row_has_a_style_of_its_own():
    models = ["mean", "persistence", "ar", *(f"model-{number}" for number in range(4))]
    styles = row_styles(models)
    assert len(set(styles.values())) == len(models)
    assert styles["ar"] == row_styles(["ar"])["ar"]


def test_the_whole_run_stands_apart_from_shorter_contexts(results):
    figure = context_figure(results.curve)
    assert figure.axes[0].get_xscale() == "log"
    (h1,) = [line for label, line in lines_of(figure).items() if label == "h = 1"]
    rows = results.curve[(results.curve["lead_time_points"] == 1) & ~results.curve["whole_run"]]
    np.testing.assert_array_equal(h1.get_ydata(), rows["skill_ar"])
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["3", "6", "12", "24", "48", "96", "192", "384", "whole\nrun"]
    whole_run = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D"]
    assert len(whole_run) == 2
    assert min(line.get_xdata()[0] for line in whole_run) > 384


def test_a_curve_of_the_whole_run_alone(results):
    figure = context_figure(results.curve[results.curve["whole_run"]])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["whole\nrun"]
    assert svg_uri(figure)


def test_training_shows_each_fold_and_their_mean(results):
    figure = training_figure(results.training)
    mean = lines_of(figure)["mean of the trainings"]
    folds = np.stack([table["validation_skill_ar"] for table in results.training.values()])
    np.testing.assert_allclose(mean.get_ydata(), folds.mean(axis=0))
    assert "epoch 0" in texts_of(figure)


def test_training_of_one_fold_whose_validation_failed(results):
    table = results.training["seed-7 fold-1"].assign(validation_skill_ar=np.nan)
    assert svg_uri(training_figure({"fold-1": table[table["epoch"] > 0]}))


def test_pictures_are_the_same_every_time(results):
    first, second = (svg_uri(training_figure(results.training)) for _ in range(2))
    assert first == second


def test_png_has_two_pixels_per_css_pixel(results):
    figure = training_figure(results.training)
    picture = imread(io.BytesIO(base64.b64decode(png_uri(figure).partition(",")[2])))
    np.testing.assert_allclose(picture.shape[:2], (3.7 * 192, 4.9 * 192), atol=1)


def test_missing_intervals_leave_no_band(output_folder):
    results = read_results(output_folder(subjects=("01", "02")).scores().root)
    assert results.scores["r2_low"].isna().all()
    figure = lead_time_figure(results.scores, results.subjects, "r2", "titan-mac")
    assert isinstance(svg_uri(figure), str)
    assert np.isfinite(figure.axes[0].get_ylim()).all()
