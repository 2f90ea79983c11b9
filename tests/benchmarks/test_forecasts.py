"""The table of the forecast benchmark, whole, from a small study; how good the forecasts are is not tested here."""

import json
from pathlib import Path

import forecast_datasets
import forecast_pages
import forecasts
import numpy as np
import pandas as pd
import pytest
import yaml
from common import BenchmarkError
from parcels_dataset import write_parcels

from titan_neuro.errors import InputNotFoundError
from titan_neuro.metrics import bootstrap_interval

# The smallest of everything, and every stage.
SMALL = [
    *("model.backbone.dim=8", "model.backbone.n_layers=1", "model.backbone.n_heads=2", "model.horizons=[1, 2]"),
    *("model.recall.width=8", "model.lookahead.n_lags=2", "training.max_epochs=1", "training.steps_per_epoch=1"),
    *("probe.context_length.origins_per_run=4", "seeds=[0]"),
]


def flags(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module", params=["sitcom-trained", pytest.param("synthetic", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of one dataset; ``found.json`` and ``found.md`` beside its output are the table."""
    work = tmp_path_factory.mktemp("forecasts")
    small = forecasts.Example(
        title="A small synthetic dataset",
        simulated=("n_subjects=3", "n_runs=1", "volume_scale=0.25", "voxel_size_mm=30"),
        settings=(*forecasts.EXAMPLES["synthetic"].settings[1:], "comparison_models=true"),
        has_curve=True,
    )
    given = ["--source", str(write_parcels(work / "parcels"))] if request.param == "sitcom-trained" else []
    given += flags(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(forecasts.EXAMPLES, "synthetic", small)
        for _ in range(2):
            forecasts.main([request.param, "--full", *given, "--work-dir", str(work), "--output-dir", str(work)])
    folder = work / request.param
    for path in work.glob(f"forecasts_{request.param}.*"):
        path.rename(folder / f"found{path.suffix}")
    return folder


def test_the_page_has_the_whole_table(made: Path) -> None:
    content = json.loads((made / "found.json").read_text())
    [path] = made.glob("output/group/*_desc-forecast_scores.tsv")
    table = pd.read_csv(path, sep="\t")
    assert [row["model"] for row in content["scores"]] == table["model"].tolist()
    for column in ("skill_ar", "skill_ar_low", "skill_ar_high", "r2", "pattern_r", "n_runs", "n_seeds"):
        assert [row[column] for row in content["scores"]] == pytest.approx(table[column].tolist(), abs=1e-5)
    page = (made / "found.md").read_text()
    for name in table["model"].unique():
        assert f"| {name} " in page
    [summary], [parts] = content["summary"], content["parts"]
    assert summary in page
    assert parts.startswith("Averaged over lead times") and parts in page
    assert "| whole run " in page and "| 20 time points (20 s) " in page and "| 80 time points (80 s) " in page
    assert "## Rollouts" in page
    assert str(made) not in page and content["date"] in page


def test_the_surrogate_stands_beside_the_gain(made: Path) -> None:
    content = json.loads((made / "found.json").read_text())
    [path] = made.glob("output/null-phase/group/*_desc-forecast_scores.tsv")
    table = pd.read_csv(path, sep="\t").set_index(["model", "lead_time_points"])["skill_ar"]
    found = {(row["model"], row["lead_time_points"]): row["skill_ar"] for row in content["surrogate_scores"]}
    assert found == pytest.approx(table.to_dict(), abs=1e-5)
    assert content["surrogate_check"].startswith(("Null control phase passed", "THE NULL CONTROL FAILED"))
    short = (made / "found.md").read_text().partition("## In short")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0].strip("| ") for line in short.splitlines() if line.startswith("| ")]
    assert rows[2:7] == [
        "**titan-mac**",
        "best baseline",
        "gain of titan-mac over it",
        "gain over the best baseline on phase-randomized data",
        "gain over linear autoregression on phase-randomized data",
    ]
    assert "minus titan-mac-backbone-zeroed (backbone zeroed)" in rows


def test_differences_are_taken_within_subjects(made: Path) -> None:
    content = json.loads((made / "found.json").read_text())
    scores = {(row["model"], row["lead_time_points"]): row["skill_ar"] for row in content["scores"]}
    rows = content["differences"]
    kinds = {row["model"]: row["kind"] for row in content["scores"]}
    others = {name for name, kind in kinds.items() if kind != "oracle_reference"} - {"titan-mac"}
    assert {row["other"] for row in rows} == others
    assert {"var-online", "gru", "transformer-20", "soft-analog-160", "titan-mac-frozen"} < others
    for row in rows:
        expected = scores["titan-mac", row["lead_time_points"]] - scores[row["other"], row["lead_time_points"]]
        assert row["difference"] == pytest.approx(expected, abs=1e-5)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_what_is_done_is_not_done_again(made: Path) -> None:
    stages = json.loads((made / "output/provenance.json").read_text())["stages"]
    records = sorted((made / "output/models").glob("*/*/*/config.json"))
    assert len(records) == 9
    assert {"evaluate", "probe context-length"} <= set(stages)
    # The second round wrote the page again, and no model.
    assert max(path.stat().st_mtime for path in records) < (made / "found.json").stat().st_mtime - 1


