"""The page of a person: its recordings as they are stored, its scores beside those of the others."""

import json

import numpy as np
import pandas as pd
import pytest
from html_page import HOSTILE, Page

from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, RunStore, write_run
from titan_neuro.errors import NoMatchError
from titan_neuro.report import read_results, write_person, write_report
from titan_neuro.report.quality import brain_coverage, carpet, quality_cells
from titan_neuro.report.surprise_courses import course_figure

N_TIME_POINTS = 300


def volume_space(mask, name="MNI152NLin2009cAsym"):
    return Space(kind="volume", name=name, mask=mask.get_fdata() > 0, affine=np.asarray(mask.affine, float))


def write_store(output, run, space, displacement=None):
    """Store of a run of sub-01 beside its sidecar; each time point has its own number as value."""
    key = f"sub-01_task-movie_run-{run}"
    header = RunHeader(
        key=key,
        entities={"subject": "01", "task": "movie", "run": str(run)},
        repetition_time=1.5,
        space=space,
        scored=np.ones(N_TIME_POINTS, bool),
        framewise_displacement=displacement,
        record={},
    )
    series = np.repeat(np.arange(N_TIME_POINTS, dtype=np.float32)[:, None] / 100, space.n_features, axis=1)
    path = output.root / f"sub-01/func/{key}_desc-prepared_bold.zarr"
    write_run(path, header, [series])
    return RunStore(path)


@pytest.fixture
def person(output_folder, coarse_mask):
    """Two runs of sub-01, in volumes of which one knows its motion; everything of the group."""
    output = output_folder().scores().prepared()
    moved = np.full(N_TIME_POINTS, 0.1, np.float32)
    moved[[0, 40]] = np.nan, 1.3
    write_store(output, 1, volume_space(coarse_mask), moved)
    write_store(output, 2, volume_space(coarse_mask, "native"))
    sidecar = output.root / "sub-01/func/sub-01_task-movie_run-1_desc-prepared_bold.json"
    known = {
        "TemporalSNR": {"Median": 61.234},
        "FramewiseDisplacement": {"MeanMillimeters": 0.104, "FractionHigh": 0.01},
    }
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | known))
    return output


def surprise_table(output, people=("01", "02", "03", "04"), measure="surprise_of_the_forecast_memory"):
    """A peak at 30 s in all, larger in some; a boundary there."""
    rows = []
    for number, who in enumerate(people):
        for at in range(60):
            value = 5 + np.sin(at) + (number + 1) * 10 * (at == 30)
            rows.append(
                (f"sub-{who}_task-movie_run-1", at, 1.5 * at, int(at >= 4), int(at == 20), int(at == 30), value)
            )
    columns = ["run", "time_point", "time_s", "usable", "boundary", "annotated_boundary", measure]
    path = output.group / "task-movie_desc-surprise_timeseries.tsv"
    pd.DataFrame(rows, columns=columns).to_csv(path, sep="\t", index=False)
    return output


def test_a_page_shows_the_person_beside_the_group(person):
    page = write_person(person.root, "01")
    assert page == person.root / "sub-01.html"
    shown = Page(page.read_text(encoding="utf-8"))
    assert len(shown.all("img")) == 2 + 1
    own = pd.read_csv(person.group / "task-movie_desc-forecast_subjects.tsv", sep="\t", dtype={"subject": str})
    own = own[(own["model"] == "titan-mac") & (own["lead_time_points"] == 1)].set_index("subject")["skill_ar"]
    assert f"skill_ar of sub-01 {own['01']:.3f}" in shown.text
    assert f"skill_ar, mean of all {own.mean():.3f}" in shown.text
    assert f"skill_ar, rank among 6 {(own > own['01']).sum() + 1}" in shown.text
    assert "One person's scores have no interval; nothing on this page is tested." in shown.text


def test_what_is_not_known_is_said(person):
    text = Page(write_person(person.root, "01").read_text(encoding="utf-8")).text
    assert "sub-01_task-movie_run-1 301 280 1,000 0 0 61.2 0.10 1.0% " in text
    assert "sub-01_task-movie_run-2 302 280 1,000 0 0 n/a n/a n/a " in text
    assert "FD: mean 0.10 mm, highest 1.30 mm" in text
    assert text.count("Head motion is not known") == 1
    assert text.count("of the brain of the MNI152 template") == 1
    assert "Coverage of the brain is not given: that needs volumes in MNI space (here: native)." in text
    assert "Not made: the surprise of this person" in text
    assert "this person retold nothing" in text


