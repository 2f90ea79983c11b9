import json

import pytest

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.report.reading import read_parcels
from titan_neuro.report.results import read_results


def replace_in(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_reads_every_part(shared_results):
    results = shared_results
    assert results.name == "Simulated synthetic dataset"
    assert results.main_model == "titan-mac"
    assert len(results.scores) == 16
    assert len(results.subjects) == 16 * 6
    assert len(results.comparisons) == 16
    assert list(results.ablations["effect"]) == ["adds", "adds nothing"]
    assert [len(fold.test) for fold in results.metadata.folds] == [4, 4, 4]
    assert results.metadata.repetition_time_s == 1.5
    assert [probe.name for probe in results.probes] == ["history-swap"]
    assert {(stat_map.stat, stat_map.model, stat_map.horizon) for stat_map in results.maps} == {
        (stat, model, horizon)
        for stat, model in (("skillar", "titanmac"), ("r2", "titanmac"), ("r2", "ar"))
        for horizon in (1, 2)
    }
    assert all(stat_map.unit == "voxels" for stat_map in results.maps)
    assert results.timescale.stat == "timescale"
    assert results.curve["whole_run"].sum() == 2
    assert list(results.training) == ["seed-7 fold-1", "seed-7 fold-2", "seed-7 fold-3"]
    assert "chunk_size: 16" in results.config
    assert results.stages["evaluate"]["seed"] == 7


def test_trainings_are_in_numeric_order_without_comparison_models(output_folder):
    output = output_folder().training()
    models = output.root / "models"
    content = (models / "seed-7/fold-1/titan-mac/training.csv").read_text(encoding="utf-8")
    for where in (
        "seed-7/fold-10/titan-mac",
        "seed-11/fold-2/titan-mac",
        "seed-7/fold-2/gru",
        "seed-0/fold-1/titan-mac",
    ):
        (models / where).mkdir(parents=True)
        (models / where / "training.csv").write_text(content, encoding="utf-8")
    expected = ["seed-0 fold-1", *(f"seed-7 fold-{number}" for number in (1, 2, 3, 10)), "seed-11 fold-2"]
    assert list(read_results(output.root).training) == expected


def test_subject_labels_stay_text(output_folder):
    output = output_folder(subjects=("007", "NA", "nan", "1e3")).scores()
    assert list(read_results(output.root).subjects["subject"].unique()) == ["007", "NA", "nan", "1e3"]


def test_missing_stages_are_no_error(output_folder):
    results = read_results(output_folder().root)
    assert results.scores is None
    assert results.curve is None
    assert results.maps == ()
    assert results.training == {}
    assert results.stages == {}


@pytest.mark.parametrize("missing", ["folder", "description"])
def test_refuses_another_folder(tmp_path, missing):
    with pytest.raises(InputNotFoundError, match="dataset_description"):
        read_results(tmp_path / "nowhere" if missing == "folder" else tmp_path)


def test_refuses_a_table_without_a_column(full_output):
    path = full_output.group / "task-movie_desc-forecast_scores.tsv"
    replace_in(path, "pattern_r_low", "something")
    with pytest.raises(MetadataError, match=r"forecast_scores\.tsv: lacks the columns pattern_r_low"):
        read_results(full_output.root)


def test_refuses_an_unknown_kind_of_row(full_output):
    replace_in(full_output.group / "task-movie_desc-forecast_scores.tsv", "\tbaseline\t", "\tbase line\t")
    with pytest.raises(
        MetadataError, match="expected one of model, control, comparison_model, baseline, oracle_reference"
    ):
        read_results(full_output.root)


def test_refuses_a_table_without_rows(full_output):
    path = full_output.group / "task-movie_desc-forecast_subjects.tsv"
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(MetadataError, match="no row"):
        read_results(full_output.root)


@pytest.mark.parametrize("content", ["", "a\tb\n1\t2\t3\n4\t5\n", b"\xff\xfe\x00"])
def test_refuses_a_malformed_table(full_output, content):
    path = full_output.group / "task-movie_desc-contextlength_curve.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MetadataError, match=r"contextlength_curve\.tsv"):
        read_results(full_output.root)


def test_refuses_text_in_a_column_of_numbers(full_output):
    path = full_output.root / "models/seed-7/fold-2/titan-mac/training.csv"
    replace_in(path, "880.5", "fast")
    with pytest.raises(MetadataError, match=r"fold-2.*column volumes_per_s.*fast"):
        read_results(full_output.root)


def test_refuses_a_fractional_lead_time(full_output):
    replace_in(
        full_output.group / "task-movie_desc-forecast_scores.tsv", "mean\tbaseline\t1\t", "mean\tbaseline\t1.5\t"
    )
    with pytest.raises(MetadataError, match=r"column lead_time_points: expected a whole number, found 1\.5"):
        read_results(full_output.root)


def test_refuses_a_whole_run_that_is_not_boolean(full_output):
    replace_in(full_output.group / "task-movie_desc-contextlength_curve.tsv", "true", "perhaps")
    with pytest.raises(MetadataError, match="perhaps"):
        read_results(full_output.root)


def test_refuses_a_table_without_its_sidecar(full_output):
    (full_output.group / "task-movie_desc-forecast_scores.json").unlink()
    with pytest.raises(MetadataError, match=r"its sidecar task-movie_desc-forecast_scores\.json is missing"):
        read_results(full_output.root)


@pytest.mark.parametrize("content", ["{", "[]", '{"Space": "native"'])
def test_refuses_a_broken_sidecar(full_output, content):
    path = full_output.group / "task-movie_space-MNI152NLin2009cAsym_stat-r2_desc-arH1_statmap.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(MetadataError, match=r"stat-r2_desc-arH1_statmap\.json"):
        read_results(full_output.root)


def test_refuses_a_map_without_its_space(full_output):
    (full_output.group / "task-movie_space-MNI152NLin2009cAsym_stat-r2_desc-arH1_statmap.json").write_text(
        "{}", encoding="utf-8"
    )
    with pytest.raises(MetadataError, match="keys Space are missing"):
        read_results(full_output.root)


@pytest.mark.parametrize("content", [{}, {"stages": []}, {"stages": {"train": 3}}])
def test_a_provenance_without_stages_is_not_shown(full_output, caplog, content):
    (full_output.root / "provenance.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_results(full_output.root).stages == {}
    assert "provenance.json" in caplog.text


def test_refuses_two_tasks(full_output):
    (full_output.group / "task-rest_desc-forecast_scores.tsv").write_text("", encoding="utf-8")
    with pytest.raises(MetadataError, match="movie, rest"):
        read_results(full_output.root)


def test_parcels_keep_their_order_and_gaps(tmp_path):
    path = tmp_path / "task-movie_stat-r2_desc-arH1_statmap.tsv"
    path.write_text("parcel\tvalue\nB\t0.5\nA\tn/a\n", encoding="utf-8")
    parcels = read_parcels(path)
    assert list(parcels["parcel"]) == ["B", "A"]
    assert parcels["value"].isna().tolist() == [False, True]