def test_studies_of_one_table_are_pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways from one movie to the other, on the first fold of each, summed up on the page of all datasets."""
    ways = tuple(
        forecast_datasets.Way(name=f"to-{task}", tasks=("a", "b"), settings=(f"split.test=[{test}, task-{task}]",))
        for task, test in (("a", "sub-001"), ("b", "sub-002"))
    )
    brief = forecasts.EXAMPLES["unseen-one"].settings
    example = forecasts.Example(
        title="Both ways", recordings="x", settings_file="films.yaml", ways=ways, settings=brief
    )
    monkeypatch.setitem(forecasts.EXAMPLES, "unseen-one", example)
    source = write_parcels(tmp_path / "parcels", tasks=("a", "b", "c"))
    given = ["--source", str(source), *flags(SMALL), "--work-dir", str(tmp_path / "work")]
    forecasts.main(["unseen-one", *given])
    content = json.loads((tmp_path / "work/forecasts_unseen-one.json").read_text())
    assert content["protocol"] == "strict" and content["scores"][0]["n_subjects"] == 2
    by_study = pd.DataFrame(content["ways"])
    assert set(by_study["study"]) == {"to-a", "to-b"}
    for row in content["scores"][:2]:
        of_lead_time = by_study[by_study["lead_time_points"] == row["lead_time_points"]]
        assert row["skill_ar"] == pytest.approx(of_lead_time["skill_ar"].mean())
    page = (tmp_path / "work/forecasts.md").read_text()
    assert "## Both ways\n\n2 subjects, 2 runs, 1 seeds; protocol strict." in page
    assert "Not made: sitcom, sitcom-trained, episode2," in page


def test_a_person_tested_twice_counts_once() -> None:
    values = {("titan-mac", "01"): [0.5, 0.1], ("titan-mac", "02"): [0.2], ("titan-mac", "03"): [0.6]}
    values |= {("ar", subject): [0.0] for subject in ("01", "02", "03")}
    rows = [
        {"model": model, "kind": "baseline" if model == "ar" else "model", "subject": subject}
        | {"lead_time_points": 1, "n_runs": 1, "n_seeds": 3}
        | dict.fromkeys(forecasts.METRICS, value)
        for (model, subject), found in values.items()
        for value in found
    ]
    scores, differences = forecasts.tables_of(pd.DataFrame(rows), {"Resamples": 1000, "Seed": 0})
    [ours] = scores[scores["model"] == "titan-mac"].to_dict("records")
    assert (ours["n_subjects"], ours["n_runs"]) == (3, 4)
    low, high = bootstrap_interval(np.array([0.3, 0.2, 0.6]), n_resamples=1000, seed=0)
    assert [ours[f"skill_ar{end}"] for end in ("", "_low", "_high")] == pytest.approx([1.1 / 3, low, high])
    [difference] = differences.to_dict("records")
    assert difference["other"] == "ar" and difference["difference"] == pytest.approx(1.1 / 3)


def test_the_best_baseline_is_chosen_by_lead_time() -> None:
    rows = [("titan-mac", "model", 1, 0.5), ("titan-mac", "model", 6, 0.5), ("ar", "baseline", 1, 0.0)]
    rows += [("var", "baseline", 1, 0.2), ("ar", "baseline", 6, 0.0), ("var", "baseline", 6, -0.1)]
    table = pd.DataFrame(rows, columns=["model", "kind", "lead_time_points", "skill_ar"])
    assert forecast_pages.best_baselines(table) == {1: "var", 6: "ar"}


def test_tables_of_two_commits_are_marked() -> None:
    scores = pd.DataFrame(
        [
            {"model": model, "kind": kind, "lead_time_points": 1, "n_subjects": 3, "n_runs": 3, "n_seeds": 1}
            | {"skill_ar": value, "skill_ar_low": value, "skill_ar_high": value}
            for model, kind, value in (("titan-mac", "model", 0.1), ("ar", "baseline", 0.0))
        ]
    )
    gains = {"difference": [0.1], "difference_low": [0.1], "difference_high": [0.1]}
    differences = pd.DataFrame({"model": ["titan-mac"], "other": ["ar"], "lead_time_points": [1]} | gains)
    page = {"title": "One", "command": "c", "protocol": "subject", "parts": [], "models_of_commits": ["a"]}
    page |= {"scores": scores, "differences": differences}
    page |= {"surrogate_scores": scores, "surrogate_differences": differences}
    together = forecast_pages.summary_page({"x": page | {"commit": "a"}, "y": page | {"commit": "a"}}, [])
    assert "Commit: a." in together and "NOT OF ONE COMMIT" not in together
    apart = forecast_pages.summary_page({"x": page | {"commit": "a"}, "y": page | {"commit": "b"}}, [])
    assert "Commit: a, b. THESE TABLES ARE NOT OF ONE COMMIT." in apart
    # A table without a control on phase-randomized data has no rows for it.
    assert "gain over linear autoregression on phase-randomized data" in together
    without = page | {"commit": "a", "surrogate_scores": [], "surrogate_differences": []}
    assert "gain over linear autoregression on" not in forecast_pages.summary_page({"x": without}, [])


def test_every_dataset_has_recordings_and_settings() -> None:
    folder = Path(__file__).parents[2]
    studies = yaml.safe_load((folder / "pipelines/studies.yaml").read_text())
    used = {Path(str(forecasts.EXAMPLES[name].settings_file)).stem for name in forecasts.REAL}
    assert used <= studies.keys()
    data = folder.parent / "shared/data"
    if not data.is_dir():
        pytest.skip(f"real recordings are not at {data}")
    recorded = {forecasts.EXAMPLES[name].recordings for name in forecasts.REAL}
    assert recorded == {path.name for path in data.iterdir() if path.is_dir()}


def test_a_failed_stage_stops(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="nowhere"):
        forecasts.main(["sitcom", "--source", str(tmp_path / "nowhere"), "--work-dir", str(tmp_path / "work")])


def test_all_says_which_tables_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "REAL", ("haxby",))
    given = ["--source", str(tmp_path / "nowhere"), "--work-dir", str(tmp_path / "work")]
    with pytest.raises(BenchmarkError, match="haxby"):
        forecasts.main(["all", *given])
    assert "nowhere" in (tmp_path / "work/haxby.log").read_text()