def test_a_person_who_was_not_scored_has_a_page(person):
    path = person.group / "task-movie_desc-forecast_subjects.tsv"
    table = pd.read_csv(path, sep="\t", dtype={"subject": str})
    table[table["subject"] != "01"].to_csv(path, sep="\t", index=False, na_rep="n/a")
    text = write_person(person.root, "01").read_text(encoding="utf-8")
    assert "sub-01 was prepared. No forecast of a model was scored in this person." in text


def test_nobody_of_that_name_is_an_error(person):
    with pytest.raises(NoMatchError, match=r"sub-1, found none\. Did you mean '01'\?") as caught:
        write_person(person.root, "1")
    assert caught.value.hint == "Prepared are: 01, 02, 03, 04, 05, 06."
    assert not list(person.root.glob("*.html"))


def test_the_carpet_has_every_time_point(output_folder, coarse_mask):
    space = volume_space(coarse_mask)
    rows = carpet(write_store(output_folder(), 1, space))
    assert 120 < len(rows) <= 240
    assert rows.shape[1] == N_TIME_POINTS
    assert np.allclose(rows[0], np.arange(N_TIME_POINTS) / 100, atol=2e-3)


def test_coverage_is_that_of_the_template(coarse_mask):
    whole = volume_space(coarse_mask)
    assert brain_coverage(whole) > 0.9
    half = whole.mask.copy()
    half[: half.shape[0] // 2] = False
    assert 0.4 < brain_coverage(Space(kind="volume", name=whole.name, mask=half, affine=whole.affine)) < 0.6
    assert brain_coverage(volume_space(coarse_mask, "native")) is None
    assert brain_coverage(Space(kind="parcels", name="MNI", parcels=("a",))) is None


def test_runs_that_differ_give_a_range():
    counts = {"NumberOfTimePoints": 9, "NumberOfScoredTimePoints": 8, "NumberOfFeatures": 7}
    counts |= {"NumberOfConstantFeatures": 0, "VolumesBeforeSteadyState": 0}
    runs = [counts | {"TemporalSNR": {"Median": value}} for value in (30.0, 42.5)]
    assert quality_cells([*runs, counts])[-3:] == ["30 to 42.5", "n/a", "n/a"]
    assert quality_cells([counts | {"TemporalSNR": None}])[-3:] == ["n/a"] * 3


def test_parcels_are_among_the_recordings(output_folder):
    """Their sidecars end otherwise than those of volumes."""
    output = output_folder(subjects=("01",)).scores().prepared()
    for path in output.root.glob("sub-01/func/*.json"):
        path.rename(path.with_name(path.name.replace("_desc-prepared_bold", "_seg-x_desc-prepared_timeseries")))
    assert list(read_results(output.root).prepared) == [f"sub-01_task-movie_run-{run}_seg-x" for run in (1, 2)]


def test_surprise_is_drawn_with_its_boundaries(person):
    results = read_results(surprise_table(person).root)
    group, own = course_figure(results.surprise), course_figure(results.surprise, "02")
    assert "1 found in other subjects' brains, 1 annotated" in group["alt"]
    assert "Mean over 4 subjects, band: standard error" in group["caption"]
    assert "sub-02" in own["caption"]
    assert course_figure(results.surprise, "05") is None
    text = Page(write_report(person.root).read_text(encoding="utf-8")).text
    assert "task-movie_desc-surprise_timeseries.tsv" in text


def test_a_measure_without_values_is_not_drawn(person):
    results = read_results(surprise_table(person, measure="surprise_of_the_blocks'_memories").root)
    assert course_figure(results.surprise)["caption"].startswith("Surprise of the blocks' memories")
    flat = results.surprise.assign(**{"surprise_of_the_blocks'_memories": 1.0})
    assert course_figure(flat) is None


def test_what_was_retold_stands_beside_the_mean(person):
    columns = "subject\tsource\tn_retold\tn_watched\tmatched\tmismatched\treinstatement\n"
    rows = [f"{who}\t{HOSTILE}\t7\t9\t0.2\t0\t{value}\n" for who, value in (("01", 0.2), ("02", 0.4))]
    (person.group / "task-movie_desc-recall_subjects.tsv").write_text(columns + "".join(rows))
    html = write_person(person.root, "01").read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert "7 of 9 0.200 0.300" in Page(html).text
