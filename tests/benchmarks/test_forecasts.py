"""The table of the forecast benchmark, whole, from a small study; how good the forecasts are is not tested here."""

import json
from pathlib import Path

import forecasts
import numpy as np
import pandas as pd
import pytest

from titan_neuro.errors import InputNotFoundError

# The smallest of everything, and every stage.
SMALL = [
    *("model.backbone.dim=8", "model.backbone.n_layers=1", "model.backbone.n_heads=2", "model.horizons=[1, 2]"),
    *("model.recall.width=8", "model.lookahead.n_lags=2", "training.max_epochs=1", "training.steps_per_epoch=1"),
    *("model.backbone.tokens_per_time_point=1", "probe.context_length.origins_per_run=4"),
]
SWIN = ["model.tokenizer.embed_dim=4", "model.tokenizer.num_heads=[1, 2, 4, 8]", "model.tokenizer.token_grid=[1, 1, 1]"]


def write_parcels(folder: Path) -> Path:
    """Three subjects, 200 time points of 12 parcels: half a stimulus, half noise."""
    rng = np.random.default_rng(0)
    stimulus = rng.normal(size=(200, 12)).cumsum(axis=0)
    stimulus -= stimulus.mean(axis=0)
    for subject in ("01", "02", "03"):
        func = folder / f"sub-{subject}/func"
        func.mkdir(parents=True)
        stem = func / f"sub-{subject}_task-film_seg-Twelve_stat-mean_timeseries"
        series = stimulus / stimulus.std(axis=0) + rng.normal(size=stimulus.shape)
        columns = [f"parcel-{number}" for number in range(12)]
        pd.DataFrame(series, columns=columns).to_csv(f"{stem}.tsv", sep="\t", index=False)
        Path(f"{stem}.json").write_text(json.dumps({"RepetitionTime": 1.0, "SamplingFrequency": 1.0}))
    (folder / "dataset_description.json").write_text(
        json.dumps({"Name": "parcels", "BIDSVersion": "1.9.0", "DatasetType": "derivative"})
    )
    return folder


@pytest.fixture(scope="module", params=["sitcom", pytest.param("synthetic", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("forecasts")
    small = forecasts.Example(
        title="A small synthetic dataset",
        simulated=("n_subjects=3", "n_runs=1", "volume_scale=0.25", "voxel_size_mm=30"),
    )
    given = ["--source", str(write_parcels(work / "parcels"))] if request.param == "sitcom" else []
    settings = [*SMALL, *(SWIN if request.param == "synthetic" else [])]
    given += [part for setting in settings for part in ("--set", setting)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(forecasts.EXAMPLES, "synthetic", small)
        for _ in range(2):
            forecasts.main([request.param, *given, "--work-dir", str(work), "--output", str(work / "found.json")])
    return work


def test_the_page_has_the_whole_table(made: Path) -> None:
    content = json.loads((made / "found.json").read_text())
    [path] = made.glob("output/group/*_desc-forecast_scores.tsv")
    table = pd.read_csv(path, sep="\t")
    assert [row["model"] for row in content["scores"]] == table["model"].tolist()
    assert content["scores"][0]["skill_ar"] == pytest.approx(table["skill_ar"][0])
    page = (made / "found.md").read_text()
    for name in table["model"].unique():
        assert f"| {name} " in page
    assert content["summary"] in page
    assert content["parts"].startswith("Averaged over lead times") and content["parts"] in page
    assert "| whole run " in page and "| 20 time points (20 s) " in page and "| 80 time points (80 s) " in page
    assert "## Rollouts" in page
    assert str(made) not in page and content["date"] in page


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


def test_a_failed_stage_stops(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="nowhere"):
        forecasts.main(["sitcom", "--source", str(tmp_path / "nowhere"), "--work-dir", str(tmp_path / "work")])
